"""A worker's status: its state, its version, how fast it is, whether its network is at work.

Owns the state and its publication. Decides nothing: the worker says what it is, the keeper when it is said
again.
"""

import logging
import threading
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import BrokerUnavailable
from broker.lease import Lease
from broker.messages import State, WorkerState
from model_server.serving import metrics

_LOG = logging.getLogger(__name__)

_SMOOTHING: Final = 0.2
"""Weight of the newest batch in the moving averages: about the last ten batches count."""


@dataclass(slots=True)
class BatchAverages:
    """Moving averages of a worker's batches, which begin with the first. One thread adds, any may read."""

    rate: float = 0.0
    """Pictures a second while busy; 0 until measured, as what follows."""
    latency_ms: float = 0.0
    """Milliseconds a batch takes."""
    waiting_ms: float = 0.0
    """Milliseconds a picture waits in the queue."""
    pictures: int = 0
    """How many went through the network."""

    def add(self, pictures: int, seconds: float, *, waited_s: float) -> None:
        """A batch of so many pictures took so long; they had waited so long."""
        weight = _SMOOTHING if self.rate else 1.0
        self.rate += weight * (pictures / seconds - self.rate)
        self.latency_ms += weight * (seconds * 1000 - self.latency_ms)
        self.waiting_ms += weight * (waited_s * 1000 - self.waiting_ms)
        self.pictures += pictures

    def of(self, state: State) -> State:
        """The state with these averages."""
        return replace(
            state,
            rate=round(self.rate, 3),
            latency_ms=round(self.latency_ms, 3),
            waiting_ms=round(self.waiting_ms, 3),
            pictures=self.pictures,
        )


class WorkerStatus:
    """The status of one worker. Safe to use from its threads and from the keeper's."""

    def __init__(self, lease: Lease, name: str, version: str, stopping: threading.Event) -> None:
        self.call_began: float | None = None
        """Monotonic time at which the running call of the network began; None between calls."""
        self.is_hung = False
        """Its call takes so long that nobody waits for it any more."""
        self.averages = BatchAverages()
        """Published with each renewal."""
        self._lease = lease
        self._name = name
        self._stopping = stopping
        self._state = State(WorkerState.LOADING, version)
        self._announcing = threading.Lock()
        self._changing = threading.Lock()

    @property
    def state(self) -> State:
        """What this worker says of itself now. One that drains has no say in what becomes of the folder."""
        state = self._state
        if self._stopping.is_set() and state.state is WorkerState.READY:
            state = replace(state, state=WorkerState.DRAINING, reason="")
        return self.averages.of(state)

    def publish(self, state: State) -> None:
        """Change the state and publish it; if Redis is away the keeper's next renewal does."""
        with self._changing:
            self._state = state
        metrics.state(self._name, state.state)
        self.try_announce()

    def set_reason(self, reason: str) -> None:
        """Change the reason beside the state that it has; empty: none."""
        with self._changing:
            if self._state.reason == reason:
                return
            self._state = replace(self._state, reason=reason)
        self.try_announce()

    def try_announce(self) -> None:
        """Publish the state as it is now; if Redis is away the keeper's next renewal does."""
        try:
            self.announce()
        except BrokerUnavailable as error:
            _LOG.warning("%s: %s", self._name, error.detail)

    def announce(self) -> None:
        """Publish the state as it is now. Several threads call it: the later one must not be overtaken."""
        with self._announcing:
            self._lease.announce(self.state)
