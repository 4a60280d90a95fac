"""One Compose project on a real Docker engine, built from a copy of the tracked files, and load for it."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from settings import Settings
from tests.support import ROOT, http
from tests.support.stack import free_port
from tests.support.waiting import eventually

MODELS = ("digits", "resnet50")
MODEL_SERVERS = 2

_STROKES: dict[str, list[tuple[tuple[int, int], ...]]] = {
    "0": [((40, 30), (60, 25), (80, 30), (88, 60), (80, 92), (60, 98), (40, 92), (32, 60), (40, 30))],
    "1": [((60, 20), (60, 100))],
    "4": [((40, 20), (34, 64), (88, 64)), ((76, 20), (76, 100))],
    "7": [((30, 25), (90, 25), (55, 100))],
}


def digit(label: str) -> bytes:
    """A digit in strokes of a pen, as PNG."""
    picture = Image.new("L", (120, 120), "white")
    for stroke in _STROKES[label]:
        ImageDraw.Draw(picture).line(stroke, fill="black", width=9, joint="curve")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


DIGITS = {label: digit(label) for label in _STROKES}


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; fails with the end of all it said."""
    ended = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=1200
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {(ended.stdout + ended.stderr)[-3000:]}"
    return ended.stdout


def compose_command() -> list[str]:
    """Compose 1 or 2, whichever is there; skips without an engine."""
    if not _works("docker", "version"):
        pytest.skip("NOT RUN: no Docker engine can be reached (`docker version` says why)")
    for command in (["docker-compose"], ["docker", "compose"]):
        if _works(*command, "version"):
            return command
    pytest.skip("NOT RUN: neither docker-compose nor `docker compose` is installed")


def _works(*command: str) -> bool:
    return (
        bool(shutil.which(command[0]))
        and not subprocess.run(command, check=False, capture_output=True).returncode
    )


def copy_of_the_project(folder: Path) -> Path:
    """What a fresh clone of the working tree would have, and nothing that lies about."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Load:
    """Counts every answer that clients get, by what was right or wrong with it.

    Its clients do as they are told: refused for a queue that is full, they come again after Retry-After. How
    much one model server can do while its fellow is gone depends on the machine.
    """

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self._url = url
        self._counting = threading.Lock()

    def send(self, client: httpx.Client, number: int) -> None:
        """Every fifth goes to resnet50, the others are digits whose label is known."""
        label = list(DIGITS)[number % len(DIGITS)]
        model = "resnet50" if number % 5 == 0 else "digits"
        answer = "right"
        try:
            while (response := self._ask(client, model, label)).status_code == 503:
                if response.json()["error"]["code"] != "overloaded":
                    break
                time.sleep(float(response.headers["Retry-After"]))
            if response.status_code != 200:
                answer = f"{response.status_code} {response.text[:300]}"
            elif model == "digits" and (said := response.json()["predictions"][0]["label"]) != label:
                answer = f"{said} for a {label}"
        except httpx.HTTPError as error:
            answer = repr(error)
        with self._counting:
            self.answers[answer] += 1

    def _ask(self, client: httpx.Client, model: str, label: str) -> httpx.Response:
        return client.post(f"{self._url}/predict", params={"model": model}, files={"image": DIGITS[label]})

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """Keep `clients` busy meanwhile; all that was sent has been answered at the end."""
        over = threading.Event()

        def keep_sending(client: httpx.Client, number: int) -> None:
            while not over.is_set():
                self.send(client, number)
                number += clients

        with http.client(timeout=30) as client, ThreadPoolExecutor(clients) as pool:
            sending = [pool.submit(keep_sending, client, first) for first in range(clients)]
            try:
                yield
            finally:
                over.set()
        for each in sending:
            each.result()


class Stack:
    """The containers of one Compose project."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.port = free_port()
        self.grpc_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._project = f"bwtest{uuid.uuid4().hex[:8]}"
        self._command = [*command, "-p", self._project]
        ours = {field.name.upper() for field in dataclasses.fields(Settings)}
        self.environment = {name: value for name, value in os.environ.items() if name not in ours} | {
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "RESNET50_WEIGHTS": "random",
        }

    def compose(self, *arguments: str) -> str:
        """Run Compose on this project."""
        return run(*self._command, *arguments, cwd=self.folder, env=self.environment)

    def up(self, *arguments: str) -> None:
        """Bring everything up, and wait until every model is served by every model server."""
        self.compose("up", "-d", "--scale", f"model_server={MODEL_SERVERS}", *arguments)
        eventually(self._all_ready, within_s=400)

    def down(self) -> None:
        """Take away containers, networks, volumes and images."""
        self.compose("down", "-v", "--rmi", "local", "--remove-orphans", "-t", "5")

    def containers(self, service: str = "") -> list[str]:
        """The ids of the containers, of one service or of all."""
        # Compose itself takes a second of a core for it.
        labels = {"project": self._project, "oneoff": "False"} | ({"service": service} if service else {})
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return run("docker", "ps", "--all", "--quiet", "--no-trunc", *filters).split()

    def get(self, path: str) -> httpx.Response:
        """One GET."""
        return http.get(self.url + path, timeout=10)

    def answers(self, path: str) -> bool:
        """Whether a GET gives 200."""
        try:
            return self.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def workers(self, model: str) -> list[dict[str, Any]]:
        """The live workers of a model, as /models shows them."""
        try:
            models = self.get("/models").json().get("models", [])
        except httpx.HTTPError:
            return []
        return next((each["workers"] for each in models if each["model"] == model), [])

    def queue_length(self, model: str) -> int:
        """Jobs that wait for a model, as /models shows them."""
        models = self.get("/models").json()["models"]
        return next(int(each["queue_length"]) for each in models if each["model"] == model)

    def load(self) -> Load:
        """Clients of this stack."""
        return Load(self.url)

    def _all_ready(self) -> bool:
        time.sleep(0.2)
        return all(
            [worker["state"] for worker in self.workers(model)] == ["ready"] * MODEL_SERVERS
            for model in MODELS
        )


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of a container."""
    return dict(json.loads(run("docker", "inspect", container))[0])
