"""The real nginx with deploy/nginx/nginx.conf, on a free port and in a folder of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.stack import free_port
from tests.support.waiting import eventually

CONFIG = ROOT / "deploy" / "nginx" / "nginx.conf"


@contextmanager
def running_nginx(folder: Path, port: int, **changes: str) -> Iterator[str]:
    """A context: nginx in front of the web tier on `port`. Gives its URL; skips where nginx is not installed.

    `changes`: directives of the configuration, by name, with another value.
    """
    if shutil.which("nginx") is None:
        pytest.skip("NOT RUN: nginx is not installed (Debian: apt install nginx-light)")
    own = free_port()
    text = CONFIG.read_text("utf-8").replace("127.0.0.1:5555", f"127.0.0.1:{port}")
    text = text.replace("listen 5556;", f"listen 127.0.0.1:{own};")
    for directive, value in changes.items():
        before, after = text.split(f"{directive} ", 1)
        text = f"{before}{directive} {value};{after.split(';', 1)[1]}"
    folder.mkdir()
    (folder / "nginx.conf").write_text(text, "utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    if os.geteuid() == 0:  # its processes would be nobody's, who may not enter a test's folder
        command += ["-g", "user root;"]
    subprocess.run(command, check=True, timeout=20)
    try:
        yield f"http://127.0.0.1:{own}"
    finally:
        pid = int((folder / "nginx.pid").read_text())
        subprocess.run([*command, "-s", "stop"], check=True, timeout=20)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
