"""A primary, its replicas and the Sentinels that watch them, as processes.

The servers have the users of the project, whose passwords are their names, and `tests`, who may do all.
Sentinels and replicas are users of their own, so that a primary can be cut off from them while clients still
reach it.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis

from broker.connection import connect
from tests.support import leftovers
from tests.support.redis_server import acl_file, as_user, clock_environment, is_redis_6, server_program
from tests.support.stack import free_port
from tests.support.waiting import eventually

NAME: Final = "shades-redis"
"""What the Sentinels call the primary."""

DOWN_AFTER_MS: Final = 1000
FAILOVER_TIMEOUT_MS: Final = 1000

_ADMIN: Final = "user tests on >tests ~* &* +@all\n"
_PEERS: Final = ("sentinel", "replica")


class Node:
    """A server, primary or replica, on a TCP port."""

    def __init__(self, folder: Path, port: int, *, faketime: Path | None = None) -> None:
        self.port = port
        self.folder = folder
        self.url = f"redis://tests:tests@127.0.0.1:{port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self._faketime = faketime
        self._offset = folder / "offset"
        folder.mkdir()
        users = folder / "users.acl"
        users.write_text(
            acl_file(is_old=is_redis_6(), peers=_PEERS).replace("user default on nopass", "user default off")
        )
        with users.open("a") as file:
            file.write(_ADMIN)
        self._config = folder / "redis.conf"
        self._config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\naclfile {users}\n"
            'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n'
            "masteruser replica\nmasterauth replica\nrepl-diskless-sync-delay 0\n"
        )

    def start(self, *, replica_of: int = 0) -> None:
        """Start it, over the files that it has, and wait until it answers, or follows the primary."""
        if replica_of:
            with self._config.open("a") as file:
                file.write(f"replicaof 127.0.0.1 {replica_of}\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [server_program(), str(self._config)],
                stdout=log,
                stderr=log,
                env=clock_environment(self._faketime, self._offset),
            )
        eventually(self.is_up, within_s=20)

    def is_up(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        """A client of this server, whatever it is, who may do all."""
        return connect(self.url, timeout_s=5)

    def info(self) -> dict[str, Any]:
        """What it tells of its replication."""
        with self.client() as client:
            return dict(client.info("replication"))

    def set_clock(self, offset_s: float) -> None:
        """So many seconds before or after this machine's; before it is started, with `faketime`."""
        self._offset.write_text(f"{offset_s:+g}\n")

    def stop(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None


class Sentinel:
    """One Sentinel."""

    def __init__(self, folder: Path, port: int, primary: int, *, password: str = "") -> None:
        self.port = port
        self.folder = folder
        self._password = password
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
            f"sentinel auth-user {NAME} sentinel\nsentinel auth-pass {NAME} sentinel\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}\n"
            + (f"requirepass {password}\nsentinel sentinel-pass {password}\n" if password else "")
        )

    def start(self) -> None:
        """Start it; it goes on with what it knew."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(_sentinel_command(self._config), stdout=log, stderr=log)

    def client(self) -> redis.Redis:
        """A client of this Sentinel."""
        return redis.Redis(port=self.port, password=self._password or None, protocol=2, socket_timeout=5)

    def state(self) -> dict[str, Any]:
        """What it says of the primary; nothing if it does not answer."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return dict(client.sentinel_master(NAME, return_responses=True))
        return {}

    def replicas(self) -> list[dict[str, Any]]:
        """What it says of those that it could promote now."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            known = client.sentinel_slaves(NAME)
            return [each for each in known if each["flags"] == "slave" and each["master-link-status"] == "ok"]
        return []

    def stop(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None


class SentinelService:
    """Everything together. `url` is without a user, for `as_user`; `admin_url` may do all."""

    def __init__(self, folder: Path, *, replicas: int, faketime: Path | None, password: str) -> None:
        self.folder = folder
        self.nodes = [
            Node(folder / f"redis-{number}", free_port(), faketime=faketime) for number in range(replicas + 1)
        ]
        self.sentinels = [
            Sentinel(folder / f"sentinel-{number}", free_port(), self.nodes[0].port, password=password)
            for number in range(3)
        ]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        query = f"?sentinel_password={password}" if password else ""
        self.url = f"sentinel://{hosts}/{NAME}{query}"
        self.admin_url = as_user(self.url, "tests")

    def start(self) -> None:
        """Start all, and wait until the Sentinels know each other and every replica."""
        self.nodes[0].start()
        for node in self.nodes[1:]:
            node.start(replica_of=self.nodes[0].port)
        for node in self.nodes[1:]:
            self.await_replica(node)
        for sentinel in self.sentinels:
            sentinel.start()
        eventually(self.is_complete, within_s=60)

    def is_complete(self) -> bool:
        """Whether each Sentinel knows the others and all replicas, and sees the primary up."""
        return all(
            (state := sentinel.state())
            and state["num-other-sentinels"] == len(self.sentinels) - 1
            and state["flags"] == "master"
            and len(sentinel.replicas()) == len(self.nodes) - 1
            for sentinel in self.sentinels
        )

    def primary(self) -> Node:
        """The server that most Sentinels call the primary."""
        ports = [state["port"] for each in self.sentinels if (state := each.state())]
        port = max(set(ports), key=ports.count)
        return next(node for node in self.nodes if node.port == int(port))

    def fail_over(self) -> None:
        """SENTINEL FAILOVER, and wait until all have heard of the new primary."""
        before = self.primary()
        eventually(self.is_complete, within_s=30)
        with self.sentinels[0].client() as client:
            client.sentinel_failover(NAME)
        self.await_other_than(before)

    def await_other_than(self, before: Node) -> None:
        """Until every Sentinel that runs names another primary, which is one."""
        running = [each for each in self.sentinels if each.process is not None]
        eventually(
            lambda: all(each.state().get("port", before.port) != before.port for each in running), within_s=20
        )
        eventually(lambda: self.primary().info()["role"] == "master", within_s=10)

    def cut_off(self, node: Node) -> None:
        """No Sentinel and no replica reaches it any more; clients do."""
        with node.client() as client:
            for peer in _PEERS:
                client.acl_setuser(peer, enabled=False)
            for each in client.client_list():
                if each["user"] in _PEERS:
                    with contextlib.suppress(redis.ResponseError):  # gone already
                        client.client_kill_filter(_id=each["id"])

    def rejoin(self, node: Node) -> None:
        """Let them reach it again, as a replica. A Sentinel would see to that, after 8 s."""
        with node.client() as client:
            for peer in _PEERS:
                client.acl_setuser(peer, enabled=True)
            client.replicaof("127.0.0.1", self.primary().port)
        self.await_replica(node)

    def await_replica(self, node: Node) -> None:
        """Until it follows the primary."""
        eventually(lambda: node.info().get("master_link_status") == "up", within_s=20)

    def stop(self) -> None:
        """Kill all."""
        for sentinel in self.sentinels:
            sentinel.stop()
        for node in self.nodes:
            node.stop()


def _sentinel_command(config: Path) -> list[str]:
    """Debian's redis-sentinel where its server is the tests', else the server itself."""
    program = Path(server_program()).with_name("redis-sentinel")
    return [str(program), str(config)] if program.exists() else [server_program(), str(config), "--sentinel"]


@contextlib.contextmanager
def running_sentinels(
    *, replicas: int = 1, faketime: Path | None = None, password: str = "", offsets_s: tuple[float, ...] = ()
) -> Iterator[SentinelService]:
    """A context: a primary, its replicas and three Sentinels; `offsets_s` are the servers' clocks'."""
    folder = leftovers.folder()
    service = SentinelService(folder, replicas=replicas, faketime=faketime, password=password)
    try:
        for node, offset_s in zip(service.nodes, offsets_s, strict=False):
            node.set_clock(offset_s)
        service.start()
        yield service
    finally:
        service.stop()
        leftovers.discard(folder)
