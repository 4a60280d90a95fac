"""Fixtures for all tests: a private Redis of our own, and an environment without the user's settings.

Never flushes a Redis that was not started here.
"""

import contextlib
import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.connection import connect
from broker.keys import Keys
from deploy.serve.programs import redis_binary
from settings import Settings, weights


class RedisServer:
    """A redis-server of the tests' own, on a Unix socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again, over the same files) and wait until it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(redis_binary()),
                    *("--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", str(self.folder)),
                    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                    *("--maxmemory-policy", "noeviction"),
                ],
                stdout=log,
                stderr=log,
            )
        client = connect(self.url, timeout_s=5)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)
        client.close()

    def stop(self, *, kill: bool = False) -> None:
        """End it, by SIGTERM or SIGKILL."""
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(timeout=20)
        self.process = None


def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Settings):
        monkeypatch.delenv(field.name.upper(), raising=False)
    for name in weights(Settings.from_env({})):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    _clean_environment(monkeypatch)


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A context: a server in a folder of its own, both gone afterwards."""
    # Not tmp_path: a Unix socket's path has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="bw-"))
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop(kill=True)
    shutil.rmtree(folder)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for this test alone, to be killed and restarted."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(_shared_redis: RedisServer) -> Iterator[str]:
    """The URL of an empty Redis, shared by the tests one after the other."""
    yield _shared_redis.url
    with connect(_shared_redis.url, timeout_s=5) as client:
        client.flushall()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the empty Redis."""
    with connect(redis_url, timeout_s=5) as connection:
        yield connection


@pytest.fixture
def keys() -> Keys:
    """The keys that the tests use."""
    return Keys("bw:")
