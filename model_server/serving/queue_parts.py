"""The parts of a model's queue, as one worker serves them: what is under the model's own keys, and shards.

Owns from which part a claim takes jobs, and a worker's place in each: a registration, a lease keeper, and a
thread that completes. With shards a part that fails is left aside until that thread has put it right, and the
others go on; without, whatever fails is worker.py's to handle. What becomes of jobs is pipeline.py's.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from broker.consumer import ClaimedJob, Consumer
from broker.errors import BrokerUnavailable, LeaseLost
from model_server.serving.bells import Bells
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.registration import RECONNECT_S, Registration

_ROUND_S: Final = 1.0
"""How often all parts are asked, whether their bells rang or not: what a lost bell costs at most."""


class QueuePart:
    """One part: the worker's registration there, its claims, and the thread that completes them."""

    def __init__(self, registration: Registration, consumer: Consumer, name: str) -> None:
        self.registration = registration
        self.lease = registration.lease
        """Its `worker` is the id under which this worker is registered in this part; empty: not yet."""
        self.consumer = consumer
        self.keeper: LeaseKeeper | None = None
        self.is_uncertain = False
        """A claim or a completion was not confirmed: what is claimed must be given back before the next."""
        self.is_stuck = False
        """A completion can't be written, and is tried again."""
        self.held = 0
        """Jobs that were claimed and are not completed. Only counted with shards."""
        self._counting = threading.Lock()
        self._completer = ThreadPoolExecutor(1, f"completer-{name}")
        self._completing: Future[None] | None = None
        self._is_mending = False
        self._news = threading.Event()
        """Set when the completion has ended, or got stuck."""

    @property
    def is_open(self) -> bool:
        """Whether jobs may be claimed from it."""
        return not (self.is_uncertain or self.is_stuck)

    def add(self, jobs: int) -> None:
        """Count jobs that were claimed, or, where negative, completed."""
        with self._counting:
            self.held = max(0, self.held + jobs)

    def complete(self, task: Callable[[], None]) -> None:
        """Have its thread complete a batch, after those before it."""
        self._news.clear()
        self._completing = self._completer.submit(task)
        self._completing.add_done_callback(lambda _: self._news.set())

    def stuck(self) -> None:
        """Redis did not take a completion: whoever waits for that does something else meanwhile."""
        self.is_stuck = True
        self._news.set()

    def settle(self, *, whole: bool) -> None:
        """Wait until its last batch is completed; unless `whole`, no longer than until it is stuck."""
        completing, self._completing = self._completing, None
        if completing is None:
            return
        if not whole:
            self._news.wait()
        if whole or completing.done():
            completing.result()

    def mend(self) -> None:
        """Have its thread register, or give back what is claimed; then it is open. Nothing of it may run."""
        if not self._is_mending:
            self._is_mending = True
            self._completer.submit(self._mend)

    def _mend(self) -> None:
        registration, lease = self.registration, self.lease
        try:
            while not registration.stopping.is_set():
                worker = lease.worker
                try:
                    if worker:
                        lease.give_back()
                    else:
                        registration.ensure()
                except LeaseLost:
                    registration.ensure(lost=worker)
                    continue
                except BrokerUnavailable as error:
                    registration.outage.failed(error, registration.model)
                    registration.stopping.wait(RECONNECT_S)
                    continue
                registration.outage.succeeded(registration.model)
                self.add(-self.held)
                self.is_uncertain = False
                return
        finally:
            self._is_mending = False

    def leave(self) -> Future[None]:
        """Have its thread give back what was not begun, and end the lease."""
        return self._completer.submit(self._leave)

    def _leave(self) -> None:
        if self.lease.worker:
            self.registration.leave()
        if self.keeper is not None:
            self.keeper.close()

    def close(self) -> None:
        """End its thread."""
        self._completer.shutdown()


@dataclass(frozen=True, slots=True)
class ClaimedPart:
    """What a claim took from one part."""

    part: QueuePart
    worker: str
    """The id under which it was claimed."""
    jobs: list[ClaimedJob]


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The jobs of a batch that come from one part of the queue: they stand together, in claim order."""

    part: QueuePart
    worker: str
    """The id under which they were claimed."""
    jobs: int


class QueueParts:
    """All parts of a model's queue. Claims and waits are one thread's at a time."""

    def __init__(self, registration: Registration, consumer: Consumer, model: str) -> None:
        self.own = QueuePart(registration, consumer, model)
        """What is under the model's own keys: all of a queue without shards."""
        self.shards = 1
        """Shards that are served; 1: the queue has none, and `own` is all of it."""
        self.keeper_of: Callable[[Registration], LeaseKeeper] | None = None
        """Makes the thread that keeps a shard's lease; without it there is none."""
        self.owners = 0
        """Owners with jobs at the last claim, of the lanes that come first; 0: nobody has a lane."""
        self.is_emptied = False
        """The last claim emptied the queue, and nothing has waited for a bell since. Unknown with shards."""
        self.parts = [self.own]
        """`own`, then the shards."""
        self._model = model
        self._turn = 0
        self._bells = Bells(model)
        self._rung: set[str] = set()
        """The bells that ended the last wait."""
        self._asked_all_at = float("-inf")
        self._lone: QueuePart | None = None
        """The part that has a job which must run alone, when nothing else is held."""

    def grow(self) -> None:
        """Join the shards that are not served yet, as many as the lease has heard of, where it has of any."""
        own, served = self.own.registration, self.own.lease.shards_served
        while served > 1 and len(self.parts) <= served:
            shard, name = len(self.parts) - 1, f"{self._model}-{len(self.parts) - 1}"
            lease = own.lease.of_shard(shard)
            registration = Registration(own.model, lease, own.status, own.stopping, own.outage)
            part = QueuePart(registration, self.own.consumer.of_shard(shard, lease.clock), name)
            part.is_uncertain = True  # not registered yet
            self.parts.append(part)
            self.shards = served
            if self.keeper_of is not None:
                part.keeper = self.keeper_of(registration)
                part.keeper.start()
            part.mend()

    def claim(self, most: int, *, shared: int) -> list[ClaimedPart]:
        """Claim up to so many jobs, of several parts in turn; `shared` where several owners have turns.

        Without shards it raises ServiceError.
        """
        if self.shards == 1:
            own, worker = self.own, self.own.lease.worker
            self.is_emptied = False  # also where the claim fails
            jobs = own.consumer.claim(worker, most, shared=shared)
            self.owners = own.consumer.owners
            self.is_emptied = own.consumer.is_emptied
            return [ClaimedPart(own, worker, jobs)] if jobs else []
        claimed = self._claim_in_turn(most, shared)
        self.owners = max((part.consumer.owners for part in self._open()), default=0)
        for each in claimed:
            each.part.add(len(each.jobs))
        return claimed

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a bell rings; return whether there may be work. Raises BrokerUnavailable."""
        self.is_emptied = False
        if self.shards == 1:
            return self.own.consumer.wait(timeout_s) is not None
        parts = self._open()
        if not parts:
            self.own.registration.stopping.wait(min(timeout_s, RECONNECT_S))
            return True
        waiter = next((part for part in parts if part.consumer.is_for_others), parts[0])
        if waiter.consumer.is_spread and not waiter.consumer.is_for_others:
            self._rung = self._bells.wait([part.consumer for part in parts], timeout_s)
        else:
            others = [part.consumer.bell for part in parts if part is not waiter]
            self._rung = set(filter(None, [waiter.consumer.wait(timeout_s, others=others)]))
        return bool(self._rung)

    def find_forgotten(self) -> bool:
        """Whether Redis has jobs as claimed that this worker has completed. They are to be given back.

        Ask it while nothing is in hand. Raises BrokerUnavailable.
        """
        forgotten = [part for part in self._open() if not part.held and part.consumer.held(part.lease.worker)]
        for part in forgotten:
            part.is_uncertain = True
        return bool(forgotten)

    def waiting(self) -> int:
        """Jobs in all lists of the queue. Raises BrokerUnavailable."""
        return sum(part.consumer.waiting() for part in self._open())

    def oldest(self) -> list[float]:
        """When the jobs at the heads of the queue's lists were accepted. Raises BrokerUnavailable."""
        return [at for part in self._open() for at in part.consumer.oldest()]

    def settle(self) -> None:
        """Wait until the last batch is completed; not for a shard that Redis does not answer for."""
        for part in self.parts:
            part.settle(whole=self.shards == 1)

    def mend(self, *, but: Sequence[BatchShare] = ()) -> None:
        """Put right what failed, in each part of which no job is in hand; without shards the worker does."""
        if self.shards == 1:
            return
        in_hand = [share.part for share in but]
        for part in self.parts:
            if part.is_uncertain and part not in in_hand:
                part.mend()

    def leave(self) -> None:
        """Leave all shards, side by side: one that does not answer takes a second or two."""
        wait([part.leave() for part in self.parts[1:]])

    def close(self) -> None:
        """End the threads."""
        self._bells.close()
        for part in self.parts:
            part.close()

    def _open(self) -> list[QueuePart]:
        return [part for part in self.parts if part.is_open]

    def _claim_in_turn(self, most: int, shared: int) -> list[ClaimedPart]:
        hinted, self._rung = self._rung, set()
        parts, lone = self._in_turn(hinted), self._lone
        if lone in parts and any(part.held for part in parts):
            return []
        self._lone = None
        if lone in parts:
            parts = [lone, *(part for part in parts if part is not lone)]
        now = time.monotonic()
        asks_all = now - self._asked_all_at >= _ROUND_S
        claimed: list[ClaimedPart] = []
        for number, part in enumerate(parts):
            if number and not asks_all:
                if number == 1:
                    rung = hinted | self._ringing(parts[1:])
                if part.consumer.bell not in rung:
                    continue
            others_held = claimed or any(other.held for other in parts if other is not part)
            jobs = self._claim(part, most, shared=max(0, shared), beside=bool(others_held))
            if jobs:
                claimed.append(jobs)
                most, shared = most - len(jobs.jobs), shared - len(jobs.jobs)
                if part.consumer.owners > 1:
                    most = min(most, shared)
                if most <= 0 or any(job.attempts for job in jobs.jobs):
                    return claimed
        if asks_all:
            self._asked_all_at = now
        return claimed

    def _in_turn(self, hinted: set[str]) -> list[QueuePart]:
        """The open parts: first one whose bell rang, or that whose turn it is."""
        parts = self._open()
        first = next((at for at, part in enumerate(parts) if part.consumer.bell in hinted), None)
        if first is None and parts:
            self._turn = first = (self._turn + 1) % len(parts)
        return parts[first:] + parts[:first] if parts else []

    def _ringing(self, parts: Sequence[QueuePart]) -> set[str]:
        """The bells of those that seem to have jobs: an empty shard costs a share of one round trip."""
        bells = [part.consumer.bell for part in parts]
        try:
            return self.own.consumer.rung(bells)
        except BrokerUnavailable:
            return set(bells)  # which of them is away, its claim tells

    def _claim(self, part: QueuePart, most: int, *, shared: int, beside: bool) -> ClaimedPart | None:
        worker = part.lease.worker
        try:
            jobs = part.consumer.claim(worker, most, shared=shared, beside=beside)
        except (LeaseLost, BrokerUnavailable):
            part.is_uncertain = True  # its own thread tells why, when it has seen that for itself
            return None
        if part.consumer.is_alone:
            self._lone = part
        return ClaimedPart(part, worker, jobs) if jobs else None
