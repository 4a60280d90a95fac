"""A model whose folder changes, with a network that is none, on a real Redis; its looks are the test's."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from broker.clock import RedisClock
from broker.errors import ModelUnavailable
from broker.keys import Keys
from broker.registry import Registry
from model_server.catalogue.folder_watch import QUIET_S, Watch
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.engine import Engine
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.versioned_model import Loaders, VersionedModel, WorkerThreads
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.waiting import eventually


class Model:
    """A folder, and a Serving whose looks are the test's."""

    def __init__(self, folder: Path, client: redis.Redis, keys: Keys) -> None:
        self.folder = folder
        self.on_load: Callable[[], object] = lambda: None
        self.on_read: Callable[[], object] = lambda: None
        self.loads = self.workers_made = 0
        self.now = 0.0
        self._registry = Registry(client, keys, RedisClock())
        (folder / "weights").write_text("one")
        watch = Watch(folder)

        def read() -> ModelSpec:
            self.on_read()
            return fakes.spec(folder)

        def load(_: ModelSpec) -> Engine:
            self.loads += 1
            self.on_load()
            return FakeEngine()

        def make_worker(spec: ModelSpec, load: Callable[[], Engine]) -> WorkerThreads:
            self.workers_made += 1
            self.on_make_worker()
            worker = fakes.unregistered_worker(client, keys, spec, load)
            keeper = LeaseKeeper(worker.registration, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
            return WorkerThreads(worker, keeper, threading.Thread(target=worker.run, daemon=True))

        self.serving = VersionedModel(read(), watch, Loaders(read, load, make_worker))
        self.serving.start(watching=False)  # without its own looks

    def on_make_worker(self) -> None:
        """Called before a worker is made."""

    def end(self, client: redis.Redis, keys: Keys) -> None:
        for threads in self.serving.workers:
            threads.worker.stop()
        client.rpush(keys.of(MODEL).bell, "1")
        self.serving.join(float("inf"))
        for threads in self.serving.workers:
            threads.keeper.close()

    def change(self, text: str) -> None:
        (self.folder / "weights").write_text(text)

    def look(self) -> None:
        """A look that notices what has changed, and one after it was quiet."""
        for _ in range(2):
            self.now += QUIET_S
            self.serving.look(self.now)

    @property
    def version(self) -> str:
        return self.serving.workers[-1].worker.version

    @property
    def reason(self) -> str:
        return self._registry.models(fresh=True)[MODEL].reason

    @property
    def state(self) -> str:
        return str(self._registry.models(fresh=True)[MODEL].state)

    def is_settled(self) -> bool:
        """Whether its worker serves or has failed, and has published that."""
        worker = self.serving.workers[-1].worker
        if not worker.ready.is_set() and worker.status.state.state != "failed":
            return False
        return self.state == worker.status.state.state


def failed(client: redis.Redis, keys: Keys, folder: Path, reason: str) -> Model:
    """A model whose first version could not be loaded."""

    def fail(made: Model) -> None:
        if made.loads == 1:
            raise ModelUnavailable(reason)

    original = Model.__init__
    made = Model.__new__(Model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VersionedModel, "_start", lambda *_: True)
        original(made, folder, client, keys)
    made.on_load = lambda: fail(made)
    made.serving.start(watching=False)
    eventually(made.is_settled)
    assert made.state == "failed"
    return made
