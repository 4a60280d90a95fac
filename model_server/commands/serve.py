"""`python -m model_server serve`: serve the models of MODELS until SIGTERM; with --check, only read them.

Owns the process: settings, logging, signals, one thread for each model. Knows no queue and no network itself.
"""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from broker import metrics
from broker.clock import clock_of
from broker.connection import check_server, connect
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import MOST_SHARDS, Card
from broker.outage import Outage
from model_server.catalogue.folder_watch import Watch
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_spec, unread
from model_server.engines import loading
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import Engine, EngineOptions
from model_server.hooks import HookOptions
from model_server.serving.device import Device
from model_server.serving.health_file import HealthFiles
from model_server.serving.lease_keeper import EXIT_HUNG, LeaseKeeper
from model_server.serving.pipeline import WorkerLimits
from model_server.serving.public_reasons import public
from model_server.serving.stop_signals import StopSignals
from model_server.serving.versioned_model import Loaders, VersionedModel, WorkerThreads
from model_server.serving.worker import IDLE_S, Worker
from model_server.stores import model_store
from model_server.stores.model_store import ModelStore, StoreOptions
from model_server.stores.remote_files import StoreError
from settings import EXIT_CONFIG, SettingError, Settings, for_own_code, masked, weights
from telemetry import logs, tracing

_LOG = logging.getLogger("model_server")

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"

_EPILOG: Final = f"""\
exit status: 0 stopped by a signal, and drained; {EXIT_CONFIG} a setting or a model's folder is invalid;
{EXIT_HUNG} a call of a network hung: restart it.
Settings are environment variables: docs/settings.md.
"""

_DRAIN_MARGIN_S: Final = 1.0

_FIRST_DOWNLOAD_S: Final = 30.0
"""How long a start waits for a store's models before their workers say that they are being downloaded."""

CALL_SHARE: Final = 0.125
"""How much of a request's time a call of the network may take: a picture may wait for two before its own, and
half of the time is left for the queue."""

_CARD_MARGIN_S: Final = 3.0
"""A frontend's snapshot of the cards is up to two seconds old, and its image may wait for a decoder too."""


def main(arguments: Sequence[str] = ()) -> int:
    """Serve; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings.from_env()
        store = _store(settings, only_checks=options.check)
        models = [] if settings.has_store else [_read(settings, name) for name in settings.served]
    except (SettingError, CatalogueError, StoreError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    if options.check:
        return 0
    logs.set_up(settings.log_level, settings.log_format, _LOG_FORMAT)
    if settings.otel_exporter_otlp_endpoint:
        tracing.start("batchwire-model-server")
    signals = StopSignals()
    try:
        settings.require_redis()
    except SettingError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    if not _await_redis(settings, signals):
        return 0
    if store is not None:
        if not _await_store(store, signals):
            return 0
        models = [_read_from(store, settings, name) for name in settings.served]
    status = _serve(settings, models, store, signals)
    tracing.stop(within_s=tracing.STOP_S)
    logging.shutdown()
    # Not a return: threads of an engine that still loads, or hangs, would keep the process alive.
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_server serve",
        description="Serve the models of MODELS from the Redis of REDIS_URL until SIGTERM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="only read the settings and the models' folders")
    return parser


class FoundModel(NamedTuple):
    """A model to serve, and the watch over its folder."""

    spec: ModelSpec
    watch: Watch
    unread: str = ""
    """Why there is no folder yet that can be read; empty: it was read."""


def _read(settings: Settings, name: str) -> FoundModel:
    """Read a model and watch its folder. Raises CatalogueError."""
    watch = Watch(Path(settings.models_dir) / name)  # before reading, so that no change is missed
    return FoundModel(read_spec(Path(settings.models_dir), name, weights(settings)), watch)


def _store(settings: Settings, *, only_checks: bool) -> ModelStore | None:
    """The store of MODELS_DIR, not yet followed; None for a directory. Raises StoreError."""
    if not settings.has_store:
        return None
    model_store.require(settings.models_dir)
    if only_checks:
        return None
    options = StoreOptions(
        settings.models_dir, Path(settings.cache_dir), settings.store_look_s, settings.store_max_mb
    )
    return ModelStore(options, settings.served)


def _await_store(store: ModelStore, signals: StopSignals) -> bool:
    """Wait for the first download, if there is no copy. Returns False if a signal comes first."""
    store.start()
    until = time.monotonic() + _FIRST_DOWNLOAD_S
    while not store.is_ready() and time.monotonic() < until:
        if signals.wait(0.1):
            return False
    return True


def _read_from(store: ModelStore, settings: Settings, name: str) -> FoundModel:
    """As `_read`; a model that can't be read yet is one that only says why."""
    watch = Watch(store.link(name))
    try:
        return FoundModel(store.read(name, weights(settings)), watch)
    except CatalogueError as error:
        return FoundModel(unread(name), watch, public(str(error), store.link(name)))


def _await_redis(settings: Settings, signals: StopSignals) -> bool:
    """Wait until Redis answers, logging why it does not. Returns False if a signal comes first."""
    client = connect(settings.redis_url, timeout_s=settings.lease_s)
    logged = ""
    while True:
        try:
            for warning in check_server(client):
                _LOG.warning("Redis at %s: %s", masked(settings.redis_url), warning)
            return True
        except BrokerUnavailable as error:
            if error.detail != logged:
                logged = error.detail
                _LOG.warning("%s Waiting for Redis at %s.", logged, masked(settings.redis_url))
        if signals.wait(0.5):
            return False


def _serve(
    settings: Settings, models: list[FoundModel], store: ModelStore | None, signals: StopSignals
) -> int:
    """Serve until a signal comes or a network hangs; return the exit status."""
    hung = threading.Event()

    def on_hung() -> None:
        hung.set()
        signals.give()

    if settings.metrics_port:
        metrics.serve(settings.metrics_port, ports=settings.metrics_ports, address=settings.bind)
    device, outage, health = Device(), Outage(), HealthFiles(Path(settings.health_dir))

    def serving(found: FoundModel) -> VersionedModel:
        name = found.spec.name
        read_folder = partial(read_spec, Path(settings.models_dir), name, weights(settings))
        loaders = Loaders(
            read=read_folder if store is None else partial(store.read, name, weights(settings)),
            load=partial(load_engine, settings),
            make_worker=partial(worker_threads, settings, device, outage, on_hung, health=health),
        )
        return VersionedModel(found.spec, found.watch, loaders, unread=found.unread)

    versioned: list[VersionedModel] = []
    while models:  # a list that still has a spec would keep its version from a store on the disk
        versioned.append(serving(models.pop(0)))
    for model in versioned:
        model.start()
    if store is not None:
        by_name = {model.name: model for model in versioned}
        store.tell(lambda name, reason: by_name[name].explain(reason))
    signals.wait()
    _LOG.info("stopping: running batches are finished, the other jobs go back to the queue")
    if store is not None:
        store.stop()
    for model in versioned:
        model.stop(within_s=settings.request_timeout_s)
    drained_by = time.monotonic() + settings.request_timeout_s + _DRAIN_MARGIN_S
    for model in versioned:
        # A load can't be interrupted, and a batch can take a while: other workers do what is not done by
        # then, once the lease has lapsed.
        model.join(drained_by)
    health.clear()
    return EXIT_HUNG if hung.is_set() else 0


def worker_threads(
    settings: Settings,
    device: Device,
    outage: Outage,
    on_hung: Callable[[], None],
    spec: ModelSpec,
    load: Callable[[], Engine],
    *,
    health: HealthFiles | None = None,
) -> WorkerThreads:
    """A worker of this version, its lease keeper and its thread, none of them started."""
    try:
        choice = _choice(settings, spec)
    except Exception:  # noqa: BLE001 - it reads the network's files, as does `load`, which says why that failed
        choice = EngineChoice("", "")
    chosen = replace(spec, engine=choice.engine, precision=choice.precision)
    worker = _worker(settings, chosen, device, outage, load)
    keeper_of = partial(
        LeaseKeeper,
        lease_s=settings.lease_s,
        model_call_max_s=settings.model_call_max_s,
        on_hung=on_hung,
        health=health,
    )
    worker.pipeline.parts.keeper_of = keeper_of
    keeper = keeper_of(worker.registration)
    thread = threading.Thread(target=_run, args=(worker,), name=f"worker-{spec.name}", daemon=True)
    return WorkerThreads(worker, keeper, thread)


def _run(worker: Worker) -> None:
    try:
        worker.run()
    except Exception:  # noqa: BLE001 - a thread that dies silently would leave a model without its worker
        _LOG.exception("the worker of %s failed, so this process exits; this is a bug", worker.spec.name)
        os._exit(1)


def _worker(
    settings: Settings, spec: ModelSpec, device: Device, outage: Outage, load: Callable[[], Engine]
) -> Worker:
    keys = Keys(settings.key_prefix)
    # Renewals must fail early enough to be retried before the lease lapses.
    client = connect(settings.redis_url, timeout_s=settings.lease_s / 3)
    clock = clock_of(client).of(spec.name)
    lease = Lease(
        client,
        keys,
        _card(settings, spec),
        labels=spec.labels,
        lease_s=settings.lease_s,
        key_ttl_s=settings.key_ttl_s,
        clock=clock,
    )
    consumer = Consumer(
        connect(settings.redis_url, timeout_s=IDLE_S + settings.lease_s, blocking=MOST_SHARDS + 1),
        keys,
        spec.name,
        key_ttl_s=settings.key_ttl_s,
        result_ttl_s=settings.result_ttl_s,
        input_tag=spec.input.tag,
        clock=clock,
        keeps_dead_pictures=settings.dead_letter_pictures == "keep",
    )
    limits = WorkerLimits(
        settings.batch_size,
        settings.max_attempts,
        settings.batch_wait_ms / 1000,
        call_s=settings.request_timeout_s * CALL_SHARE,
        card_s=settings.request_timeout_s + _CARD_MARGIN_S,
    )
    return Worker(spec, load, lease, consumer, clock, limits=limits, device=device, outage=outage)


def _card(settings: Settings, spec: ModelSpec) -> Card:
    """The model's card. A pipeline's jobs are in no queue."""
    card = spec.card()
    return card if card.steps else replace(card, shards=settings.queue_shards)


def _choice(settings: Settings, spec: ModelSpec) -> EngineChoice:
    return choose_for(spec, settings.engine, settings.precision, keras_backend=settings.keras_backend)


def load_engine(settings: Settings, spec: ModelSpec) -> Engine:
    """The engine of a model, as the settings choose it. Raises ModelUnavailable."""
    choice = _choice(settings, spec)
    options = EngineOptions(
        settings.batch_size,
        cache=Path(settings.cache_dir),
        threads=settings.engine_threads,
        provider=settings.onnxruntime_provider,
        hooks=_hook_options(settings),
    )
    return loading.load(replace(spec, engine=choice.engine, precision=choice.precision), choice, options)


def _hook_options(settings: Settings) -> HookOptions:
    """A store's hooks.py has to be allowed by itself: its writers may be others than the host's."""
    if settings.hooks == "on" and settings.has_store and settings.store_hooks == "off":
        off_by = "it came from a store, and STORE_HOOKS=off"
        return HookOptions(are_on=False, off_by=off_by, environment=for_own_code())
    return HookOptions(are_on=settings.hooks == "on", environment=for_own_code())
