"""`python -m deploy.serve`: check that nothing prevents a start, start everything, say when it is ready.

Owns the foreground process: it receives the signals, and starts and stops supervisor.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from broker.clock import clock_of
from broker.connection import check_server, connect, server_pid
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.registry import Registry
from deploy.serve import preflight, programs, ready
from deploy.serve.programs import CannotStart
from deploy.serve.stop_request import STOP, StopRequest
from settings import PROJECT, SettingError, Settings, is_given, masked, misspelt
from telemetry import logs

_LOG: Final = logging.getLogger("deploy.serve")

VAR: Final = PROJECT / "var"

FALLBACK: Final = "photos10"
"""The model that answers when the default model can't be loaded (its weights can't be downloaded, say)."""

_BEGUN_S: Final = 5.0
"""Supervisor starts its programs within a second of its own start, on a busy machine within two."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit status."""
    argparse.ArgumentParser(
        prog="python -m deploy.serve",
        description="Run Redis, model servers and the web tier until Ctrl-C: what `make serve` starts.",
        epilog="Settings are environment variables: docs/settings.md.",
    ).parse_args(arguments)
    began = time.monotonic()
    try:
        settings = _with_fallback(Settings.from_env())
        if settings.log_format == logs.JSON:
            logs.set_up("info", logs.JSON, "")
        _check_files(settings)
        with _only_one(VAR) as lock:
            embedded = not settings.redis_url
            if embedded:
                settings = replace(settings, redis_url=programs.redis_url(VAR))
                # Before the ports: what is left behind may have those, too.
                _check_nothing_left_behind(settings)
            _check_ports(settings)
            _check_models(settings)
            if not embedded:
                _check_redis(settings)
            config = programs.write(settings, VAR, embedded_redis=embedded)
            return _supervise(settings, config, began, lock=lock)
    except (SettingError, CannotStart) as error:
        _say(f"Batchwire can't start: {error}")
        return 1
    except KeyboardInterrupt:  # before anything was started
        return 130


def _supervise(settings: Settings, config: Path, began: float, *, lock: int) -> int:
    signals = StopRequest()
    _warn_without_fallback(settings)
    for variable, setting in misspelt().items():
        _say(f"{variable} is not a setting, and has no effect. Did you mean {setting}?")
    _say(f"Starting Batchwire with the models {', '.join(settings.served)} ...")
    # Its own process group: Ctrl-C reaches this process alone, which then stops things in order.
    supervisor = subprocess.Popen(  # noqa: S603 - our own command, no shell
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
        cwd=PROJECT,
        env=settings.environment(),
        process_group=0,
        # Supervisor holds the folder's lock as well, and stops everything in order if this process is killed.
        pass_fds=(lock,),
        preexec_fn=_in_child,  # noqa: PLW1509 - this process has no other thread
    )

    def running() -> bool:
        return not signals.came(within_s=0) and supervisor.poll() is None

    _say_when_ready(settings, began, running)
    programs_: list[psutil.Process] = []
    while running():
        with contextlib.suppress(psutil.NoSuchProcess):
            programs_ = psutil.Process(supervisor.pid).children(recursive=True)
        signals.came(within_s=1.0)
    if supervisor.poll() is None:
        _say("Stopping: requests in flight are answered first ...")
        _wait_until_begun(supervisor, programs.count(config))
        supervisor.terminate()
    status = supervisor.wait()
    if signals.came(within_s=0):
        _say("Batchwire has stopped.")
        return 0
    _say(f"supervisor exited unexpectedly (status {status}): stopping the processes that it left behind.")
    _end(programs_, settings.request_timeout_s + 4)
    return 1


def _wait_until_begun(supervisor: "subprocess.Popen[bytes]", count: int) -> None:
    """Return once all programs of supervisor run, or have had the time to.

    Told to stop before, it starts them all the same, and stops them at once. But a signal to a process that
    it has just forked is lost when that becomes the program: Ctrl-C then took 16 s.
    """
    until = time.monotonic() + _BEGUN_S
    while supervisor.poll() is None and time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            commands = [child.cmdline() for child in psutil.Process(supervisor.pid).children()]
            if len(commands) >= count and not any("supervisor.supervisord" in each for each in commands):
                return
        time.sleep(0.02)


def _end(left_behind: list[psutil.Process], within_s: float) -> None:
    for process in left_behind:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left_behind, timeout=within_s)
    for process in alive:
        process.kill()


def _in_child() -> None:
    """Unblock signals; leave no core dumps; ask for SIGTERM when the parent dies (prctl(2), Linux).

    A core dump of any of these processes would have pictures in it.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def _only_one(var: Path) -> Iterator[int]:
    """Hold the folder's lock, a file descriptor: two services over one Redis file would corrupt it."""
    var.mkdir(exist_ok=True)
    with (var / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            process = lock.read().strip()
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                raise CannotStart(
                    f"`make serve` from this folder (process {process}) was killed, and what it started "
                    "is still stopping. Start again in a few seconds."
                ) from None
            raise CannotStart(
                f"`make serve` is already running from this folder (process {process or '?'})."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _with_fallback(settings: Settings) -> Settings:
    """Add the usual fallback if its folder exists, unless the user has set FALLBACK_MODEL."""
    has_folder = not settings.has_store and (Path(settings.models_dir) / FALLBACK / "model.toml").is_file()
    is_usual = has_folder and not is_given("FALLBACK_MODEL")
    return replace(settings, fallback_model=FALLBACK) if is_usual else settings


def _missing_fallback(settings: Settings) -> str:
    if settings.has_store:
        return f"MODELS_DIR is {settings.models_place}, and FALLBACK_MODEL is not set"
    return f"{settings.models_dir} has no {FALLBACK}"


def _warn_without_fallback(settings: Settings) -> None:
    if not settings.fallback_model and not is_given("FALLBACK_MODEL"):
        _say(
            f"No fallback model: {_missing_fallback(settings)}. If {settings.default_model} fails "
            "to load, requests that name no model get 503. FALLBACK_MODEL=NAME chooses another fallback, "
            "FALLBACK_MODEL=none turns it off."
        )


def _check_files(settings: Settings) -> None:
    """Check the files again that `make preflight` has checked: this module can be started directly."""
    if problem := preflight.missing(settings):
        raise CannotStart(problem)


def _check_ports(settings: Settings) -> None:
    _check_port(settings, "PORT", settings.port)
    if settings.grpc_port == settings.port:
        raise CannotStart(
            f"PORT and GRPC_PORT are both {settings.port}. Choose another port for gRPC, or turn it off: "
            "GRPC_PORT=0 make serve"
        )
    if settings.grpc_port:
        _check_port(settings, "GRPC_PORT", settings.grpc_port)
    if settings.metrics_port:
        _check_metrics_ports(settings)


def _check_metrics_ports(settings: Settings) -> None:
    """Raise CannotStart where a process could not tell its metrics, or would take another's port for them."""
    first, last = settings.metrics_port, settings.metrics_port + settings.metrics_ports - 1
    for variable, port in (("PORT", settings.port), ("GRPC_PORT", settings.grpc_port)):
        if first <= port <= last:
            raise CannotStart(
                f"{variable}={port} is one of the ports from {first} to {last}, on which the processes tell "
                "their metrics. Choose another METRICS_PORT, or turn it off: METRICS_PORT=0 make serve"
            )
    for port in range(first, last + 1):
        _check_port(settings, "METRICS_PORT", port)


def _check_port(settings: Settings, variable: str, port: int) -> None:
    """Raise CannotStart where nothing can listen on the port that this variable names."""
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.bind, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                raise CannotStart(
                    f"BIND={settings.bind} is not an address of this machine. With BIND=127.0.0.1 this "
                    "machine alone reaches the service, with BIND=0.0.0.0 others too."
                ) from None
            problem = f"can't be opened ({error.strerror}). Change BIND"
            if error.errno == errno.EADDRINUSE:
                problem = "is in use. Stop the program that uses it"
            without = ", or serve without gRPC: GRPC_PORT=0 make serve" if variable == "GRPC_PORT" else ""
            raise CannotStart(
                f"port {port} on {settings.bind} {problem}, or choose another port: "
                f"{variable}={port % 65535 + 1} make serve{without}"
            ) from None


def _check_models(settings: Settings) -> None:
    """Let the model server read its catalogue, which this process does not know."""
    if settings.default_model not in settings.served:
        named, fallback = ", ".join(settings.models), settings.fallback_model
        if fallback not in ("", *settings.models):
            named += f" ({fallback} is added to them, as the fallback)"
        raise CannotStart(f"DEFAULT_MODEL={settings.default_model!r} is not one of MODELS: {named}.")
    checked = subprocess.run(
        [sys.executable, "-m", "model_server", "serve", "--check"],
        cwd=PROJECT,
        env=settings.environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise CannotStart(checked.stderr.strip())


def _say_when_ready(settings: Settings, began: float, running: Callable[[], bool]) -> None:
    url, has_keys = settings.local_url, settings.api_keys == "required"
    registry = _registry(settings) if has_keys else None
    cards = ready.wait(url, settings.served, say=_say, running=running, registry=registry)
    if cards is None:
        return
    default, seconds = (settings.default_model, settings.fallback_model), time.monotonic() - began
    _say(
        ready.announcement(
            url, cards, default, seconds=seconds, grpc_port=settings.grpc_port, has_keys=has_keys
        )
    )


def _registry(settings: Settings) -> Registry:
    client = connect(settings.redis_url, timeout_s=3)
    return Registry(client, Keys(settings.key_prefix), clock_of(client))


def _check_nothing_left_behind(settings: Settings) -> None:
    """Refuse to start beside a Redis of an earlier run: two on one append-only file would corrupt it."""
    with contextlib.suppress(BrokerUnavailable):
        redis = server_pid(connect(settings.redis_url, timeout_s=3))
        others = sorted(set(_processes_on(settings.redis_url)) - {redis})
        them, which = ("it", "") if not others else ("them", ", and so are processes that use it")
        raise CannotStart(
            f"a Redis from an earlier run is still running (process {redis}){which}. Stop {them}, then start "
            f"again: kill {' '.join(map(str, [*others, redis]))}"
        )


def _processes_on(redis_url: str) -> Iterator[int]:
    """The ids of this user's processes that were started with this REDIS_URL."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("REDIS_URL") == redis_url:
                yield process.pid


def _check_redis(settings: Settings) -> None:
    try:
        for warning in check_server(connect(settings.redis_url, timeout_s=3)):
            _say(f"Redis at {masked(settings.redis_url)}: {warning}.")
    except (BrokerUnavailable, ValueError) as error:
        raise CannotStart(
            f"{error} REDIS_URL is {masked(settings.redis_url)}: start that Redis, correct the URL, or unset "
            "it to use the embedded Redis."
        ) from None


def _say(text: str) -> None:
    if logs.is_json():
        _LOG.info("%s", text)
        return
    try:
        print(text, flush=True)  # noqa: T201 - unlike `write` it does not mind that there is no output (`>&-`)
    except OSError:
        # The terminal was closed, or the pipe's reader has ended: no reason to end without stopping the rest.
        # What is left in the buffer goes nowhere, or the interpreter would complain of it at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
