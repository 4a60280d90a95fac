"""The real nginx with deploy/nginx, on free ports and in a folder of its own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support import ROOT, leftovers
from tests.support.stack import free_port
from tests.support.waiting import eventually

CONFIG: Final = ROOT / "deploy" / "nginx" / "nginx.conf"
_NOBODY: Final = 9
"""A port on which nothing listens."""


class Nginx:
    """nginx in front of web hosts and of those that serve gRPC, all on this machine.

    `changes`: directives of the configuration, by name, with another value; `max_fails` is the hosts'.
    """

    def __init__(self, folder: Path, changes: Mapping[str, str], *, max_fails: str = "") -> None:
        self._folder = folder
        self._max_fails = max_fails
        self._port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        text = CONFIG.read_text("utf-8")
        for port, own in ((5556, self._port), (5557, self.grpc_port)):
            assert f"listen {port}" in text
            text = text.replace(f"listen {port}", f"listen 127.0.0.1:{own}")
        for directive, value in changes.items():
            before, after = text.split(f" {directive} ", 1)
            text = f"{before} {directive} {value};{after.split(';', 1)[1]}"
        folder.mkdir()
        self._run_in = leftovers.folder()
        (folder / "nginx.conf").write_text(text, "utf-8")
        self._command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        if os.geteuid() == 0:  # its processes would be nobody's, who may not enter a test's folder
            self._command += ["-g", "user root;"]

    def hosts(self, web: Sequence[int], grpc: Sequence[int] = ()) -> None:
        """Write the files of hosts: the usual lines, one for each of these ports."""
        for name, ports in (("web", web), ("grpc", grpc or [_NOBODY])):
            text = (CONFIG.parent / f"{name}_hosts.conf").read_text("utf-8")
            (line,) = [each for each in text.splitlines() if each.startswith("server 127.0.0.1:")]
            options = line.split(" ", 2)[2]
            if self._max_fails:
                options = re.sub(r"max_fails=\d+", f"max_fails={self._max_fails}", options)
            lines = [f"server 127.0.0.1:{port} {options}\n" for port in ports]
            (self._folder / f"{name}_hosts.conf").write_text("".join(lines), "utf-8")

    def start(self) -> None:
        """Start it; it listens when this returns."""
        subprocess.run(self._command, check=True, timeout=20, cwd=self._run_in)

    def reload(self) -> None:
        """Have it read its files again; its old processes have answered what they had when this returns."""
        before = self._processes()
        subprocess.run([*self._command, "-s", "reload"], check=True, timeout=20)
        eventually(lambda: bool(now := self._processes()) and not now & before, within_s=60)

    def stop(self) -> None:
        """End it, at once."""
        pid = self._pid()
        subprocess.run([*self._command, "-s", "stop"], check=True, timeout=20)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        self._run_in.rmdir()

    def log(self) -> str:
        """The log of its errors."""
        return (self._folder / "error.log").read_text("utf-8")

    def _pid(self) -> int:
        return int((self._folder / "nginx.pid").read_text())

    def _processes(self) -> set[int]:
        return {child.pid for child in psutil.Process(self._pid()).children()}


@contextmanager
def nginx_before(
    folder: Path,
    web: Sequence[int],
    *,
    grpc: Sequence[int] = (),
    max_fails: str = "",
    changes: Mapping[str, str] | None = None,
) -> Iterator[Nginx]:
    """A context: nginx in front of the hosts at these ports; skips where nginx is not installed."""
    if shutil.which("nginx") is None:
        pytest.skip("NOT RUN: nginx is not installed (Debian: apt install nginx-light)")
    nginx = Nginx(folder, changes or {}, max_fails=max_fails)
    nginx.hosts(web, grpc)
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()


@contextmanager
def running_nginx(folder: Path, port: int, **changes: str) -> Iterator[str]:
    """A context: nginx in front of the web tier on `port`; gives its URL. Skips where there is no nginx."""
    with nginx_before(folder, [port], changes=changes) as nginx:
        yield nginx.url
