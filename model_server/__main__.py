"""`python -m model_server`: serve the models of MODELS until SIGTERM; with `--check`, only read them.

`python -m model_server quantise` and `check` are other commands (quantise.py, trial.py), which serve nothing.

Owns the process: settings, logging, signals, one thread a model. Knows no queue and no network itself.
"""

import logging
import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from broker.clock import RedisClock
from broker.connection import check_server, connect, masked
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.lease import Lease
from model_server import engines
from model_server.catalogue import CatalogueError, ModelSpec, read_spec
from model_server.device import Device
from model_server.engines import Engine, EngineOptions
from model_server.engines.choice import Choice, choose_for
from model_server.keeper import Keeper
from model_server.signals import StopSignals
from model_server.worker import IDLE_S, Worker, WorkerLimits
from settings import EXIT_CONFIG, SettingError, Settings, weights

_LOG = logging.getLogger("model_server")

_DRAIN_MARGIN_S: Final = 1.0


def main() -> int:
    """Serve; return the exit status."""
    if sys.argv[1:2] == ["quantise"]:
        from model_server import quantise  # noqa: PLC0415 - it decodes pictures, which a serving process never does

        return quantise.main(sys.argv[2:])
    if sys.argv[1:2] == ["check"]:
        from model_server import trial  # noqa: PLC0415 - likewise

        return trial.main(sys.argv[2:])
    try:
        settings = Settings.from_env()
        given = weights(settings)
        specs = [read_spec(Path(settings.models_dir), name, given) for name in settings.models]
    except (SettingError, CatalogueError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    if "--check" in sys.argv[1:]:
        return 0
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
    )
    signals = StopSignals()
    if not settings.redis_url:
        sys.stderr.write("REDIS_URL is not set: name a Redis, or use `make serve`, which starts one.\n")
        return EXIT_CONFIG
    if not _await_redis(settings, signals):
        return 0
    _serve(settings, specs, signals)
    return 0


def _await_redis(settings: Settings, signals: StopSignals) -> bool:
    """Wait until Redis answers, saying why it does not. Returns False when told to stop meanwhile."""
    client = connect(settings.redis_url, timeout_s=settings.lease_s)
    said = ""
    while True:
        try:
            for warning in check_server(client):
                _LOG.warning("Redis at %s: %s", masked(settings.redis_url), warning)
            return True
        except BrokerUnavailable as error:
            if error.message != said:
                said = error.message
                _LOG.warning("%s Waiting for it at %s.", said, masked(settings.redis_url))
        if signals.wait(0.5):
            return False


def _serve(settings: Settings, specs: list[ModelSpec], signals: StopSignals) -> None:
    stopping = threading.Event()
    device = Device()
    workers = [_worker(settings, spec, _choice(settings, spec), device, stopping) for spec in specs]
    keepers = [
        Keeper(worker, lease_s=settings.lease_s, model_call_max_s=settings.model_call_max_s)
        for worker in workers
    ]
    threads = [
        threading.Thread(target=_run, args=(worker,), name=f"worker-{worker.spec.name}", daemon=True)
        for worker in workers
    ]
    for thread in [*threads, *keepers]:
        thread.start()
    signals.wait()
    stopping.set()
    _LOG.info("stopping: what runs is finished, the rest goes back to the queue")
    drained_by = time.monotonic() + settings.request_timeout_s + _DRAIN_MARGIN_S
    for thread in threads:
        # A load can't be interrupted, a batch can take a while: what is not done by then is left to
        # others, once the lease has lapsed.
        thread.join(max(0.0, drained_by - time.monotonic()))
    logging.shutdown()
    # Not a return: threads of an engine that still loads would keep the process.
    os._exit(0)


def _run(worker: Worker) -> None:
    try:
        worker.run()
    except Exception:  # noqa: BLE001 - a thread that dies quietly would leave a model without its worker
        _LOG.exception("the worker of %s failed; this process ends. This is a bug", worker.spec.name)
        os._exit(1)


def _worker(
    settings: Settings, spec: ModelSpec, choice: Choice, device: Device, stopping: threading.Event
) -> Worker:
    spec = replace(spec, engine=choice.engine, precision=choice.precision)
    keys = Keys(settings.key_prefix)
    clock = RedisClock()
    lease = Lease(
        # Renewals must fail soon enough to be tried again before the lease lapses.
        connect(settings.redis_url, timeout_s=settings.lease_s / 3),
        keys,
        spec.card(),
        lease_s=settings.lease_s,
        key_ttl_s=settings.key_ttl_s,
        clock=clock,
    )
    consumer = Consumer(
        connect(settings.redis_url, timeout_s=IDLE_S + settings.lease_s),
        keys,
        spec.name,
        key_ttl_s=settings.key_ttl_s,
        result_ttl_s=settings.result_ttl_s,
    )
    return Worker(
        spec,
        partial(_load, spec, choice, settings),
        lease,
        consumer,
        clock,
        limits=WorkerLimits(settings.batch_size, settings.max_attempts, settings.batch_wait_ms / 1000),
        device=device,
        stopping=stopping,
    )


def _choice(settings: Settings, spec: ModelSpec) -> Choice:
    return choose_for(spec, settings.engine, settings.precision, keras_backend=settings.keras_backend)


def _load(spec: ModelSpec, choice: Choice, settings: Settings) -> Engine:
    options = EngineOptions(
        settings.batch_size, cache=Path(settings.cache_dir), threads=settings.engine_threads
    )
    return engines.load(spec, choice, options)


if __name__ == "__main__":
    sys.exit(main())
