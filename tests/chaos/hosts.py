"""The service on hosts of its own, Redis, two for web, three model servers; and what befalls their network.

Owns those processes and the faults between their hosts; tests/support/network.py has the network itself. Each
fault strikes once, in another direction each time, and returns when all is well again.
"""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx

from tests.chaos.stack import LEASE_S, ChaosStack
from tests.support import ROOT, http, leftovers
from tests.support.network import CLIENTS, Network
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

REDIS: Final = "redis"
WEB: Final = ("web1", "web2")
MODEL_SERVERS: Final = ("model1", "model2", "model3")
HOSTS: Final = (REDIS, *WEB, *MODEL_SERVERS)

WRONG_BY_S: Final = {"web1": 3600.0, "web2": -3600.0, "model1": 3600.0, "model2": -3600.0}
"""Of hosts whose clocks are wrong, where a stack has such."""

_PORT: Final = 5000
REDIS_PORT: Final = 6379

_CLIENTS_S: Final = 3.0
_WRONG_CLOCK: Final = ROOT / "tests" / "support" / "wrong_clock"
_BEYOND_LEASE_S: Final = 2.0
"""A cut lasts so much longer than a lease; the broker's time-outs of a second are over by then, too."""


class HostRedis(RedisServer):
    """A Redis on a host of a network; the tests reach it by its socket, too, whatever the network does."""

    def __init__(self, var: Path, network: Network) -> None:
        super().__init__(var)
        self._network = network
        self.network_url = f"redis://{network.address(REDIS)}:{REDIS_PORT}"

    def _command(self) -> list[str]:
        listen = [
            "--port",
            str(REDIS_PORT),
            "--bind",
            self._network.address(REDIS),
            "--protected-mode",
            "no",
        ]
        return [*self._network.on(REDIS), *super()._command(), *listen]


@contextlib.contextmanager
def redis_on(network: Network) -> Iterator[HostRedis]:
    """A context: a server on that network's host for it, in a folder of its own, both gone afterwards."""
    folder = leftovers.folder()
    server = HostRedis(folder, network)
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)
        leftovers.discard(folder)


class HostsStack(ChaosStack):
    """Two web hosts of a process each, three model servers. `wrong_by_s`: of clocks that are wrong."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        redis: HostRedis,
        seed: int,
        *,
        lease_s: float = LEASE_S,
        wrong_by_s: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(folder, redis, seed)
        self.environment |= {
            "REDIS_URL": redis.network_url,
            "PORT": str(_PORT),
            "WEB_WORKERS": "1",
            "LEASE_S": f"{lease_s:g}",
        }
        self.network = network
        self._cut_s = lease_s + _BEYOND_LEASE_S
        self._wrong_by_s = wrong_by_s or {}
        self._host = ""
        self._ways = itertools.cycle((self.network.cut, self._hears_nothing, self._is_not_heard))
        self.urls = [f"http://{network.address(host)}:{_PORT}" for host in WEB]

    def begin(self) -> None:
        """Start everything and wait until it is ready."""
        # The last web host is asked about workers: the faults strike the first.
        for host, url in zip(WEB, self.urls, strict=True):
            self._host, self.url = host, url
            self.start_web()
        for host in MODEL_SERVERS:
            self._host = host
            self.add_server()

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a Python program on the host whose turn it is."""
        usual = self.environment
        own = {"BIND": self.network.address(self._host)}
        if offset_s := self._wrong_by_s.get(self._host):
            own |= {"PYTHONPATH": str(_WRONG_CLOCK), "CLOCK_OFFSET_S": str(offset_s)}
        self.environment, self.prefix = usual | own, self.network.on(self._host)
        try:
            return super().start(*command, log=f"{log}-{self._host}")
        finally:
            self.environment = usual

    def log(self, host: str) -> str:
        """All that the host's program has logged."""
        program = "web" if host in WEB else "model_server"
        return (self.folder / f"{program}-{host}.log").read_text()

    def model_server_cut_off(self) -> None:
        """Between a model server and Redis, for longer than its lease."""
        self._await_batch()
        self._cut(MODEL_SERVERS[0], REDIS)

    def web_cut_off(self) -> None:
        """Between a web host and Redis."""
        self._cut(WEB[0], REDIS)

    def clients_cut_off(self) -> None:
        """Between a web host and its clients, each of whom has ten seconds."""
        next(self._ways)(WEB[0], CLIENTS)
        time.sleep(_CLIENTS_S)
        self.network.mend()
        # TCP's pauses double, so what was lost is sent again after as long again: not into the next cut.
        time.sleep(_CLIENTS_S + 1)

    def redis_cut_off(self) -> None:
        """Between Redis and all hosts that need it."""
        way = next(self._ways)
        for host in (*WEB, *MODEL_SERVERS):
            way(host, REDIS)
        self._wait_and_mend()

    def _cut(self, host: str, other: str) -> None:
        next(self._ways)(host, other)
        self._wait_and_mend()

    def _wait_and_mend(self) -> None:
        time.sleep(self._cut_s)
        self.network.mend()
        eventually(self._is_well, within_s=30)

    def _is_well(self) -> bool:
        """Both web hosts have Redis, and all model servers live."""
        return all(map(self._is_ready, self.urls)) and len(self.ready_workers()) == len(MODEL_SERVERS)

    @staticmethod
    def _is_ready(url: str) -> bool:
        try:
            return http.get(url + "/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def _hears_nothing(self, host: str, other: str) -> None:
        self.network.drop(source=other, target=host)

    def _is_not_heard(self, host: str, other: str) -> None:
        self.network.drop(source=host, target=other)


PARTITIONS: Final[dict[str, Callable[[HostsStack], None]]] = {
    "a model server's host is cut off Redis, one way and both": HostsStack.model_server_cut_off,
    "a web host is cut off Redis, one way and both": HostsStack.web_cut_off,
    "a web host is cut off its clients, one way and both": HostsStack.clients_cut_off,
    "Redis' host is cut off, one way and both": HostsStack.redis_cut_off,
}
