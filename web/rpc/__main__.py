"""`python -m web.rpc`: serve gRPC on GRPC_PORT until SIGTERM, then answer what is in flight.

Owns the process: settings, signals, its exit status. The signals are blocked before anything is imported that
starts a thread, as NumPy does: one that does not block them would end the process.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

from settings import EXIT_CONFIG, SettingError, Settings
from telemetry import tracing

_LOG = logging.getLogger("web.rpc")

_STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return the exit status."""
    options = _parser().parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        settings = Settings.from_env().require_redis()
    except SettingError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    from web import start

    start.prepare(settings, "batchwire-grpc")
    if not settings.grpc_port:
        # A container that ended would be started again.
        _LOG.info("GRPC_PORT is 0: there is no gRPC. Waiting to be stopped.")
        signal.sigwait(_STOP)
        return 0
    return _serve(settings, options.port or settings.grpc_port)


def _serve(settings: Settings, port: int) -> int:
    from broker import metrics
    from web.rpc.server import RpcServer
    from web.server import capacity

    capacity.open_files()
    try:
        server = RpcServer(settings, port=port)
    except RuntimeError as error:
        _LOG.error("port %d on %s can't be opened: %s", port, settings.bind, error)
        return 1
    if settings.metrics_port:
        metrics.serve(settings.metrics_port, ports=settings.metrics_ports, address=settings.bind)
    server.start()
    _LOG.info("gRPC listens on port %d of %s", port, settings.bind)
    signal.sigwait(_STOP)
    _LOG.info("stopping: calls in flight are answered first")
    server.stop(within_s=settings.request_timeout_s)
    tracing.stop(within_s=tracing.STOP_S)
    logging.shutdown()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m web.rpc",
        description="Batchwire's gRPC. Settings are environment variables: docs/settings.md.",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="listen here, unless GRPC_PORT is 0 (for containers)"
    )
    return parser


if __name__ == "__main__":
    tracing.hold_back()
    sys.exit(main())
