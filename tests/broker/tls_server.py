"""Redis servers that take TLS alone, on ports of 127.0.0.1, and the certificates for them and their clients.

Owns the files and the processes. The embedded Valkey is built without TLS: this is Debian's redis-server. One
alone, a primary with a replica and a Sentinel, or a cluster: these name each other `localhost`, as the
certificate does.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import redis

from tests.support.redis_server import acl_file
from tests.support.stack import free_port
from tests.support.waiting import eventually

SERVER: Final = Path("/usr/bin/redis-server")
SENTINEL: Final = Path("/usr/bin/redis-sentinel")


_PRIMARY: Final = "redis"
"""What the Sentinel calls the primary."""


@dataclass(frozen=True)
class TlsServer:
    """One process. `folder` has its files, `certificates` those of TLS."""

    port: int
    certificates: Path
    folder: Path
    process: subprocess.Popen[bytes]

    def url(self, host: str = "localhost", *, ca: str = "ca", client: str = "client", **more: str) -> str:
        """The URL for a client of that certificate which trusts that CA; empty: without."""
        query = _query(self.certificates, ca=ca, client=client) | more
        return f"rediss://{host}:{self.port}/0?{urlencode(query)}"

    def call(self, *command: str | int) -> Any:  # noqa: ANN401 - whatever Redis replies
        """Send one command."""
        with redis.Redis.from_url(self.url(), protocol=2) as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        """Whether it does."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.call("PING"))
        return False


@dataclass(frozen=True)
class TlsFleet:
    """Several servers that belong together, and the URL for all of them."""

    servers: list[TlsServer]
    url: str


@contextlib.contextmanager
def running_tls(folder: Path) -> Iterator[TlsServer]:
    """A context: the server, which asks each client for a certificate of `ca`. Skips where it can't be."""
    with _servers(folder) as start:
        yield start("appendonly yes", 'save ""')


@contextlib.contextmanager
def running_tls_sentinel(folder: Path) -> Iterator[TlsFleet]:
    """A context: a primary, its replica and a Sentinel, whose word is enough for a fail-over."""
    with _servers(folder) as start:
        options = ('save ""', "tls-replication yes", "replica-announce-ip localhost")
        primary = start(*options, "repl-diskless-sync-delay 0")
        replica = start(*options, f"replicaof localhost {primary.port}")
        eventually(lambda: replica.call("INFO", "replication").get("master_link_status") == "up")
        sentinel = start(
            "tls-replication yes",
            "sentinel resolve-hostnames yes",
            "sentinel announce-hostnames yes",
            f"sentinel monitor {_PRIMARY} localhost {primary.port} 1",
            f"sentinel down-after-milliseconds {_PRIMARY} 1000",
            f"sentinel failover-timeout {_PRIMARY} 1000",
            program=SENTINEL,
        )
        eventually(lambda: len(sentinel.call("SENTINEL", "REPLICAS", _PRIMARY)) == 1, within_s=20)
        query = urlencode(_query(folder))
        yield TlsFleet([primary, replica], f"sentinels://localhost:{sentinel.port}/{_PRIMARY}?{query}")


@contextlib.contextmanager
def running_tls_cluster(folder: Path) -> Iterator[TlsFleet]:
    """A context: a cluster of three primaries."""
    with _servers(folder) as start:
        nodes = [
            start(
                "cluster-enabled yes",
                f"cluster-port {free_port()}",
                "tls-cluster yes",
                "cluster-announce-hostname localhost",
                "cluster-preferred-endpoint-type hostname",
                'save ""',
            )
            for _ in range(3)
        ]
        for number, node in enumerate(nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.call("CLUSTER", "ADDSLOTSRANGE", 16384 * number // 3, 16384 * (number + 1) // 3 - 1)
        bus = nodes[0].call("CONFIG GET", "cluster-port")["cluster-port"]
        for node in nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus)
        eventually(lambda: all(_knows_all(node, nodes) for node in nodes), within_s=30)
        places = ",".join(f"localhost:{node.port}" for node in nodes)
        yield TlsFleet(nodes, f"clusters://{places}?{urlencode(_query(folder))}")


def _knows_all(node: TlsServer, nodes: Sequence[TlsServer]) -> bool:
    """Whether it knows who has which slot, and their names."""
    owners = {(each[2][0], each[2][1]) for each in node.call("CLUSTER", "SLOTS")}
    return owners == {(b"localhost", each.port) for each in nodes}


@contextlib.contextmanager
def _servers(certificates: Path) -> Iterator[Callable[..., TlsServer]]:
    """A context: starts servers with these lines in their configuration; all have ended afterwards."""
    if not SERVER.exists() or not SENTINEL.exists():
        pytest.skip("Debian's redis-server and redis-sentinel, which speak TLS, are not installed")
    _certificates(certificates)
    (certificates / "users.acl").write_text(acl_file(is_old=False))
    processes: list[subprocess.Popen[bytes]] = []

    def start(*lines: str, program: Path = SERVER) -> TlsServer:
        folder = certificates / f"server-{len(processes)}"
        folder.mkdir()
        port = free_port()
        configuration = folder / "redis.conf"  # a Sentinel writes to its own
        configuration.write_text(
            f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"tls-cert-file {certificates}/server.crt\ntls-key-file {certificates}/server.key\n"
            f"tls-ca-cert-file {certificates}/ca.crt\n"
            + (f"aclfile {certificates}/users.acl\n" if program == SERVER else "")
            + "".join(f"{line}\n" for line in lines)
        )
        process = subprocess.Popen([program, configuration], stdout=subprocess.DEVNULL)
        processes.append(process)
        server = TlsServer(port, certificates, folder, process)
        eventually(server.answers)
        return server

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=20)


def _query(certificates: Path, *, ca: str = "ca", client: str = "client") -> dict[str, str]:
    """The parameters of a URL that name these files."""
    files = {"ssl_ca_certs": ca, "ssl_certfile": client}
    query = {name: str(certificates / f"{file}.crt") for name, file in files.items() if file}
    return query | ({"ssl_keyfile": str(certificates / f"{client}.key")} if client else {})


def _certificates(folder: Path) -> None:
    """A CA and another; the server's certificate, for `localhost` alone; a client's."""
    for name in ("ca", "other"):
        _openssl(
            folder, "req", "-x509", *_key(name), "-subj", f"/CN={name}", "-days", "2", "-out", f"{name}.crt"
        )
    for name, alternative in (("server", "DNS:localhost"), ("client", "DNS:client")):
        _openssl(folder, "req", "-new", *_key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", "2", "-out", f"{name}.crt")


def _key(name: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
