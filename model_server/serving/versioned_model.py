"""One model of this process through its versions: a worker, and its successor when the folder changes.

Owns which version is served when: the look at the folder, the new worker beside the old, the end of the old.
What a worker does is worker.py's, what changed folder_watch.py's to say.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from broker.errors import ModelUnavailable, first_line
from broker.messages import State, WorkerState
from model_server.catalogue.folder_watch import Snapshot, Watch
from model_server.catalogue.model_spec import CatalogueError, KerasFile, ModelSpec
from model_server.engines.engine import Engine
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.public_reasons import public
from model_server.serving.worker import Worker, load_or_reason

_LOG = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the folder is looked at: a `stat` a file."""


@dataclass(frozen=True, slots=True)
class WorkerThreads:
    """A worker with the threads that it has."""

    worker: Worker
    keeper: LeaseKeeper
    thread: threading.Thread


@dataclass(frozen=True, slots=True)
class Loaders:
    """How a version comes to be served. Each may be called again for the next one."""

    read: Callable[[], ModelSpec]
    """Raises CatalogueError."""
    load: Callable[[ModelSpec], Engine]
    """Raises ModelUnavailable."""
    make_worker: Callable[[ModelSpec, Callable[[], Engine]], WorkerThreads]
    """A worker with its threads, not yet started."""


class VersionedModel:
    """Serves a model from `start` until `stop`. `watch` was made before `spec` was read."""

    def __init__(self, spec: ModelSpec, watch: Watch, loaders: Loaders, *, unread: str = "") -> None:
        """`unread`: why its folder could not be read; it fails for that reason until the folder changes."""
        self.name = spec.name
        self._folder = spec.folder
        self._watch = watch
        self._loaders = loaders
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self.workers: list[WorkerThreads] = []
        """The one that serves is the last; before it, one that leaves."""
        seen = watch.also(spec.elsewhere, watch.settled)
        watch.settle(seen)
        try:
            if unread:
                self._add_failed(spec, unread)
            else:
                self._add(spec, lambda: self._loaded(spec, seen))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other models serve on
            _LOG.exception("%s can't be served", spec.name)
            self._add_failed(spec, public(_unserved(spec.name, error), spec.folder))
        self._thread = threading.Thread(target=self._run, name=f"versions-{spec.name}", daemon=True)

    def start(self, *, watching: bool = True) -> None:
        """Start the first worker and, if `watching`, a look at the folder every second."""
        self._start(self.workers[0])
        if watching:
            self._thread.start()

    def stop(self, *, within_s: float) -> None:
        """Tell every worker to go: what runs is finished, the rest goes back to the queue."""
        with self._starting:
            self._stopping.set()
        for threads in list(self.workers):  # the versions thread may take one away meanwhile
            threads.worker.stop(within_s=within_s)

    def join(self, until: float) -> None:
        """Wait for the workers, until that monotonic time; not for one whose network hangs."""
        for threads in list(self.workers):
            while (
                threads.thread.is_alive() and not threads.worker.status.is_hung and time.monotonic() < until
            ):
                threads.thread.join(0.05)

    def look(self, now: float) -> None:
        """One look at the folder; a change that is complete is taken up, or refused."""
        if self.workers[-1].worker.status.state.state is WorkerState.LOADING:
            return
        snapshot = self._watch.look(now)
        if snapshot is not None:
            self._take_up(snapshot)

    def explain(self, reason: str) -> None:
        """Say why there is no folder to load, if none has been loaded yet and nothing is known but that."""
        worker, shown = self.workers[-1].worker, public(reason, self._folder)
        state = worker.status.state
        if not self._watch.settled and state.state is WorkerState.FAILED and state.reason != shown:
            worker.status.publish(State(WorkerState.FAILED, worker.version, reason=shown))

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look(time.monotonic())
            except Exception:  # noqa: BLE001 - a thread that dies quietly would never take up a version again
                _LOG.exception("%s: the look at its folder failed; it goes on. This is a bug", self.name)

    def _take_up(self, snapshot: Snapshot) -> None:
        worker = self.workers[-1].worker
        try:
            if not snapshot:
                raise CatalogueError(f"{self.name}: its folder is gone, or empty.")
            spec = self._loaders.read()
            snapshot = self._watch.also(spec.elsewhere, snapshot)
            is_served = spec.version == worker.version and worker.ready.is_set()
        except (CatalogueError, OSError) as error:
            self._refuse(snapshot, str(error))
            return
        if is_served:
            self._watch.settle(snapshot)
            if worker.status.state.reason:
                # The log's last word would be the refusal.
                _LOG.info("%s: its folder is in order again, version %s serves on", self.name, worker.version)
            worker.status.set_reason("")
            return
        _LOG.info("%s: its folder has changed; version %s is being loaded", self.name, spec.version)
        # What was wrong with the folder is no longer in it. A model that failed has failed until it serves:
        # another may answer for it, and to load one takes longer than its clients would wait.
        worker.status.set_reason(
            "" if worker.ready.is_set() else f"{self.name}: its changed folder is being loaded."
        )
        engine, reason = load_or_reason(self.name, lambda: self._loaded(spec, snapshot))
        if engine is None:
            self._refuse(snapshot, reason)
            return
        try:
            new = self._add(spec, lambda: engine)
        except Exception as error:  # noqa: BLE001 - likewise, and the old version does
            _LOG.exception("%s can't be served", self.name)
            self._refuse(snapshot, _unserved(self.name, error))
            return
        self._watch.settle(snapshot)
        self._succeed(new)

    def _loaded(self, spec: ModelSpec, seen: Snapshot) -> Engine:
        """The engine of just what was seen. Raises ModelUnavailable."""
        try:
            return self._loaders.load(spec)
        finally:
            if not self._watch.is_still(seen):
                raise ModelUnavailable(f"{self.name}: its files changed while they were loaded.")

    def _refuse(self, snapshot: Snapshot, reason: str) -> None:
        """Say so, and serve on. What has changed meanwhile is looked at again."""
        worker, shown = self.workers[-1].worker, public(reason, self._folder)
        is_still = self._watch.is_still(snapshot)
        if is_still:
            self._watch.settle(snapshot)
        if not worker.ready.is_set():
            _LOG.error("%s: its changed folder can't be served either: %s", self.name, reason)
            worker.status.publish(State(WorkerState.FAILED, worker.version, reason=shown))
        elif is_still:
            _LOG.error(
                "%s: its changed folder is refused, version %s serves on: %s",
                self.name,
                worker.version,
                reason,
            )
            worker.status.set_reason(f"{shown} Version {worker.version} serves on.")

    def _succeed(self, new: WorkerThreads) -> None:
        """Start the new worker beside the old one; once it serves, the old one goes."""
        old = self.workers[-2]
        if not self._start(new):
            return
        while not new.worker.ready.wait(0.2):
            if self._stopping.is_set():
                return
        old.worker.stop()
        old.thread.join()
        old.keeper.close()
        self.workers.remove(old)
        _LOG.info("%s: version %s has taken over from %s", self.name, new.worker.version, old.worker.version)
        del old
        gc.collect()  # a network and two connections go now, not when the collector comes by

    def _add(self, spec: ModelSpec, load: Callable[[], Engine]) -> WorkerThreads:
        threads = self._loaders.make_worker(spec, load)
        self.workers.append(threads)
        return threads

    def _add_failed(self, spec: ModelSpec, reason: str) -> None:
        """A worker that only says why there is none: the other models of this process serve on."""

        def fail() -> Engine:
            raise ModelUnavailable(reason)

        # Without its folder and its source: what is in them may be why.
        self._add(replace(spec, folder=Path(os.devnull), source=KerasFile("none")), fail)

    def _start(self, threads: WorkerThreads) -> bool:
        """Start its threads, unless the process stops."""
        with self._starting:
            if self._stopping.is_set():
                return False
            threads.thread.start()
            threads.keeper.start()
            return True


def _unserved(model: str, error: Exception) -> str:
    return f"{model} can't be served ({first_line(error)})."
