"""The strikes: their order and pauses, and every way in which a command can go wrong."""

import asyncio
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from loadtest.faults.fault_commands import Faults
from loadtest.measuring.figures import Strike
from tests.support.waiting import eventually

SLEEP = f"{sys.executable} -c 'import time; time.sleep(600)'"


def strikes(
    *commands: str,
    count: int = 1,
    limit_s: float = 30.0,
    every_s: float = 0.001,
    meanwhile: Callable[[Faults], None] = lambda _: None,
) -> list[Strike]:
    """Strike so often, then end."""

    async def run() -> list[Strike]:
        found: list[Strike] = []

        def struck(strike: Strike) -> None:
            found.append(strike)
            if len(found) == count:
                faults.end()

        faults = Faults(commands, every_s=every_s, seed=1, struck=struck, limit_s=limit_s)
        faults.start()
        await asyncio.to_thread(meanwhile, faults)
        await faults.wait()
        assert faults.begun == len(found)
        return found

    return asyncio.run(run())


def test_commands_strike_in_turn_one_after_another() -> None:
    found = strikes("true", "sh -c 'exit 0'", count=5)
    assert [each.fault for each in found] == ["true", "sh -c 'exit 0'", "true", "sh -c 'exit 0'", "true"]
    assert all((each.status, each.trouble) == (0, "") and each.ended >= each.began for each in found)
    assert all(after.began >= before.ended for before, after in itertools.pairwise(found))


def test_pauses_are_seeded_and_within_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses(seed: int) -> list[float]:
        asked: list[float] = []

        async def wait_for(waited: object, timeout: float) -> None:
            asked.append(timeout)
            waited.close()  # type: ignore[attr-defined]
            if len(asked) == 50:
                faults.end()
                return
            raise TimeoutError

        async def struck(_: str) -> Strike:
            return Strike("a", 0.0)

        async def run() -> None:
            faults.start()
            await faults.wait()

        faults = Faults(["a"], every_s=10, seed=seed, struck=lambda _: None)
        monkeypatch.setattr(asyncio, "wait_for", wait_for)
        monkeypatch.setattr(faults, "_strike", struck)
        asyncio.run(run())
        return asked

    first = pauses(1)
    assert all(7.5 <= each <= 12.5 for each in first)
    assert max(first) > 11.5
    assert min(first) < 8.5
    assert pauses(1) == first
    assert pauses(2) != first


def test_no_shell_is_between(tmp_path: Path) -> None:
    marker = tmp_path / "a b"
    home = tmp_path / "$HOME; false"
    found = strikes(f"touch '{marker}' '{home}'")
    assert marker.exists()
    assert home.exists()
    assert found[0].status == 0


def test_a_failed_command_says_its_status_and_its_last_line() -> None:
    found = strikes("sh -c 'echo first; echo no such container >&2; exit 3'")
    assert (found[0].status, found[0].trouble) == (3, "exit status 3: no such container")
    assert strikes("sh -c 'echo on stdout; exit 1'")[0].trouble == "exit status 1: on stdout"
    assert strikes("false")[0].trouble == "exit status 1"


def test_a_command_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    found = strikes(str(tmp_path / "text"), str(tmp_path / "none"), count=2)
    assert [each.status for each in found] == [None, None]
    assert found[0].trouble == "it can't be started: Permission denied"
    assert found[1].trouble == "it can't be started: No such file or directory"


@pytest.mark.slow
def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    found = strikes(f"sh -c '{SLEEP.replace(chr(39), chr(34))} & echo $! > {pid}; wait'", limit_s=2)
    assert (found[0].status, found[0].trouble) == (-9, "killed, because it took longer than 2 s")
    child = int(pid.read_text())
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_what_a_command_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    found = strikes(f"sh -c '{SLEEP.replace(chr(39), chr(34))} & echo $! > {pid}'")
    left = psutil.Process(int(pid.read_text()))
    left.kill()
    assert (found[0].status, found[0].trouble) == (0, "")


def test_the_end_waits_for_a_command_in_mid_work(tmp_path: Path) -> None:
    """It may be about to mend what it broke."""
    begun, go_on = tmp_path / "begun", tmp_path / "go on"

    async def run() -> list[Strike]:
        found: list[Strike] = []
        command = f"sh -c 'touch {begun}; until [ -e \"{go_on}\" ]; do sleep 0.01; done'"
        faults = Faults([command], every_s=0.001, seed=1, struck=found.append)
        faults.start()
        await asyncio.to_thread(eventually, begun.exists)
        faults.end()
        waiting = asyncio.create_task(faults.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.touch()
        await waiting
        return found

    assert [(each.status, each.trouble) for each in asyncio.run(run())] == [(0, "")]


def test_abandoned_it_kills_the_command(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    async def run() -> list[Strike]:
        found: list[Strike] = []
        faults = Faults([f"sh -c 'touch {begun}; sleep 600'"], every_s=0.001, seed=1, struck=found.append)
        faults.start()
        await asyncio.to_thread(eventually, begun.exists)
        faults.end()
        faults.end(abandon=True)
        await faults.wait()
        return found

    found = asyncio.run(run())
    assert [(each.status, each.trouble) for each in found] == [(-9, "killed, because the run was stopped")]


def test_an_end_before_the_first_pause_is_over_strikes_never() -> None:
    async def run() -> int:
        faults = Faults(["true"], every_s=600, seed=1, struck=lambda _: None)
        faults.start()
        await asyncio.sleep(0)
        faults.end()
        await faults.wait()
        return faults.begun

    assert asyncio.run(run()) == 0
