"""A stack whose model's folder changes under a running model server, and clients that check each answer."""

import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from model_server.catalogue.model_spec import read_model
from tests.support import http
from tests.support.stack import Stack, shade
from tests.support.waiting import eventually

MODEL = "told"


def start(stack: Stack) -> "subprocess.Popen[bytes]":
    """Start a model server and wait until it serves."""
    before = stack.ready_workers()
    server = stack.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: bool(stack.ready_workers() - before), within_s=30)
    return server


def folder(stack: Stack) -> Path:
    """The model's folder."""
    return Path(stack.environment["MODELS_DIR"]) / MODEL


def version(folder: Path) -> str:
    """The version of a folder as it is."""
    return read_model(folder.parent, folder.name).version


def shown(stack: Stack) -> dict[str, Any]:
    """What /models says of the model."""
    models = http.get(f"{stack.url}/models", timeout=5).json()["models"]
    (shown,) = [model for model in models if model["model"] == MODEL]
    return dict(shown)


def running(stack: Stack) -> list[str]:
    """The version of each worker of the model."""
    return [each["version"] for each in shown(stack)["workers"]]


def served(stack: Stack) -> str:
    """The version that the card names."""
    return str(shown(stack)["model_version"])


def post(stack: Stack, value: int, **headers: str) -> httpx.Response:
    """Ask for a shade."""
    files = {"image": ("x.png", shade(value))}
    return http.post(f"{stack.url}/predict?model={MODEL}", files=files, headers=headers, timeout=30)


PAUSE_S = 0.08
"""Between a client's requests: six without a pause take both cores, which what is tested needs. Of the 65 a
second that are left some meet a fault of 30 ms."""


@dataclass
class Load:
    """Clients that ask again and again; every answer is kept."""

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
                answer = post(self.stack, value)
                self.answers.append((value, answer.status_code, answer.json()))
            except (httpx.HTTPError, ValueError) as error:
                self.errors.append(error)
            self._stopping.wait(PAUSE_S)

    def check(self, marks: dict[str, int]) -> set[str]:
        """Every answer is good, and right for the version that it names. Returns the versions."""
        assert not self.errors
        assert len(self.answers) > 50
        for value, status, body in self.answers:
            assert status == 200, body
            check(value, body, marks)
        return {body["model_version"] for _, _, body in self.answers}


def check(value: int, body: dict[str, Any], marks: dict[str, int]) -> None:
    """The answer is right for the version that it names, and has no notice."""
    assert body["predictions"][0]["label"] == str((value + marks[body["model_version"]]) % 256), body
    assert "notice" not in body


def log(stack: Stack) -> str:
    """What the model servers have logged."""
    return (stack.folder / "model_server.log").read_text()
