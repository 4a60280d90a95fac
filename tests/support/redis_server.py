"""A private Redis server for tests. Never flushes or stops a Redis that was not started here.

TEST_REDIS_SERVER names another program than the embedded one, such as Debian's redis-server.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from broker.connection import connect
from deploy.serve.programs import redis_command, redis_url


class RedisServer:
    """A Redis server as `make serve` starts it, with its socket and its files in `var`/redis."""

    def __init__(self, var: Path) -> None:
        self._var = var
        self.folder = var / "redis"
        self.folder.mkdir()
        self.url = redis_url(var)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again, over the same files) and wait until it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            # SIGXFSZ stays ignored, as in Python: `fill_disk` is to fail a write, not to kill.
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, restore_signals=False)
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

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    def fill_disk(self) -> None:
        """Leave its append-only file no room, until `free_disk`."""
        largest = max(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        with connect(self.url, timeout_s=5) as client, contextlib.suppress(redis.ResponseError):
            while True:
                client.set("filler", "x" * 10_000, ex=1)

    def free_disk(self) -> None:
        """Give it room again."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _command(self) -> list[str]:
        embedded = redis_command(self._var)
        return [os.environ.get("TEST_REDIS_SERVER") or embedded[0], *embedded[1:]]

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


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A context: a server in a folder of its own, both gone afterwards."""
    # Not tmp_path: a Unix socket's path has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="bw-"))
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)
        shutil.rmtree(folder)
