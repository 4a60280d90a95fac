"""A worker's status: its state, its version, how fast it is, whether its network is at work.

Owns the state and its publication. Decides nothing: the worker says what it is, the keeper when it is said
again.
"""

import logging
import threading
from dataclasses import replace
from typing import Final

from broker.errors import BrokerUnavailable
from broker.lease import Lease
from broker.messages import State, WorkerState
from model_server.serving import metrics

_LOG = logging.getLogger(__name__)

_SMOOTHING: Final = 0.2
"""Weight of the newest batch in the moving averages: about the last ten batches count."""


def averaged(state: State, pictures: int, seconds: float, *, waited_s: float) -> State:
    """A state with one batch more in its averages; the first is what they begin with."""
    rate, latency_ms, waiting_ms = pictures / seconds, seconds * 1000, waited_s * 1000
    if state.rate:
        rate = state.rate + _SMOOTHING * (rate - state.rate)
        latency_ms = state.latency_ms + _SMOOTHING * (latency_ms - state.latency_ms)
        waiting_ms = state.waiting_ms + _SMOOTHING * (waiting_ms - state.waiting_ms)
    return replace(
        state,
        rate=round(rate, 3),
        latency_ms=round(latency_ms, 3),
        waiting_ms=round(waiting_ms, 3),
        pictures=state.pictures + pictures,
    )


class WorkerStatus:
    """The status of one worker. Safe to use from its threads and from the keeper's."""

    def __init__(self, lease: Lease, name: str, version: str, stopping: threading.Event) -> None:
        self.call_began: float | None = None
        """Monotonic time at which the running call of the network began; None between calls."""
        self.is_hung = False
        """Its call takes so long that nobody waits for it any more."""
        self._lease = lease
        self._name = name
        self._stopping = stopping
        self._state = State(WorkerState.LOADING, version)
        self._announcing = threading.Lock()
        self._changing = threading.Lock()

    @property
    def state(self) -> State:
        """What this worker says of itself now. One that drains has no say in what becomes of the folder."""
        if self._stopping.is_set() and self._state.state is WorkerState.READY:
            return replace(self._state, state=WorkerState.DRAINING, reason="")
        return self._state

    def publish(self, state: State) -> None:
        """Change the state and publish it; if Redis is away the keeper's next renewal does."""
        with self._changing:
            self._state = state
        metrics.state(self._name, state.state)
        self._try_announce()

    def set_reason(self, reason: str) -> None:
        """Change the reason beside the state that it has; empty: none."""
        with self._changing:
            if self._state.reason == reason:
                return
            self._state = replace(self._state, reason=reason)
        self._try_announce()

    def _try_announce(self) -> None:
        try:
            self.announce()
        except BrokerUnavailable as error:
            _LOG.warning("%s: %s", self._name, error.detail)

    def announce(self) -> None:
        """Publish the state as it is now. Several threads call it: the later one must not be overtaken."""
        with self._announcing:
            self._lease.announce(self.state)

    def measure(self, pictures: int, seconds: float, *, waited_s: float) -> None:
        """Add a batch, whose pictures waited so long, to the averages; the next renewal publishes them.

        The first is published at once.
        """
        with self._changing:
            is_first = not self._state.rate
            self._state = averaged(self._state, pictures, seconds, waited_s=waited_s)
        if is_first:
            self._try_announce()  # until frontends know the pace, they let in more than can be answered
