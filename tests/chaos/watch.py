"""Liveness and resident memory of every process, looked at twice a second while something else goes on."""

import collections
import contextlib
import threading
import time
from typing import Final

import psutil

from tests.chaos.stack import ChaosStack
from tests.support.redis_server import RedisServer

_PROBE_S: Final = 0.5


class Watch(threading.Thread):
    """Looks at liveness and at every process' memory, twice a second."""

    def __init__(self, stack: ChaosStack, redis: RedisServer) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._redis = psutil.Process(redis.pid)
        self._stopping = threading.Event()
        self.seen: list[dict[str, float]] = []
        """Resident megabytes by kind of process, look by look."""
        self.unhealthy = self.probes = 0
        self._look()
        self.start()

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopping.wait(_PROBE_S):
            self._look()

    def stop(self) -> None:
        """Look once more, when what was accepted has been answered."""
        time.sleep(1)
        self._stopping.set()
        self.join()

    def memory_mb(self) -> dict[str, tuple[float, float]]:
        """Before and at most, by kind of process."""
        kinds = self.seen[0]
        return {kind: (kinds[kind], max(each.get(kind, 0.0) for each in self.seen)) for kind in kinds}

    def _look(self) -> None:
        self.probes += 1
        self.unhealthy += not self._stack.answers("/healthz")
        found: collections.defaultdict[str, float] = collections.defaultdict(float)
        found["Redis"] = self._redis.memory_info().rss / 2**20
        for kind, process in self._stack.running():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[kind] += process.memory_info().rss / 2**20
        self.seen.append(dict(found))
