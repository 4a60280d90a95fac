"""A private Redis server for tests. Never flushes or stops a Redis that was not started here.

It has the users of deploy/redis/users.acl, whose passwords are their names; the default user may do all.

TEST_REDIS_SERVER names another program than the embedded one, such as Debian's redis-server. Where Debian's
faketime is installed a server's clock can be stepped.
"""

import contextlib
import functools
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import redis

from broker import cluster
from broker.connection import connect
from deploy.serve.programs import redis_binary, redis_command, redis_url
from tests.support import ROOT, leftovers
from tests.support.waiting import eventually


class RedisServer:
    """A Redis server as `make serve` starts it, with its socket and its files in `var`/redis."""

    def __init__(self, var: Path, *, faketime: Path | None = None) -> None:
        self._var = var
        self._faketime = faketime
        self.folder = var / "redis"
        self.folder.mkdir()
        self.url = redis_url(var)
        self.users = var / "users.acl"
        self.users.write_text(acl_file(is_old=is_redis_6()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again, over the same files) and wait until it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            # SIGXFSZ stays ignored, as in Python: `fill_disk` is to fail a write, not to kill.
            self.process = subprocess.Popen(
                self._command(), env=self._environment(), stdout=log, stderr=log, restore_signals=False
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

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    def step_clock(self, offset_s: float) -> None:
        """Set its clock so many seconds before or after this machine's. Only with `faketime`."""
        self.write_offset(offset_s)
        with connect(self.url, timeout_s=5) as client:
            # Valkey may tell the next command the time that it last read.
            while abs(client.time()[0] - time.time() - offset_s) > 2:
                time.sleep(0.01)

    def write_offset(self, offset_s: float) -> None:
        """Have its clock be so many seconds apart as soon as it is looked at."""
        # Renamed into place: it is read at each look at the clock.
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{offset_s:+g}\n")
        fresh.replace(self._offset)

    def until_written(self) -> None:
        """Return once its append-only file has all that it accepted.

        While a sync of the file is slow Redis holds writes back, for two seconds at most; killed then, it
        forgets them.
        """
        with connect(self.url, timeout_s=5) as client:
            eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)

    def fill_disk(self) -> None:
        """Leave its append-only file no room, until `free_disk`."""
        largest = max(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        with connect(self.url, timeout_s=5) as client, contextlib.suppress(redis.ResponseError):
            while True:
                client.set(self._filler, "x" * 10_000, ex=1)

    def free_disk(self) -> None:
        """Give it room again."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    _filler = "filler"

    @property
    def _offset(self) -> Path:
        return self._var / "offset"

    def _environment(self) -> dict[str, str]:
        if self._faketime is not None and not self._offset.exists():
            self.write_offset(0)
        return clock_environment(self._faketime, self._offset)

    def _command(self) -> list[str]:
        return [server_program(), *redis_command(self._var)[1:], "--aclfile", str(self.users)]

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


def clock_environment(faketime: Path | None, offset: Path) -> dict[str, str]:
    """The environment of a server whose clock is that of `offset`, if there is `faketime`."""
    if faketime is None:
        return dict(os.environ)
    return {
        **os.environ,
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # Only the time of day steps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def server_program() -> str:
    """The server that tests start."""
    return os.environ.get("TEST_REDIS_SERVER") or str(redis_binary())


@functools.cache
def is_redis_6() -> bool:
    """Whether that server is one of Redis 6, whose users have no selectors."""
    version = subprocess.run([server_program(), "--version"], capture_output=True, text=True, check=True)
    return " v=6." in version.stdout


USERS: Final = ("web", "model_server", "operator")


def acl_file(*, is_old: bool, prefix: str = "bw:", peers: Sequence[str] = ()) -> str:
    """The users of the project as Redis reads them, those for `peers`, and a default user with all rights."""
    made = subprocess.run(
        [ROOT / "deploy" / "redis" / "make-users", *(["--redis-6.2"] if is_old else [])],
        env={**os.environ, "KEY_PREFIX": prefix}
        | {f"{user.upper()}_PASSWORD": user for user in (*USERS, *peers)},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.replace("user default off", "user default on nopass")


def as_user(url: str, user: str) -> str:
    """The URL of a server of these tests, for one of its users."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{user}:{user}@{place}"


_OF_USERS: Final[WeakKeyDictionary[redis.Redis, dict[str, redis.Redis]]] = WeakKeyDictionary()


def client_of(client: redis.Redis, user: str) -> redis.Redis:
    """The same client as one of the users: what stands for a tier in a test has that tier's rights alone."""
    of_users = _OF_USERS.setdefault(client, {})
    if user not in of_users:
        pool = client.connection_pool
        if cluster.is_cluster(client):
            places = (node.connection_pool.connection_kwargs for node in cluster.nodes(client))
            url = "cluster://" + ",".join(f"{place['host']}:{place['port']}" for place in places)
            of_users[user] = connect(as_user(url, user), timeout_s=pool.connection_kwargs["socket_timeout"])
            return of_users[user]
        kwargs = {**pool.connection_kwargs, "username": user, "password": user}
        fresh = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=pool.connection_class, **kwargs
        )
        of_users[user] = redis.Redis.from_pool(fresh)
    return of_users[user]


def calls(client: redis.Redis, command: str) -> int:
    """How often a command was run, on all nodes of a cluster together.

    Failed calls do not count: a server that does not know a script yet fails its first (NOSCRIPT).
    """
    statistics = [
        node.info("commandstats").get(f"cmdstat_{command}", {"calls": 0}) for node in cluster.nodes(client)
    ]
    return sum(int(each["calls"]) - int(each.get("failed_calls", 0)) for each in statistics)


def faketime_library() -> Path | str:
    """The library that steps a server's clock, of Debian's package faketime; else why it can't be."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        return "Redis' clock is stepped by Debian's package faketime, which is not installed"
    version = subprocess.run([server_program(), "--version"], capture_output=True, text=True, check=True)
    if "jemalloc" in version.stdout:
        return "a Redis with jemalloc does not start under faketime"
    return library


@contextlib.contextmanager
def running_redis(*, faketime: Path | None = None) -> Iterator[RedisServer]:
    """A context: a server in a folder of its own, both gone afterwards."""
    folder = leftovers.folder()
    server = RedisServer(folder, faketime=faketime)
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)
        leftovers.discard(folder)
