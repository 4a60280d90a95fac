"""A private Redis Cluster for tests: primaries on this machine, and replicas where a test wants some.

It has the users of deploy/redis/users.acl, as redis_server.py's servers have. TEST_REDIS_SERVER names its
program, too.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.crc import key_slot

from broker.connection import connect
from tests.support import leftovers
from tests.support.redis_server import RedisServer, is_redis_6, running_redis
from tests.support.stack import free_port
from tests.support.waiting import eventually

PRIMARIES = 3
SLOTS = 16384
NODE_TIMEOUT_MS = 1000
"""After so long without an answer a node is taken for dead, and its replica for its successor."""


class ClusterNode(RedisServer):
    """One server of a cluster, with a port of its own."""

    def __init__(self, var: Path, *, faketime: Path | None = None) -> None:
        super().__init__(var, faketime=faketime)
        self.port = free_port()
        self.bus_port = self.port + 10_000 if is_redis_6() else free_port()
        self.url = f"redis://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
        options += ["--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-require-full-coverage", "no"]
        if not is_redis_6():
            options += ["--cluster-port", str(self.bus_port)]
        return [*super()._command(), *options]

    @property
    def _filler(self) -> str:  # type: ignore[override]  # a key of this node's own
        first, last = next(
            (low, high) for low, high, primary, *_ in self.call("CLUSTER SLOTS") if primary[1] == self.port
        )
        return next(key for key in map("filler{}".format, count()) if first <= key_slot(key.encode()) <= last)

    def call(self, *args: Any) -> Any:  # noqa: ANN401 - whatever Redis replies
        """Send a command to this node and to no other."""
        with connect(self.url, timeout_s=5) as client:
            return client.execute_command(*args)

    @property
    def id(self) -> str:
        """What the cluster calls it."""
        return str(self.call("CLUSTER MYID"), "ascii")

    def restore(self, pid: int, options: dict[str, str]) -> bool:
        """Empty it, and set what a test has changed; return whether it is the process that it was."""
        if self.process is None or self.process.poll() is not None or self.pid != pid:
            return False
        self.free_disk()
        for name, value in self.options().items():
            if value != options[name]:
                self.call("CONFIG SET", name, options[name])
        for command in ("CLIENT UNPAUSE", "FLUSHALL", "SCRIPT FLUSH"):
            self.call(command)
        return True

    def options(self) -> dict[str, str]:
        """Its whole configuration."""
        options: dict[str, str] = self.call("CONFIG GET", "*")
        return options


class RedisCluster(RedisServer):
    """All nodes together, with the interface of one server."""

    def __init__(
        self, var: Path, *, faketime: Path | None = None, primaries: int = PRIMARIES, replicas: int = 0
    ) -> None:
        self.folder = var
        self._primaries = primaries
        folders = [var / str(number) for number in range(primaries * (1 + replicas))]
        for folder in folders:
            folder.mkdir()
        self.nodes = [ClusterNode(folder, faketime=faketime) for folder in folders]
        self.url = "cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.process = None
        self._is_made = False

    def start(self) -> None:
        """Start the nodes (again, over the same files) and wait until they serve all slots."""
        for node in self.nodes:
            if node.process is None:
                node.start()
        if not self._is_made:
            self._make()
        eventually(self._is_ready, within_s=30)

    def stop(self, *, kill: bool = False) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop(kill=kill)

    def step_clock(self, offset_s: float) -> None:
        """Set the clocks of all nodes."""
        for node in self.nodes:
            node.step_clock(offset_s)

    def fill_disk(self) -> None:
        """Leave no node's append-only file room."""
        for node in self.nodes:
            node.fill_disk()

    def free_disk(self) -> None:
        """Give them room again."""
        for node in self.nodes:
            node.free_disk()

    def owner(self, slot: int) -> ClusterNode:
        """The node that has a slot."""
        for node in self.nodes:
            if node.process is None:
                continue
            with contextlib.suppress(redis.RedisError):
                for first, last, primary, *_ in node.call("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(each for each in self.nodes if each.port == primary[1])
        raise LookupError(slot)

    def owner_of(self, key: str) -> ClusterNode:
        """The node that has a key's slot."""
        return self.owner(key_slot(key.encode()))

    def move(self, key: str, *, to: ClusterNode | None = None) -> ClusterNode:
        """Move the slot of a key to another primary with all its keys, as redis-cli does; return that one."""
        slot = key_slot(key.encode())
        source = self.owner(slot)
        target = to or next(node for node in self.primaries() if node is not source)
        self.open_move(slot, source, target)
        while keys := source.call("CLUSTER GETKEYSINSLOT", slot, 100):
            migrate(source, target, keys)
        self.close_move(slot, source, target)
        return target

    def open_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """From now on the keys of a slot may lie on either node."""
        target.call("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def close_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """The slot is the target's.

        Each node has heard so from the target itself: if the slot moved on before, its next owner would take
        an epoch no later than this one's, and an old message of this one could take the slot back. Both
        nodes then name each other for good (1 of 50 to 900 moves back and forth).
        """
        for node in (target, source, *(each for each in self.primaries() if each not in (source, target))):
            node.call("CLUSTER SETSLOT", slot, "NODE", target.id)
        epoch = _info(target)["cluster_my_epoch"]
        running = [node for node in self.nodes if node.process is not None]
        eventually(lambda: all(_epoch(node, target) == epoch for node in running), within_s=30)

    def restore(self, pids: Sequence[int], options: Sequence[dict[str, str]]) -> bool:
        """Have all nodes be as they were; return whether they are."""
        return all(map(ClusterNode.restore, self.nodes, pids, options))

    def primaries(self) -> list[ClusterNode]:
        """The nodes that have slots."""
        first = next(node for node in self.nodes if node.process is not None)
        ports = {primary[1] for _, _, primary, *_ in first.call("CLUSTER SLOTS")}
        return [node for node in self.nodes if node.port in ports and node.process is not None]

    def _make(self) -> None:
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            node.call("CLUSTER SET-CONFIG-EPOCH", number + 1)
        primaries = self._primaries
        for number, node in enumerate(self.nodes[:primaries]):
            slots = range(SLOTS * number // primaries, SLOTS * (number + 1) // primaries)
            node.call("CLUSTER ADDSLOTS", *slots)
        for node in others:
            node.call("CLUSTER MEET", "127.0.0.1", first.port, first.bus_port)
        eventually(
            lambda: all(_info(node)["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes),
            within_s=30,
        )
        for number, node in enumerate(self.nodes[primaries:]):
            primary = self.nodes[number % primaries].id
            eventually(partial(_replicates, node, primary), within_s=30)
        self._is_made = True

    def _is_ready(self) -> bool:
        running = [node for node in self.nodes if node.process is not None]
        infos = [_info(node) for node in running]
        if not all(
            info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS) for info in infos
        ):
            return False
        replicas = [node for node in running if node.call("ROLE")[0] == b"slave"]
        return all(node.call("ROLE")[3] == b"connected" for node in replicas)


HOUR_S = 3600.0
_ClusterT = TypeVar("_ClusterT", bound=RedisCluster)


def migrate(source: ClusterNode, target: ClusterNode, keys: Sequence[str]) -> None:
    """Move keys from one node to another, within a slot that moves."""
    source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)


def _replicates(node: ClusterNode, primary: str) -> bool:
    with contextlib.suppress(redis.ResponseError):  # it does not know that primary yet
        node.call("CLUSTER REPLICATE", primary)
        return True
    return False


def _info(node: ClusterNode) -> dict[str, str]:
    text = node.call("CLUSTER INFO")
    if isinstance(text, dict):
        return {str(name): str(value) for name, value in text.items()}
    return dict(line.split(":", 1) for line in str(text, "ascii").split("\r\n") if ":" in line)


def _epoch(node: ClusterNode, target: ClusterNode) -> str:
    """The target's configuration epoch, as a node knows it."""
    return str(node.call("CLUSTER NODES")[f"127.0.0.1:{target.port}"]["epoch"])


class ApartCluster(RedisCluster):
    """A cluster whose nodes' clocks are an hour apart: a slot that moves meets another time."""

    def __init__(self, var: Path, key: str, *, faketime: Path) -> None:
        super().__init__(var, faketime=faketime)
        self._key = key
        self._at = dict(zip((0.0, HOUR_S, -HOUR_S), self.nodes, strict=True))
        for offset_s, node in self._at.items():
            node.write_offset(offset_s)

    def start(self) -> None:
        """Start the nodes, with the key's slot where the clock is this machine's."""
        super().start()
        self.step_clock(0.0)

    def step_clock(self, offset_s: float) -> None:
        """Move the key's slot to the node whose clock is so much before or after this machine's."""
        if self.owner_of(self._key) is not self._at[offset_s]:
            self.move(self._key, to=self._at[offset_s])

    def restore(self, pids: Sequence[int], options: Sequence[dict[str, str]]) -> bool:
        """The same, with the key's slot where the clock is this machine's."""
        if not super().restore(pids, options):
            return False
        self.step_clock(0.0)
        return True


class Lender:
    """Servers for one test each. A cluster, which takes 3 s to start, goes from one test to the next.

    But one whose processes a test has ended, or left in a state that can't be mended, is replaced.
    """

    def __init__(self, running: Callable[[], contextlib.AbstractContextManager[RedisServer]]) -> None:
        self._running = running
        self._cluster: RedisCluster | None = None
        self._until_end = contextlib.ExitStack()

    @contextlib.contextmanager
    def lent(self) -> Iterator[RedisServer]:
        """A context: a server that no other test has meanwhile."""
        server = self._cluster or self._until_end.enter_context(self._running())
        self._cluster = None
        nodes = server.nodes if isinstance(server, RedisCluster) else []
        pids, options = [node.pid for node in nodes], [node.options() for node in nodes]
        try:
            yield server
        finally:
            with contextlib.suppress(redis.RedisError):
                if isinstance(server, RedisCluster) and server.restore(pids, options):
                    self._cluster = server
            if self._cluster is None:
                self._until_end.close()

    def close(self) -> None:
        """End what is left."""
        self._until_end.close()


def running_any() -> contextlib.AbstractContextManager[RedisServer]:
    """A context: a server, or a cluster where TEST_REDIS=cluster says so."""
    return running_cluster() if os.environ.get("TEST_REDIS") == "cluster" else running_redis()


def running_stepping(library: Path, key: str) -> contextlib.AbstractContextManager[RedisServer]:
    """A context: a server, or the slot of this key, whose clock can be stepped by an hour."""
    if os.environ.get("TEST_REDIS") == "cluster":
        return _running(partial(ApartCluster, key=key, faketime=library))
    return running_redis(faketime=library)


def running_cluster(
    *, primaries: int = PRIMARIES, replicas: int = 0
) -> contextlib.AbstractContextManager[RedisCluster]:
    """A context: a cluster in a folder of its own, both gone afterwards."""
    return _running(partial(RedisCluster, primaries=primaries, replicas=replicas))


@contextlib.contextmanager
def _running(make: Callable[[Path], _ClusterT]) -> Iterator[_ClusterT]:
    folder = leftovers.folder()
    cluster = make(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop(kill=True)
        leftovers.discard(folder)
