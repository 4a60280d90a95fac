"""Draining: whether a worker that was stopped must still run jobs, which only its input fits.

Owns the question whether such jobs are queued or may come. Runs none: worker.py does.
"""

from dataclasses import dataclass

from broker.clock import RedisClock
from broker.lease import Lease
from broker.messages import InputSpec, WorkerState
from model_server.serving.queue_parts import QueueParts


@dataclass(slots=True)
class DrainingJobs:
    """The jobs of one input, from the moment their last worker is stopped."""

    input: InputSpec
    lease: Lease
    queue: QueueParts
    clock: RedisClock
    last: float
    """Redis' time after which no more are accepted: frontends have read the new card by then."""

    def may_come(self) -> bool:
        """Whether this worker is still needed. Raises ServiceError when Redis can't tell."""
        if not self._is_the_last():
            return False
        return self.clock.now() <= self.last or not self._are_gone()

    def _is_the_last(self) -> bool:
        """Whether those that stay take another input; where nobody stays, a successor must see to it."""
        tag, peers = self.input.tag, self.lease.peers()
        if any(peer.state is WorkerState.READY and peer.input == tag for peer in peers):
            return False
        staying = (WorkerState.READY, WorkerState.LOADING)
        return any(peer.state in staying and peer.input not in ("", tag) for peer in peers)

    def _are_gone(self) -> bool:
        """Whether the queue has come to what was accepted later: all before it has been claimed."""
        # One that does not tell is taken away by the next claim.
        return all(accepted_at > self.last for accepted_at in self.queue.oldest())
