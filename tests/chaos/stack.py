"""The service's real processes, two model servers and two web workers, with what can befall them.

Owns the faults: each strikes once and returns when it is mended. Which and when is the campaign's.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from broker.connection import connect
from tests.chaos import numbers
from tests.chaos.proxy import Proxy
from tests.support.keys_left import keys_of_jobs
from tests.support.redis_server import RedisServer
from tests.support.sentinels import SentinelService
from tests.support.stack import START_S, Stack
from tests.support.waiting import eventually

LEASE_S: Final = 3.0
BATCH_S: Final = 0.1
"""What a call of the network takes, unless told otherwise."""

SERVERS: Final = "model servers"

_RESULT_TTL_S: Final = 5
_CUT_S: Final = LEASE_S + 2


class ChaosStack(Stack):
    """Two model servers, Gunicorn with two workers, one Redis; a proxy before the Redis of some servers."""

    def __init__(
        self,
        folder: Path,
        redis: RedisServer | SentinelService,
        seed: int,
        *,
        batch_s: float = BATCH_S,
        work_s: float = 0.0,
    ) -> None:
        super().__init__(folder, redis.url, model=numbers.MODEL)
        numbers.write_catalogue(folder / "models")
        self.environment |= {
            "MODELS_DIR": str(folder / "models"),
            "WEB_WORKERS": "2",
            "LEASE_S": f"{LEASE_S:g}",
            "RESULT_TTL_S": str(_RESULT_TTL_S),
            # A job may meet several strikes; what a poison job does is another test's.
            "MAX_ATTEMPTS": "5",
        }
        self._redis = redis
        self._batch_s = batch_s
        self._work_s = work_s
        """The processor's time that a picture takes."""
        self._random = random.Random(seed)
        self.proxy = Proxy(str(redis.folder / "redis.sock"))
        self.urls = [self.url]
        """Where requests come in."""
        self._servers: list[subprocess.Popen[bytes]] = []
        self._behind_proxy: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start everything and wait until it is ready."""
        self.web = self.start_web()
        self.add_server()
        self.add_server()

    def add_server(self, redis_url: str = "") -> subprocess.Popen[bytes]:
        """Start a model server and wait until it is ready."""
        before = self.ready_workers()
        usual = self.environment["REDIS_URL"]
        self.environment["REDIS_URL"] = redis_url or usual
        server = self.start(
            *("tests.chaos.numbers_server", str(self.executions), str(self._batch_s), str(self._work_s)),
            log="model_server",
        )
        self.environment["REDIS_URL"] = usual
        self._servers.append(server)
        eventually(lambda: bool(self.ready_workers() - before), within_s=START_S)
        return server

    def keys(self) -> set[str]:
        """The names of all keys but those that are one for all jobs."""
        with connect(self._redis.url, timeout_s=5) as client:
            return keys_of_jobs(client)

    def running(self) -> list[tuple[str, psutil.Process]]:
        """Every process of the service but Redis, each with its kind."""
        web = psutil.Process(self.web.pid)
        servers = [psutil.Process(server.pid) for server in self._servers]
        return [("web", each) for each in (web, *web.children())] + [(SERVERS, each) for each in servers]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of the processor so far, by kind of process."""
        found = {"web": 0.0, SERVERS: 0.0}
        for kind, process in self.running():
            times = process.cpu_times()
            found[kind] += times.user + times.system
        return found

    def stop(self) -> None:
        """End everything."""
        super().stop()
        self.proxy.close()

    def model_server_killed(self) -> None:
        """SIGKILL a model server in the middle of a batch; another is started in its place."""
        victim = self._victim()
        self._await_batch()
        victim.kill()
        victim.wait(timeout=20)
        self.add_server()

    def model_server_stopped(self) -> None:
        """SIGSTOP a model server beyond its lease, then SIGCONT: what it does late must be refused."""
        victim = self._victim()
        self._servers.append(victim)
        self._await_batch()
        before = self.ready_workers()
        victim.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_S + 1.5)
        victim.send_signal(signal.SIGCONT)
        # It registers anew, under another id.
        eventually(lambda: bool(self.ready_workers() - before), within_s=30)

    def web_worker_killed(self) -> None:
        """SIGKILL one of Gunicorn's workers; its own connections go with it."""
        workers = self._web_workers()
        victim = self._random.choice(sorted(workers))
        psutil.Process(victim).kill()
        eventually(lambda: len(self._web_workers() - {victim}) == 2, within_s=30)
        eventually(lambda: self.answers("/healthz"))

    def redis_killed(self) -> None:
        """SIGKILL Redis and start it again over its append-only file."""
        self._restart_redis(kill=True)

    def redis_restarted(self) -> None:
        """SIGTERM Redis and start it again."""
        self._restart_redis(kill=False)

    def redis_memory_full(self) -> None:
        """Leave Redis no memory, for longer than a lease lasts, then all it wants."""
        self._await_batch()
        with connect(self._redis.url, timeout_s=5) as client:
            client.config_set("maxmemory", "1")
            time.sleep(_CUT_S)
            client.config_set("maxmemory", "0")
        eventually(lambda: self.answers("/readyz"), within_s=30)

    def redis_disk_full(self) -> None:
        """Leave Redis' append-only file no room on its disk, for a moment."""
        assert isinstance(self._redis, RedisServer)
        self._await_batch()
        self._redis.fill_disk()
        time.sleep(self._random.uniform(0.1, 1.0))
        self._redis.free_disk()
        eventually(lambda: self.answers("/readyz"), within_s=30)

    def redis_flushed(self) -> None:
        """FLUSHALL: jobs, claims, leases and cards are gone."""
        before = self.ready_workers()
        self._await_batch()
        with connect(self._redis.url, timeout_s=5) as client:
            client.flushall()
        eventually(lambda: len(self.ready_workers() - before) == len(self._servers), within_s=30)

    def model_servers_rolled(self) -> None:
        """Start a new model server, wait until it is ready, then tell an old one to go."""
        self.add_server()
        old = self._victim()
        old.terminate()
        assert old.wait(timeout=20) == 0

    def web_reloaded(self) -> None:
        """SIGHUP to Gunicorn: new workers, then the old ones drain."""
        before = self._web_workers()
        self.web.send_signal(signal.SIGHUP)
        eventually(lambda: len(self._web_workers()) == 2 and not self._web_workers() & before, within_s=30)
        eventually(lambda: self.answers("/readyz"))

    def network_cut(self) -> None:
        """Cut a model server off Redis for longer than its lease: no packet, no reset, nothing."""
        if self._behind_proxy is None:
            self._behind_proxy = self.add_server(f"redis://127.0.0.1:{self.proxy.port}")
            self._servers.remove(self._behind_proxy)
        before = self.ready_workers()
        self._await_batch()
        self.proxy.cut()
        time.sleep(_CUT_S)
        self.proxy.mend()
        eventually(lambda: bool(self.ready_workers() - before), within_s=30)

    def _victim(self) -> subprocess.Popen[bytes]:
        return self._servers.pop(0)

    def _await_batch(self) -> None:
        """Until a network has just begun a batch: a strike right after it hits a batch, or its completion."""
        size = self.executions.stat().st_size
        eventually(lambda: self.executions.stat().st_size > size, within_s=30)
        time.sleep(self._random.uniform(0, self._batch_s))

    def _web_workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.web.pid).children()}

    def _restart_redis(self, *, kill: bool) -> None:
        assert isinstance(self._redis, RedisServer)
        self._await_batch()
        self._redis.stop(kill=kill)
        time.sleep(self._random.uniform(0.1, 1.0))
        self._redis.start()
        eventually(lambda: self.answers("/readyz"), within_s=30)


FAULTS: Final[dict[str, Callable[[ChaosStack], None]]] = {
    "a model server is killed in mid-batch": ChaosStack.model_server_killed,
    "a model server is stopped beyond its lease, then goes on": ChaosStack.model_server_stopped,
    "a web worker is killed": ChaosStack.web_worker_killed,
    "Redis is killed, and started again": ChaosStack.redis_killed,
    "Redis is stopped, and started again": ChaosStack.redis_restarted,
    "Redis' memory is full": ChaosStack.redis_memory_full,
    "the disk of Redis' append-only file is full": ChaosStack.redis_disk_full,
    "Redis is emptied (FLUSHALL)": ChaosStack.redis_flushed,
    "model servers are rolled": ChaosStack.model_servers_rolled,
    "web is reloaded": ChaosStack.web_reloaded,
    "a model server is cut off Redis beyond its lease": ChaosStack.network_cut,
}
