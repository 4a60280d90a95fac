"""A model's folder changes under a running model server: what its clients get, on real processes."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.connection import connect
from model_server.catalogue import read_model
from tests.conftest import RedisServer
from tests.e2e.conftest import ROOT, Stack, shade
from tests.e2e.told_server import write
from tests.fakes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODEL = "told"


@pytest.fixture
def told(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack with a model of this folder's own: its web tier up, no model server yet."""
    made = Stack(tmp_path, own_redis.url, MODEL)
    made.environment["MODELS_DIR"] = str(tmp_path / "models")
    write(tmp_path / "models" / MODEL)
    try:
        made.start_web()
        yield made
    finally:
        made.stop()


def _start(stack: Stack) -> "subprocess.Popen[bytes]":
    before = stack.ready_workers()
    server = stack.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: bool(stack.ready_workers() - before), within_s=30)
    return server


def _folder(stack: Stack) -> Path:
    return Path(stack.environment["MODELS_DIR"]) / MODEL


def _version(folder: Path) -> str:
    return read_model(folder.parent, folder.name).version


def _shown(stack: Stack) -> dict[str, Any]:
    models = httpx.get(f"{stack.url}/models", trust_env=False, timeout=5).json()["models"]
    (shown,) = [model for model in models if model["model"] == MODEL]
    return dict(shown)


def _states(stack: Stack) -> dict[str, str]:
    """Of each version that has a worker."""
    return {each["version"]: each["state"] for each in _shown(stack)["workers"]}


def _served(stack: Stack) -> str:
    """The version that the card names."""
    return str(_shown(stack)["model_version"])


def _post(stack: Stack, value: int, **headers: str) -> httpx.Response:
    files = {"image": ("x.png", shade(value))}
    return httpx.post(
        f"{stack.url}/predict?model={MODEL}", files=files, headers=headers, trust_env=False, timeout=30
    )


@dataclass
class Load:
    """Clients that ask without a pause; every answer is kept."""

    stack: Stack
    clients: int = 6
    answers: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    """Shade, status, body."""
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        value = number
        while not self._stopping.is_set():
            value = (value + 7) % 256
            try:
                answer = _post(self.stack, value)
                self.answers.append((value, answer.status_code, answer.json()))
            except (httpx.HTTPError, ValueError) as error:
                self.errors.append(error)

    def check(self, marks: dict[str, int]) -> set[str]:
        """Every answer is good, and right for the version that it names. Returns the versions."""
        assert not self.errors
        assert len(self.answers) > 50
        for value, status, body in self.answers:
            assert status == 200, body
            _check(value, body, marks)
        return {body["model_version"] for _, _, body in self.answers}


def _check(value: int, body: dict[str, Any], marks: dict[str, int]) -> None:
    assert body["predictions"][0]["label"] == str((value + marks[body["model_version"]]) % 256), body
    assert "notice" not in body


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
    folder = _folder(told)
    _start(told)
    _start(told)
    marks = {_version(folder): 0}
    with Load(told) as load:
        for mark, replace in enumerate((_by_files, _by_folder, _slowly, _by_files, _by_folder), start=1):
            replace(folder, lambda place, mark=mark: write(place, mark=mark))  # type: ignore[misc]
            version = _version(folder)
            marks[version] = mark
            eventually(
                lambda version=version: {each["version"] for each in _shown(told)["workers"]} == {version},  # type: ignore[misc]
                within_s=30,
            )
    assert load.check(marks) == set(marks)
    log = _log(told)
    assert "refused" not in log
    assert "Traceback" not in log


def _log(stack: Stack) -> str:
    return (stack._folder / "model_server.log").read_text()


@pytest.mark.parametrize("change", [{"side": 12}, {"fit": "crop"}])
def test_another_input_is_taken_up_and_what_was_prepared_for_the_old_is_answered_by_the_old(
    told: Stack, change: dict[str, Any]
) -> None:
    """Under load, with a backlog of jobs that are polled: their uploads are no more when it changes."""
    folder = _folder(told)
    told.environment |= {"BATCH_SIZE": "4", "REQUEST_TIMEOUT_S": "5"}
    write(folder, delay_s=0.1)
    told.stop()  # for the settings
    told.start_web()
    _start(told)
    old = _version(folder)
    polled: list[tuple[int, str]] = []
    with Load(told) as load:
        for value in range(60):
            answer = _post(told, value, Prefer="respond-async")
            assert answer.status_code == 202
            polled.append((value, told.url + answer.headers["Location"]))
        write(folder, mark=100, delay_s=0.1, **change)
        new = _version(folder)
        eventually(lambda: _served(told) == new, within_s=30)
        # The new one serves a moment before the old one says that it goes.
        eventually(lambda: _states(told) == {old: "draining", new: "ready"})
        for value in range(60, 70):
            answer = _post(told, value, Prefer="respond-async")
            polled.append((value, told.url + answer.headers["Location"]))
        eventually(
            lambda: [each["version"] for each in _shown(told)["workers"]] == [new],
            within_s=60,
        )
    marks = {old: 0, new: 100}
    assert load.check(marks) == {old, new}
    for value, address in polled:
        eventually(lambda address=address: httpx.get(address, trust_env=False).status_code == 200)  # type: ignore[misc]
        _check(value, httpx.get(address, trust_env=False).json(), marks)


def test_what_was_prepared_for_a_version_that_is_gone_is_answered_and_says_so(told: Stack) -> None:
    folder = _folder(told)
    write(folder, delay_s=3600)
    server = _start(told)
    accepted = [_post(told, value, Prefer="respond-async") for value in range(8)]
    server.kill()
    server.wait(20)
    write(folder, mark=5, side=12)
    _start(told)
    for value, answer in enumerate(accepted):
        address = told.url + answer.headers["Location"]
        eventually(lambda address=address: httpx.get(address, trust_env=False).status_code == 200)  # type: ignore[misc]
        body = httpx.get(address, trust_env=False).json()
        assert body["predictions"][0]["label"] == str(value + 5)
        assert "earlier version" in body["notice"]


def test_a_broken_folder_is_refused_in_words_and_taken_up_once_it_is_mended(told: Stack) -> None:
    folder = _folder(told)
    _start(told)
    first = _version(folder)
    toml = (folder / "model.toml").read_text()
    marks = {first: 0}
    with Load(told) as load:
        for name, text, words in (
            ("model.toml", toml.replace("stretch", "streach"), "streach"),
            ("network.json", json.dumps({"fails": "it is broken"}), "it is broken"),
            ("network.json", "{", "can't be run"),
        ):
            kept = (folder / name).read_text()
            (folder / name).write_text(text)
            eventually(lambda words=words: words in _shown(told)["reason"])  # type: ignore[misc]
            assert (_shown(told)["state"], _served(told)) == ("ready", first)
            assert f"version {first} serves on" in _shown(told)["reason"].lower()
            assert words in _log(told)
            (folder / name).write_text(kept)
            eventually(lambda: _shown(told)["reason"] == "")
        gone = folder.with_name(".gone")
        folder.rename(gone)
        eventually(lambda: "gone" in _shown(told)["reason"])
        gone.rename(folder)
        write(folder, mark=9)
        marks[_version(folder)] = 9
        eventually(lambda: (_served(told), _shown(told)["reason"]) == (_version(folder), ""))
    assert load.check(marks) == set(marks)


def test_a_model_that_failed_to_load_is_served_once_its_folder_is_mended(told: Stack) -> None:
    folder = _folder(told)
    write(folder, fails="no weights")
    told.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: told.answers("/models") and _state(told) == "failed", within_s=30)
    assert _post(told, 1).status_code == 503
    write(folder, fails="still none")
    eventually(lambda: "still none" in _shown(told)["reason"])
    write(folder, mark=3)
    eventually(lambda: _state(told) == "ready")
    assert _post(told, 1).json()["predictions"][0]["label"] == "4"


def _state(stack: Stack) -> str:
    models = httpx.get(f"{stack.url}/models", trust_env=False, timeout=5).json()["models"]
    return str(models[0]["state"]) if models else ""


@pytest.mark.parametrize("side", [8, 12])
def test_of_two_versions_on_two_servers_the_newest_counts_until_it_goes(
    told: Stack, tmp_path: Path, side: int
) -> None:
    """A rolling update, stopped half-way, and taken back by a kill; then done."""
    first = _version(_folder(told))
    old = _start(told)
    write(tmp_path / "new" / MODEL, mark=100, side=side)
    second = _version(tmp_path / "new" / MODEL)
    marks = {first: 0, second: 100}
    with Load(told) as load:
        told.environment["MODELS_DIR"] = str(tmp_path / "new")
        new = _start(told)
        for _ in range(60):  # several renewals of both
            assert _served(told) == second
            time.sleep(0.05)
        new.kill()
        eventually(lambda: _served(told) == first)
        _answered_by(told, first)
        new = _start(told)
        eventually(lambda: _served(told) == second)
        old.terminate()
        assert old.wait(20) == 0
        _answered_by(told, second)
    if side == 8:
        assert load.check(marks) == {first, second}
    else:  # what the killed one alone could run, the other has scaled
        assert not load.errors
        assert {status for _, status, _ in load.answers} == {200}


def _answered_by(stack: Stack, version: str) -> None:
    eventually(lambda: _post(stack, 1).json().get("model_version") == version)


def test_a_real_network_is_taken_up_refused_when_it_is_cut_short_and_mended(told: Stack) -> None:
    """`digits` on the product's own engine: its labels, then its weights, file by file."""
    folder = _folder(told)
    shutil.rmtree(folder)
    shutil.copytree(ROOT / "models" / "digits", folder)
    told.environment["CACHE_DIR"] = str(told._folder / "engines")
    told.start("model_server", log="model_server")
    eventually(lambda: told.answers(f"/readyz?model={MODEL}"), within_s=90)
    first, seven = _version(folder), (ROOT / "docs" / "digit-7.png").read_bytes()

    def ask() -> tuple[str, str]:
        files = {"image": ("7.png", seven)}
        url = f"{told.url}/predict?model={MODEL}"
        body = httpx.post(url, files=files, trust_env=False, timeout=30).json()
        return body["predictions"][0]["label"], body["model_version"]

    assert ask() == ("7", first)
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels.replace("7,7,7", "7,7,seven"))
    eventually(lambda: _served(told) == _version(folder), within_s=60)
    second = _version(folder)
    assert ask() == ("seven", second)
    network = (folder / "digits.keras").read_bytes()
    (folder / "digits.keras").write_bytes(network[: len(network) // 2])
    eventually(lambda: f"Version {second} serves on" in _shown(told)["reason"], within_s=60)
    assert ask() == ("seven", second)
    (folder / "digits.keras").write_bytes(network)
    (folder / "labels.csv").write_text(labels)
    eventually(lambda: (_served(told), _shown(told)["reason"]) == (first, ""), within_s=60)
    assert ask() == ("7", first)


def test_many_versions_leave_neither_threads_nor_connections_behind(
    told: Stack, own_redis: RedisServer
) -> None:
    folder = _folder(told)
    server = _start(told)

    def change(mark: int) -> tuple[int, int]:
        write(folder, mark=mark)
        eventually(lambda: [each["version"] for each in _shown(told)["workers"]] == [_version(folder)])
        _post(told, 1)
        time.sleep(1.5)
        with connect(own_redis.url, timeout_s=5) as client:
            return len(client.client_list()), len(os.listdir(f"/proc/{server.pid}/task"))

    (connections, threads), *_, last = [change(mark) for mark in range(1, 6)]
    assert last[0] <= connections + 1
    assert last[1] <= threads
