"""The keeper: a thread that renews a worker's lease while its network computes.

Owns renewal, the recovery of lost peers, and the verdict that a network hangs. It never claims or completes.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from broker.errors import BrokerUnavailable, LeaseLost
from broker.messages import WorkerState
from model_server.serving import metrics
from model_server.serving.health_file import HealthFiles
from model_server.serving.registration import Registration

_LOG = logging.getLogger(__name__)

EXIT_HUNG: Final = 70
"""Exit status (EX_SOFTWARE) of a process whose network hung; the process manager starts a new one."""

_AFTER_LAPSE_S: Final = 0.02
"""Looked at again a little after a lease lapses: Redis judges by its own clock, ours may be ms ahead."""


class LeaseKeeper(threading.Thread):
    """Renews at a third of the lease, so that two renewals may fail before it lapses.

    Awake when a peer's lease lapses, too: looking only every third of LEASE_S left a killed worker's jobs
    lying for up to a second more (LEASE_S=3). A worker whose network hangs is renewed no more, so that its
    jobs go to others; `on_hung` is called once, and ends the process: the call would never return.
    """

    def __init__(
        self,
        registration: Registration,
        *,
        lease_s: float,
        model_call_max_s: float,
        on_hung: Callable[[], None],
        health: HealthFiles | None = None,
    ) -> None:
        """`health`: where each renewal of a worker that serves is written down."""
        super().__init__(name=f"keeper-{registration.model}", daemon=True)
        self._registration = registration
        self._model = registration.model
        self._lease = registration.lease
        self._status = registration.status
        self._lease_s = lease_s
        self._model_call_max_s = model_call_max_s
        self._on_hung = on_hung
        self._health = health
        self._closed = threading.Event()
        self._reap_from: float | None = 0.0
        """Monotonic time from which peers may be reaped; None while Redis is away."""

    def close(self) -> None:
        """End the thread, once its worker has left."""
        self._closed.set()
        self.join()

    def run(self) -> None:
        """Tick until closed."""
        while not self._closed.wait(self.tick(time.monotonic())):
            pass

    def tick(self, now: float) -> float:
        """One look at the call, one renewal, one search for lost peers. Returns the pause until the next.

        `now` is monotonic seconds.
        """
        usual_s = self._lease_s / 3
        began = self._status.call_began
        if began is not None and now - began > self._model_call_max_s:
            if not self._status.is_hung:
                _LOG.critical(
                    "%s: a call of the network has taken over %g s; this process ends",
                    self._model,
                    self._model_call_max_s,
                )
                self._status.is_hung = True
                self._on_hung()
            return usual_s
        worker = self._lease.worker
        if not worker or self._registration.has_left:
            return usual_s
        is_renewed = False
        try:
            self._renew(worker)
            is_renewed = True
            is_recovered = self._recover(now)
            # Last: while Redis can't take it, lost peers' jobs still go back to the queue.
            self._registration.announce()
            self._registration.outage.succeeded(self._model)
            if is_recovered:
                lapse_s = self._lease.next_lapse_s()
                return usual_s if lapse_s is None else min(usual_s, lapse_s + _AFTER_LAPSE_S)
        except BrokerUnavailable as error:
            self._registration.outage.failed(error, self._model)
            if not (is_renewed and error.is_refusal):
                self._reap_from = None
        except Exception:  # noqa: BLE001 - a keeper that dies quietly would cost a live worker its lease
            _LOG.exception("the keeper of %s failed; it goes on. This is a bug", self._model)
        return usual_s

    def _renew(self, worker: str) -> None:
        try:
            self._lease.renew()
        except LeaseLost:
            metrics.lease_lost(self._model)
            self._registration.ensure(lost=worker)
        is_served = self._status.state.state is WorkerState.READY and not self._lease.is_of_shard
        if self._health is not None and is_served:
            self._health.beat(self._model, lease_s=self._lease_s)

    def _recover(self, now: float) -> bool:
        """Reap lost peers, but never in the first LEASE_S after an outage, or after Redis' clock went ahead.

        All leases lapsed in it, and a peer that lives needs that long to renew. For a worker that starts just
        after Redis did, Redis' own age says the same. Returns whether reaping was allowed.
        """
        if self._reap_from is None:
            self._reap_from = now + self._lease_s
        if now < max(self._reap_from, self._lease.clock.stepped_ahead_at + self._lease_s):
            return False
        # Negative where the clock went back since Redis started, which was not just now then.
        if 0 <= self._lease.server_uptime_s() < self._lease_s:
            return False
        for lost, jobs in self._lease.recover_lost().items():
            _LOG.warning("%s: worker %s was lost; %d jobs go back to the queue", self._model, lost, jobs)
            metrics.recovered(self._model, jobs)
        return True
