"""The completion of a batch: its results go out and its claims go away, through an outage if need be.

Owns what happens when Redis or the lease goes away at that moment. Forms and runs nothing: worker.py does.
"""

import logging
import time

from broker.consumer import Consumer
from broker.errors import BrokerUnavailable, LeaseLost
from broker.lease import Lease
from broker.outage import Outage
from model_server.serving.registration import RECONNECT_S, Registration
from model_server.serving.results import BatchResults

_LOG = logging.getLogger(__name__)


class Completion:
    """Completes the batches of one worker."""

    def __init__(
        self, model: str, lease: Lease, consumer: Consumer, registration: Registration, outage: Outage
    ) -> None:
        self._model = model
        self._lease = lease
        self._consumer = consumer
        self._registration = registration
        self._outage = outage
        self.left_claims = False
        """Its last batch was not where it should be: what is claimed must be given back before the next."""

    def complete(self, done: BatchResults) -> None:
        """Complete the batch. Dropped only when the lease is another's."""
        worker = done.worker
        while done.outcomes:
            try:
                if self._consumer.complete(worker, done.outcomes):
                    self._tell_dead(done)
                else:
                    # Done already, its reply was lost; or a killed Redis forgot its last writes and the
                    # claims begin with an older batch. Giving back what is there mends both.
                    _LOG.warning("%s: the claims do not begin with this batch", self._model)
                    self.left_claims = True
                self._outage.succeeded(self._model)
                return
            except LeaseLost:
                # Lapsed but not reaped: the claims are still this worker's, and so is the batch.
                self._registration.ensure(lost=worker)
                if self._lease.worker != worker:
                    _LOG.warning("%s: a batch of %d was left to others", self._model, len(done.outcomes))
                    return
            except BrokerUnavailable as error:
                # While it drains as well: the process ends at its drain's deadline, whoever still waits here.
                self._outage.failed(error, self._model)
                time.sleep(RECONNECT_S)

    def _tell_dead(self, done: BatchResults) -> None:
        for dead in done.dead:
            _LOG.warning(
                "%s: job %s is a dead letter: %s (request %s)",
                *(self._model, dead.id, dead.dead_reason, dead.request_id or "unknown"),
            )
