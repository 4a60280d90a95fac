"""Gunicorn's settings, from ours. Owns the processes, threads and time-outs of the web tier."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from settings import SettingError, Settings
from telemetry import logs, tracing
from web import metrics_folder
from web.server import capacity

try:
    _settings = Settings.from_env().require_redis()
except SettingError as error:
    sys.exit(str(error))

tracing.hold_back()
metrics_folder.make()

wsgi_app = "web.wsgi:app"
bind = _settings.listen
worker_class = "web.server.worker.PatientWorker"
_size = capacity.of(_settings.web_workers, _settings.web_threads)
workers = _size.workers
threads = _size.threads
# A draining process may still have to wait for its slowest answer.
graceful_timeout = int(_settings.request_timeout_s) + 2
# Heartbeats come once a second from the process's own loop, not from its threads: silence means that it
# hangs. On 2 busy cores the latest came after 1.7 s at a load of 18, after 9.6 s at 34.
timeout = 15
keepalive = _settings.keepalive_s
# An eighth is for those that close (web/server/worker.py).
worker_connections = 1200
# The scheme is used nowhere: proxies in a chain that disagree on it are no reason to refuse a request.
secure_scheme_headers: dict[str, str] = {}
# Whoever is on this machine, a proxy included, would name the app's path and the request's in header fields.
forwarder_headers = ""
# sendfile waits indefinitely for a client that does not read, and the pages are small.
sendfile = False
# A heartbeat sets a file's times; a slow disk would delay it.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - memory, not a predictable name
control_socket_disable = True
loglevel = _settings.log_level
if _settings.log_format == logs.JSON:
    logconfig_dict = logs.gunicorn_config(loglevel)
proc_name = "batchwire-web"


def worker_exit(_server: Any, worker: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
    """Let pipelines that are polled end, and calls of webhooks, as long as Gunicorn lets this process.

    Then record which API keys were used, and send the last spans.
    """
    if entry := sys.modules.get("web.wsgi"):  # it is loaded once the process has started
        entry.app.extensions["polled_pipelines"].stop(within_s=worker.left_s())
        if deliverer := entry.app.extensions.get("deliverer"):
            deliverer.stop(within_s=worker.left_s())
        if (api_keys := entry.app.extensions["jobs"].api_keys) is not None:
            api_keys.known.stop()
        tracing.stop(within_s=min(tracing.STOP_S, worker.left_s()))


def child_exit(_server: Any, worker: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
    """Keep what a process counted, also if it was killed."""
    metrics_folder.forget(worker.pid)


def on_exit(_server: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
    """Let go of the metrics. A master that takes over (SIGUSR2) has its own."""
    metrics_folder.remove()


def on_starting(server: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
    """Refuse to start with a certificate: Gunicorn would announce https, but web.server speaks plain HTTP."""
    if server.cfg.is_ssl:
        sys.exit(
            "Batchwire's web tier does not serve TLS. Leave out --certfile and --keyfile, and terminate TLS "
            "in a reverse proxy (nginx, for example)."
        )
