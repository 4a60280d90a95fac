"""A run with faults as a whole: struck, accounted for, told, written, and its exit status."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli.main import main
from loadtest.cli.options import parse
from loadtest.sending.messages import Target, Traffic
from loadtest.sending.model_facts import Server
from tests.loadtest.running import run
from tests.loadtest.stub import Script, answer, prediction, stub_server
from tests.support import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # each starts a client process or two: half a second

SCRIPT = ROOT / "stress_test.py"
REFUSAL = {"success": False, "error": {"code": "overloaded", "message": "full"}, "status": 503}


def after_each_strike(marker: Path, said: Any) -> Script:  # noqa: ANN401 - as a script says
    """Answer rightly, but three requests with `said` each time that the fault has touched the marker."""
    lock, left = threading.Lock(), [0]

    def script(number: int) -> Any:  # noqa: ANN401
        with lock:
            if marker.exists():
                marker.unlink()
                left[0] = 3
            if left[0]:
                left[0] -= 1
                return said(number) if callable(said) else said
        return answer(number)

    return script


def struck(tmp_path: Path, said: Any, *arguments: str) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
    """Run three seconds of load while `said` is the answer to three requests after each strike."""
    marker = tmp_path / "marker"
    with stub_server(after_each_strike(marker, said)) as server:
        faults = ["--fault", f"touch {marker}", "--every", "300ms", "--rate", "50", "--duration", "3"]
        return run(server, tmp_path, *faults, "--draw-count", "1", *arguments, requests=None)


def of_fault(figures: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return dict(figures["faults"]["rows"][number])


def test_refusals_and_cut_connections_are_no_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("refused", REFUSAL), ("cut", None)):
        status, figures = struck(tmp_path, said)
        row = of_fault(figures)
        assert status == 0, name
        assert 2 <= row["strikes"] <= 13
        assert 0 < row[name] <= 3 * row["strikes"]
        assert row["right"] + row[name] == row["requests"]
        assert sum(each["requests"] for each in figures["faults"]["rows"]) == figures["points"][0]["requests"]
        assert 0 < row["back_s"] < 3
        assert "each ended once; 0 lost, 0 wrong." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ({**REFUSAL, "status": 500}, "lost"),
        (b"garbage", "wrong"),
        (lambda number: answer(number, predictions=[prediction("dog")]), "wrong"),
    ],
)
def test_what_is_lost_or_wrong_decides_the_exit_status(tmp_path: Path, said: Any, counted: str) -> None:  # noqa: ANN401
    status, figures = struck(tmp_path, said)
    assert status == 1
    assert of_fault(figures)[counted] > 0


def test_strikes_are_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, page = tmp_path / "ledger", tmp_path / "page.html"
    status, figures = struck(
        tmp_path, REFUSAL, "--fault", "sh -c 'echo oops >&2; exit 3'", "--ledger", str(ledger),
        "--report", str(page),
    )  # fmt: skip
    assert status == 1  # a strike that fails proves nothing
    strikes = figures["points"][0]["strikes"]
    assert len(strikes) >= 2
    assert [each["status"] for each in strikes] == ([0, 3] * len(strikes))[: len(strikes)]
    assert all(0 <= each["began"] <= each["ended"] < 60 for each in strikes)
    said = capsys.readouterr().out
    assert (
        said.count("exit status 3: oops") == of_fault(figures, 2)["troubled"] + 1
    )  # each at once, and summed
    written = [json.loads(line) for line in ledger.read_text().splitlines() if line.startswith('{"fault"')]
    assert [(each["fault"], each["status"]) for each in written] == [
        (each["fault"], each["status"]) for each in strikes
    ]
    text = page.read_text()
    assert "struck at" in text
    assert "exit 3" in text
    assert "strikes failed" in text
    assert main(["--check-ledger", str(ledger)]) == 0  # every request has its outcome
    checked = capsys.readouterr().out
    verdict = next(line for line in said.splitlines() if "each ended once" in line)
    assert verdict in checked  # the same account from the file alone


def test_many_failures_alike_do_not_end_a_load_that_was_struck(tmp_path: Path) -> None:
    """Without a strike 20 failures alike end it; here what fails is the second load, from its beginning."""
    marker = tmp_path / "marker"
    with stub_server(lambda n: {"status": 404} if marker.exists() else answer(n)) as server:
        load = ["--concurrency", "1,1", "--duration", "1", "--warmup", "0"]
        faults = ["--fault", f"touch {marker}", "--every", "300ms"]
        status, figures = run(server, tmp_path, *load, *faults, requests=None)
        assert [point["given_up"] for point in figures["points"]] == ["", ""]
        assert status == 1
        status, figures = run(server, tmp_path, *load, requests=None)
    assert len(figures["points"]) == 1
    assert "failed in the same way" in figures["points"][0]["given_up"]


def test_a_run_too_short_for_a_strike_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub_server() as server:
        status, figures = run(server, tmp_path, "--fault", "true", "--every", "1h")
    assert (status, of_fault(figures)["strikes"]) == (1, 0)
    assert "not every fault struck" in capsys.readouterr().out


def test_an_interrupt_lets_the_last_command_end(tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    command = f"sh -c 'touch {begun}; until [ -e {go_on} ]; do sleep 0.05; done'"
    with stub_server() as server:
        asked = ["--url", server.url, "--fault", command, "--every", "100ms", "--duration", "600"]
        figures = tmp_path / "figures.json"
        run = subprocess.Popen([sys.executable, str(SCRIPT), *asked, "--json", str(figures)])
        eventually(begun.exists)
        run.send_signal(signal.SIGINT)
        go_on.touch()
        assert run.wait(timeout=30) == 130
    strikes = json.loads(figures.read_text())["points"][0]["strikes"]
    assert [(each["status"], each["trouble"]) for each in strikes] == [(0, "")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fault", ""], "program not found"),
        (["--fault", "no-such-program-here -9"], "--fault no-such-program-here -9: program not found"),
        (["--fault", "true && false 'x"], "--fault true && false 'x: no closing quotation"),
        (["--fault", "true", "--fault", "true"], "twice"),
        (["--fault", "true", "--slo", "p99=1s"], "--fault disturbs the load"),
        (["--fault", "true", "--stable", "5%"], "--fault disturbs the load"),
        (["--fault", "true", "--every", "0"], "--every must be above 0"),
        (["--every", "often"], "--every: 'often' is not a duration"),
    ],
)
def test_wrong_usage(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


def test_the_queue_is_watched_again_once_a_failing_server_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.sending.model_facts._SAMPLE_S", 0.001)
    asked, noted = [0], []
    facts = Server._facts

    async def counted(self: Server) -> Any:  # noqa: ANN401
        try:
            return await facts(self)
        finally:
            asked[0] += 1

    async def watch(url: str) -> None:
        async with Server(Target(url)) as watcher:
            watching = asyncio.create_task(watcher.watch(Traffic(), lambda _, jobs: noted.append(jobs)))
            await asyncio.to_thread(eventually, lambda: asked[0] >= 2)
            server.models = {
                "default_model": "m",
                "models": [{"model": "m", "state": "ready", "task": "classification", "classes": 1, "top": 1,
                            "queue_length": 7}],
            }  # fmt: skip
            await asyncio.to_thread(eventually, lambda: bool(noted))
            watching.cancel()

    monkeypatch.setattr(Server, "_facts", counted)
    with stub_server() as server:
        server.models = {"status": 503}
        asyncio.run(watch(server.url))
    assert set(noted) == {7}


def test_a_ledger_tells_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels from a quiet run: the second run holds every answer to them, its first of a picture as well."""
    quiet = tmp_path / "quiet"
    with stub_server() as server:
        status, _ = run(server, tmp_path, "--ledger", str(quiet), "--draw-count", "12")
        assert status == 0
        status, _ = run(server, tmp_path, "--expect", str(quiet), "--draw-count", "12")
        assert status == 0
    with stub_server(lambda n: answer(n, predictions=[prediction("dog")])) as server:
        status, figures = run(server, tmp_path, "--expect", str(quiet), "--draw-count", "12")
    assert (status, figures["points"][0]["errors"]["wrong label"]["count"]) == (1, 12)
    broken = tmp_path / "broken"
    broken.write_bytes(b"".join(quiet.read_bytes().splitlines(keepends=True)[:-1]))
    with stub_server() as server:
        capsys.readouterr()
        assert main(["--url", server.url, "--expect", str(broken)]) == 2
    assert "no closing line" in capsys.readouterr().err
