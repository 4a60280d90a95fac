"""A frontend: from an upload's bytes to its result, through the queue.

Owns the line's web half: decode, enqueue, wait, give up; model_choice.py says which model. Knows no HTTP;
predict.py puts requests in and answers out.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from broker import codec
from broker.clock import RedisClock
from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    Overloaded,
)
from broker.messages import InputSpec, Job, Prediction, Result, WorkerState
from broker.producer import TOLD_S, PendingJob, Producer
from broker.registry import ModelView, Registry
from broker.replies import Replies, Waiter
from pictures import annotate, decode
from pictures.decode import PreparedPicture
from web.decode_turns import turn
from web.model_choice import ModelChooser, ModelNames, unavailable
from web.server import capacity

_LOG = logging.getLogger(__name__)

LOOK_AT_CLIENT_S: Final = 0.25
"""How often a waiting request looks whether its client is still there."""


class ClientGone(ClientError):
    """The client hung up; nobody reads the answer."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What this process does for its clients: pixels a picture, seconds, requests at once."""

    max_pixels: int
    request_timeout_s: float
    async_timeout_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job in the queue. `waiter` is None for one that is polled."""

    model: str
    job: Job
    waiter: Waiter | None
    wait_until: float
    """Monotonic time at which its client stops waiting."""

    @property
    def job_id(self) -> str:
        """The id that its result has, too."""
        return self.job.id


class JobClient:
    """Serves requests from any thread."""

    def __init__(
        self,
        registry: Registry,
        producer: Producer,
        replies: Replies,
        clock: RedisClock,
        *,
        names: ModelNames,
        limits: JobLimits,
    ) -> None:
        self.registry = registry
        self.producer = producer
        self.replies = replies
        self._clock = clock
        self.models = ModelChooser(registry, clock, names, request_timeout_s=limits.request_timeout_s)
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.requests)
        # More at once would be no faster, and each may take a gigabyte (50 million pixels in 16 bits).
        self._decoders = threading.BoundedSemaphore(capacity.usable_cores())

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """A place among the requests in flight. Raises Overloaded when all are taken.

        The process has a few threads more than places, so that health checks are answered under any load.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded(
                f"{self._limits.requests} requests are in flight here already; come back in 1 s."
            )
        try:
            yield
        finally:
            self._slots.release()

    def accept(
        self,
        view: ModelView,
        upload: bytes,
        *,
        top: int,
        polled: bool,
        traceparent: str | None,
        since: float,
        notice: str = "",
        request_id: str = "",
    ) -> SubmittedJob:
        """Decode, fit and enqueue one picture. Raises ClientError, Overloaded, BrokerUnavailable.

        `since`: monotonic time at which the request came; its deadline counts from there.
        """
        model = view.card.model
        timeout_s = self._limits.async_timeout_s if polled else self._limits.request_timeout_s
        wait_until = since + timeout_s
        job_bytes = codec.job_size(view.card.input) + len(notice)

        def admit() -> None:
            self.producer.admit(
                model, size=job_bytes, timeout_s=wait_until - time.monotonic(), pace=view.pace
            )

        admit()
        prepared = self._prepared(upload, view.card.input, since=since, admit_again=admit)
        job_id = str(uuid.uuid4())
        waiter = None if polled else self.replies.expect(model, job_id)
        now = self._clock.now()
        job = Job(
            id=job_id,
            image=prepared.pixels,
            accepted=now,
            deadline=now + wait_until - time.monotonic(),
            reply_to=None if polled else self.replies.frontend,
            original_size=prepared.original_size,
            top=top,
            traceparent=traceparent,
            input=view.card.input.tag,
            notice=notice,
            request_id=request_id,
        )
        self._enqueue(model, job, waiter)
        _LOG.debug("job %s of %s is accepted", job_id, model)
        return SubmittedJob(model, job, waiter, wait_until)

    def _prepared(
        self, upload: bytes, spec: InputSpec, *, since: float, admit_again: Callable[[], None]
    ) -> PreparedPicture:
        """Decode and fit, when it is its turn."""
        with turn(self._decoders, until=since + self._limits.request_timeout_s) as waited_s:
            if waited_s > TOLD_S:
                # Hundreds may have waited here with it, each let in by a queue that had room for one.
                admit_again()
            return decode.prepare(upload, spec, max_pixels=self._limits.max_pixels)

    def _enqueue(self, model: str, job: Job, waiter: Waiter | None) -> None:
        try:
            self.producer.enqueue(model, job, now=job.accepted)
        except BaseException:
            if waiter is not None:
                self.replies.forget(waiter)
            raise
        if waiter is not None:
            waiter.is_accepted = True

    def draw(self, upload: bytes, predictions: tuple[Prediction, ...], *, since: float) -> bytes:
        """The picture with what was found on it, as PNG. Raises ClientError, or Overloaded."""
        with turn(self._decoders, until=since + self._limits.request_timeout_s):
            return annotate.annotated(upload, predictions, max_pixels=self._limits.max_pixels)

    def wait(self, accepted: SubmittedJob, *, client_gone: Callable[[], bool]) -> Result:
        """Sleep until the result comes. Raises DeadlinePassed, ModelUnavailable, ClientGone, and cancels."""
        waiter = accepted.waiter
        if waiter is None:
            raise ValueError("a job that is polled can't be waited for")
        reason = ""
        try:
            while not reason and (left_s := accepted.wait_until - time.monotonic()) > 0:
                result = waiter.wait(min(left_s, LOOK_AT_CLIENT_S))
                if result is not None:
                    return result
                if waiter.take_forgotten():
                    self._enqueue_again(accepted)
                if client_gone():
                    self.producer.cancel(accepted.model, accepted.job_id)
                    raise ClientGone("The client hung up.")
                reason = self._failure(accepted.model)
            # First what came already: of several pictures the last are looked at late.
            result = waiter.wait(0) or self.producer.take_or_cancel(accepted.model, accepted.job_id)
            if result is not None:
                return result
            if reason:
                raise unavailable(reason)
            raise DeadlinePassed(f"No answer came in {self._limits.request_timeout_s:g} s.")
        finally:
            self.replies.forget(waiter)

    def _enqueue_again(self, accepted: SubmittedJob) -> None:
        """Put a job back that Redis forgot: it was killed before its last writes were on the disk."""
        _LOG.warning("Redis has forgotten job %s of %s: enqueued again", accepted.job_id, accepted.model)
        with contextlib.suppress(BrokerUnavailable):  # it is looked up again soon
            self.producer.enqueue(accepted.model, accepted.job, now=self._clock.now())

    def _failure(self, model: str) -> str:
        """Why every live worker of the model failed to load it; empty while one may still answer."""
        try:
            view = self.registry.models().get(model)
        except BrokerUnavailable:
            return ""
        return view.reason if view is not None and view.state is WorkerState.FAILED else ""

    def abandon(self, accepted: SubmittedJob) -> None:
        """Cancel a job whose request failed in another place."""
        if accepted.waiter is not None:
            self.replies.forget(accepted.waiter)
        with contextlib.suppress(BrokerUnavailable):  # it then ends at its deadline
            self.producer.cancel(accepted.model, accepted.job_id)

    def poll(self, model: str, job_id: str) -> Result | PendingJob | None:
        """The result of a job that is polled, Pending, or None where there is none (any more).

        Raises DeadlinePassed, once: the job is cancelled then.
        """
        polled = self.producer.poll(model, job_id)
        if isinstance(polled, PendingJob) and polled.deadline_passed:
            result = self.producer.take_or_cancel(model, job_id)
            if result is None:
                raise DeadlinePassed("The picture waited for a model server until its deadline.")
            return result
        return polled
