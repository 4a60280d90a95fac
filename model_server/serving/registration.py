"""A worker's place among its peers: it registers, renews what lapsed, and leaves once.

Owns that a worker whose lease was reaped goes on under a new id, and that one that has left is not registered
again. Two threads use it, the worker's and its keeper's.
"""

import contextlib
import logging
import threading
from typing import Final

from broker.errors import BrokerUnavailable, LeaseLost, ServiceError
from broker.lease import Lease
from broker.outage import Outage
from model_server.serving.status import WorkerStatus

_LOG = logging.getLogger(__name__)

RECONNECT_S: Final = 0.2
"""Between two tries while Redis is away."""


class Registration:
    """The registration of one worker. `stopping` ends its waiting for Redis."""

    def __init__(
        self, model: str, lease: Lease, status: WorkerStatus, stopping: threading.Event, outage: Outage
    ) -> None:
        self.has_left = False
        self.model = model
        self.lease = lease
        self.status = status
        self.stopping = stopping
        self.outage = outage
        self._registering = threading.Lock()

    def ensure(self, *, lost: str = "") -> None:
        """Renew the lease `lost` (empty: the first), or take one under a new id if it was reaped.

        Waits for Redis. Local batches of the old id are refused from then on.
        """
        while True:
            try:
                with self._registering:
                    if self.has_left:
                        return
                    if self.lease.worker == lost and not self._renewed():
                        worker = self.lease.register(self.status.state)
                        _LOG.info("%s registered as worker %s", self.model, worker)
                self.outage.succeeded(self.model)
                return
            except BrokerUnavailable as error:
                self.outage.failed(error, self.model)
                if self.stopping.wait(RECONNECT_S):
                    return

    def announce(self) -> None:
        """Publish the status. Raises BrokerUnavailable."""
        if self.lease.is_of_shard:
            self.lease.announce(self.status.state)
        else:
            self.status.announce()

    def leave(self) -> None:
        """Give back what was claimed and not begun, and end the lease."""
        try:
            with self._registering:
                self.has_left = True  # from here on the keeper neither renews nor registers it
                with contextlib.suppress(LeaseLost):
                    self.lease.renew()  # lapsed but not reaped, it could not give its claims back
                self.lease.leave()
        except ServiceError as error:
            _LOG.warning("%s: left, but Redis could not be told: %s", self.model, error.detail)
        else:
            _LOG.info("%s: worker %s has left", self.model, self.lease.worker)

    def _renewed(self) -> bool:
        if not self.lease.worker:
            return False
        try:
            self.lease.renew()
        except LeaseLost as error:
            _LOG.warning("%s: %s", self.model, error.detail)
            return False
        return True
