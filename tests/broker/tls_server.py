"""A Redis that takes TLS alone, on a port of 127.0.0.1, and the certificates for it and for its clients.

Owns the files and the process. The embedded Valkey is built without TLS: this is Debian's redis-server.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import pytest
import redis

from tests.support.redis_server import acl_file
from tests.support.stack import free_port
from tests.support.waiting import eventually

SERVER: Final = Path("/usr/bin/redis-server")


@dataclass(frozen=True)
class TlsServer:
    """Where it listens, and the folder of the certificates."""

    port: int
    folder: Path

    def url(self, host: str = "localhost", *, ca: str = "ca", client: str = "client", **more: str) -> str:
        """The URL for a client of that certificate which trusts that CA; empty: without."""
        files = {"ssl_ca_certs": ca, "ssl_certfile": client}
        query = {name: str(self.folder / f"{file}.crt") for name, file in files.items() if file}
        if client:
            query["ssl_keyfile"] = str(self.folder / f"{client}.key")
        return f"rediss://{host}:{self.port}/0?{urlencode(query | more)}"


@contextlib.contextmanager
def running_tls(folder: Path) -> Iterator[TlsServer]:
    """A context: the server, which asks each client for a certificate of `ca`. Skips where it can't be."""
    if not SERVER.exists():
        pytest.skip("Debian's package redis-server, which speaks TLS, is not installed")
    _certificates(folder)
    server = TlsServer(free_port(), folder)
    (folder / "users.acl").write_text(acl_file(is_old=False))
    process = subprocess.Popen(
        [
            str(SERVER),
            *("--port", "0", "--tls-port", str(server.port), "--bind", "127.0.0.1"),
            *(
                "--tls-cert-file",
                "server.crt",
                "--tls-key-file",
                "server.key",
                "--tls-ca-cert-file",
                "ca.crt",
            ),
            *("--aclfile", "users.acl", "--appendonly", "yes", "--save", "", "--dir", str(folder)),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _answers(server))
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(server: TlsServer) -> bool:
    with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(server.url()) as client:
        return bool(client.ping())
    return False


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
