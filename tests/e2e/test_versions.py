"""A model's folder changes under a running model server: what its clients get, on real processes."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.connection import connect
from tests.e2e import versions
from tests.e2e.told_server import write
from tests.e2e.versions import MODEL
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def _states(stack: Stack) -> dict[str, str]:
    """Of each version that has a worker."""
    return {each["version"]: each["state"] for each in versions.shown(stack)["workers"]}


def _by_files(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)


def _by_folder(folder: Path, change: Callable[[Path], None]) -> None:
    """A new folder is renamed into the place of the old."""
    new, old = folder.with_name(".new"), folder.with_name(".old")
    shutil.copytree(folder, new)
    change(new)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def _slowly(folder: Path, change: Callable[[Path], None]) -> None:
    """Each file is copied over the old one byte by byte, as a slow line would."""
    new = folder.with_name(".new")
    shutil.copytree(folder, new)
    change(new)
    for path in sorted(new.iterdir()):
        content = path.read_bytes()
        if content == (folder / path.name).read_bytes():
            continue
        with (folder / path.name).open("wb", buffering=0) as file:
            for start in range(0, len(content), len(content) // 4 + 1):
                file.write(content[start : start + len(content) // 4 + 1])
                time.sleep(0.7)
    shutil.rmtree(new)


def test_changed_weights_are_taken_up_again_and_again_and_no_request_fails(told: Stack) -> None:
    folder = versions.folder(told)
    versions.start(told)
    versions.start(told)
    marks = {versions.version(folder): 0}
    with versions.Load(told) as load:
        for mark, replace in enumerate((_by_files, _by_folder, _slowly, _by_files, _by_folder), start=1):
            replace(folder, lambda place, mark=mark: write(place, mark=mark))  # type: ignore[misc]
            version = versions.version(folder)
            marks[version] = mark
            eventually(
                lambda version=version: set(versions.running(told)) == {version},  # type: ignore[misc]
                within_s=30,
            )
    assert load.check(marks) == set(marks)
    log = versions.log(told)
    assert "refused" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("change", [{"side": 12}, {"fit": "crop"}])
def test_another_input_is_taken_up_and_what_was_prepared_for_the_old_is_answered_by_the_old(
    told: Stack, change: dict[str, Any]
) -> None:
    """Under load, with a backlog of jobs that are polled: their uploads are no more when it changes."""
    folder = versions.folder(told)
    # Results are looked at when all is over, which takes a minute and more where others have the cores.
    told.environment |= {"BATCH_SIZE": "4", "REQUEST_TIMEOUT_S": "10", "RESULT_TTL_S": "600"}
    write(folder, delay_s=0.1)
    told.stop()  # for the settings
    told.start_web()
    versions.start(told)
    old = versions.version(folder)
    polled: list[tuple[int, str]] = []
    with versions.Load(told) as load:
        for value in range(60):
            answer = versions.post(told, value, Prefer="respond-async")
            assert answer.status_code == 202
            polled.append((value, told.url + answer.headers["Location"]))
        write(folder, mark=100, delay_s=0.1, **change)
        new = versions.version(folder)
        eventually(lambda: versions.served(told) == new, within_s=30)
        # The new one serves a moment before the old one says that it goes.
        eventually(lambda: _states(told) == {old: "draining", new: "ready"})
        for value in range(60, 70):
            answer = versions.post(told, value, Prefer="respond-async")
            polled.append((value, told.url + answer.headers["Location"]))
        eventually(
            lambda: versions.running(told) == [new],
            within_s=60,
        )
    marks = {old: 0, new: 100}
    assert load.check(marks) == {old, new}
    for value, address in polled:
        eventually(lambda address=address: http.get(address).status_code == 200)  # type: ignore[misc]
        versions.check(value, http.get(address).json(), marks)


def test_what_was_prepared_for_a_version_that_is_gone_is_answered_and_says_so(told: Stack) -> None:
    folder = versions.folder(told)
    write(folder, delay_s=3600)
    server = versions.start(told)
    accepted = [versions.post(told, value, Prefer="respond-async") for value in range(8)]
    server.kill()
    server.wait(20)
    write(folder, mark=5, side=12)
    versions.start(told)
    for value, answer in enumerate(accepted):
        address = told.url + answer.headers["Location"]
        eventually(lambda address=address: http.get(address).status_code == 200)  # type: ignore[misc]
        body = http.get(address).json()
        assert body["predictions"][0]["label"] == str(value + 5)
        assert "earlier version" in body["notice"]


@pytest.mark.parametrize("side", [8, 12])
def test_of_two_versions_on_two_servers_the_newest_counts_until_it_goes(
    told: Stack, tmp_path: Path, side: int
) -> None:
    """A rolling update, stopped half-way, and taken back by a kill; then done."""
    first = versions.version(versions.folder(told))
    old = versions.start(told)
    write(tmp_path / "new" / MODEL, mark=100, side=side)
    second = versions.version(tmp_path / "new" / MODEL)
    marks = {first: 0, second: 100}
    with versions.Load(told) as load:
        told.environment["MODELS_DIR"] = str(tmp_path / "new")
        new = versions.start(told)
        for _ in range(60):  # several renewals of both
            assert versions.served(told) == second
            time.sleep(0.05)
        new.kill()
        eventually(lambda: versions.served(told) == first)
        _answered_by(told, first)
        new = versions.start(told)
        eventually(lambda: versions.served(told) == second)
        old.terminate()
        assert old.wait(20) == 0
        _answered_by(told, second)
    if side == 8:
        assert load.check(marks) == {first, second}
    else:  # what the killed one alone could run, the other has scaled
        assert not load.errors
        assert {status for _, status, _ in load.answers} == {200}


def _answered_by(stack: Stack, version: str) -> None:
    eventually(lambda: versions.post(stack, 1).json().get("model_version") == version)


def test_many_versions_leave_neither_threads_nor_connections_behind(
    told: Stack, own_redis: RedisServer
) -> None:
    folder = versions.folder(told)
    server = versions.start(told)

    def change(mark: int) -> tuple[int, int]:
        write(folder, mark=mark)
        eventually(lambda: versions.running(told) == [versions.version(folder)])
        versions.post(told, 1)
        time.sleep(1.5)
        with connect(own_redis.url, timeout_s=5) as client:
            return len(client.client_list()), len(os.listdir(f"/proc/{server.pid}/task"))

    (connections, threads), *_, last = [change(mark) for mark in range(1, 6)]
    assert last[0] <= connections + 1
    assert last[1] <= threads
