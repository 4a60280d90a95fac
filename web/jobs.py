"""A web process's client of the queue: it submits pictures as jobs and waits for their results.

Owns the web half of a job's life: decode, enqueue, wait, poll, cancel. model_choice.py chooses the model.
Knows no HTTP: routes/predict.py turns requests into jobs and results into answers.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from broker.admission import LENGTH_VALID_S
from broker.clock import RedisClock
from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    JobLost,
    Overloaded,
    ResultExpired,
    Unavailable,
)
from broker.lost_jobs import Fate, QueuedJob
from broker.messages import Job, Result, TaskResult, Webhook, WorkerState, owner_of
from broker.metrics import STAGE
from broker.producer import PendingJob, Producer, RequestName, StoredJob
from broker.registry import Registry
from broker.replies import Replies, Waiter
from broker.result_cache import ResultCache
from pictures import annotate, declared_size, fit
from pictures.decode import ImageTooLarge
from pictures.fit import Part, PartCutter, PreparedPicture
from telemetry import logs
from telemetry.tracing import NOT_RECORDED, Kind, Span
from web import metrics
from web.fair_semaphore import FairSemaphore
from web.keys import access
from web.keys.limits import ApiKeys
from web.model_choice import ModelChoice, ModelChooser, ModelNames, unavailable
from web.overload import RecentRefusals
from web.request_places import RequestPlaces
from web.server import capacity
from web.server.answer_socket import SERVED

_LOG = logging.getLogger(__name__)

_AWAY_S: Final = 1.0
"""For so long Redis is believed to be away, by those whose time is over."""

MAX_PIXELS_TOGETHER: Final = 4
"""So many times MAX_PIXELS a request's pictures may have together: 64 WebPs of 50 megapixels, in 10 KB each,
kept the decoders busy until the deadline. Photos of so many do not fit into MAX_UPLOAD_MB."""

LOOK_AT_CLIENT_S: Final = 0.25
"""How often a waiting request looks whether its client is still there."""

WATCHED_LOOK_S: Final = 1.0
"""The same where the loop wakes it once its client has sent more or closed. Of a web process before which 90
requests waited such looks were a tenth of the CPU time."""


_Picture = TypeVar("_Picture")
"""Of a request: only bytes have a header."""


class ClientGone(ClientError):
    """The client closed the connection; nobody reads the answer."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What this process does for its clients: pixels a picture, seconds, requests at once."""

    max_pixels: int
    request_timeout_s: float
    async_timeout_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a request asks of the jobs of all its pictures."""

    started_at: float
    """Monotonic time at which the request came."""
    wait_until: float
    """Monotonic time at which the client stops waiting: the deadline of its jobs."""
    polled: bool = False
    """The client does not wait: the jobs have longer."""
    waits: bool = False
    """But a thread of this process does, for a pipeline that is polled."""
    traceparent: str | None = None
    """The client's trace, for the jobs of a process that records no spans itself."""
    span: Span = NOT_RECORDED
    """What the spans of the pictures belong to."""
    picture: str = "picture"
    """What those are called."""
    request_id: str = ""
    scores: bool = False
    """Each result has the probability of every label, too."""
    callback_url: str = ""
    """Where the end of each job is announced; empty: nowhere."""
    job_id: str = ""
    """What the one job shall be called; empty: a fresh id."""
    lane: str = ""
    """`OWNER@WEIGHT`: for whom, and with what share of the queue, in percent of an ordinary one."""

    @property
    def owner(self) -> str:
        """Whose jobs they are: nobody else may poll or end them. Empty: nobody's in particular."""
        return owner_of(self.lane)


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job in the queue. `waiter` is None for one that is polled."""

    model: str
    job: Job
    waiter: Waiter | None
    started_at: float
    wait_until: float
    """Monotonic time at which its client stops waiting."""
    expires_at: float
    """Until when its result is kept at most, in Redis' time."""
    is_named: bool = False
    """Its client may come back for it, so it goes on without that client."""
    span: Span = NOT_RECORDED
    """From its submission to its result, where somebody waits for that."""

    @property
    def id(self) -> str:
        """The job's."""
        return self.job.id

    @property
    def notice(self) -> str:
        """What its answer will say besides."""
        return self.job.notice


@dataclass(frozen=True, slots=True)
class FollowedJob:
    """A job that an earlier request of the same name has submitted, perhaps to another process."""

    model: str
    id: str
    expires_at: float
    """Until when its result is kept, if it is pending at most, in Redis' time."""
    notice: str = ""


def _message(model: str, job_id: str) -> dict[str, str]:
    """A job as OpenTelemetry's conventions describe a message."""
    return {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": model,
        "messaging.message.id": job_id,
    }


class JobClient:
    """Submits jobs and waits for them, from any thread."""

    def __init__(
        self,
        registry: Registry,
        producer: Producer,
        replies: Replies,
        clock: RedisClock,
        *,
        names: ModelNames,
        limits: JobLimits,
        cache: ResultCache | None = None,
        api_keys: ApiKeys | None = None,
    ) -> None:
        self.registry = registry
        self.producer = producer
        self.replies = replies
        self.cache = cache
        """Results that are kept for the same pictures, where the settings want that."""
        self.api_keys = api_keys
        """Where each request needs one."""
        self._clock = clock
        self.models = ModelChooser(
            registry, clock, names, request_timeout_s=limits.request_timeout_s, missed=producer.note_refused
        )
        self.limits = limits
        self.refusals = RecentRefusals()
        self._away_until = -math.inf
        self.places = RequestPlaces(limits.requests, registry, self.refusals, has_owners=api_keys is not None)
        """Those of the requests in flight here."""
        # More at once would be no faster, and each may take a gigabyte (50 million pixels in 16 bits).
        self._decoders = FairSemaphore(capacity.usable_cores())

    def within_pixels(self, pictures: Sequence[_Picture]) -> list[_Picture | ImageTooLarge]:
        """A request's pictures; an ImageTooLarge for each that would make too many pixels together.

        Up to MAX_PIXELS_TOGETHER pictures never do. Judged by what their headers say. One that does not tell
        counts as MAX_PIXELS; one that is too large alone is not counted, for it is refused.
        """
        left = most = MAX_PIXELS_TOGETHER * self.limits.max_pixels
        bounded: list[_Picture | ImageTooLarge] = []
        for picture in pictures:
            size = declared_size.of(picture) if isinstance(picture, bytes) else (0, 0)
            pixels = math.prod(size) if size is not None else self.limits.max_pixels
            if left < pixels <= self.limits.max_pixels:
                bounded.append(
                    ImageTooLarge(
                        f"The pictures of a request may have {most} pixels together, and those before this "
                        f"one leave {left}. Send it in another request."
                    )
                )
            else:
                bounded.append(picture)
                left -= pixels if pixels <= self.limits.max_pixels else 0
        return bounded

    def submit(
        self, choice: ModelChoice, picture: bytes | NDArray[np.uint8], options: JobOptions, *, top: int
    ) -> SubmittedJob:
        """Decode, fit and enqueue one picture; or enqueue one that a client has fitted to the model itself.

        Raises ClientError, Overloaded, BrokerUnavailable; DeadlinePassed if there is no time left, undecoded.
        """
        return _own(self.submit_once(choice, picture, options, top=top, name=None))

    def submit_once(
        self,
        choice: ModelChoice,
        picture: bytes | NDArray[np.uint8],
        options: JobOptions,
        *,
        top: int,
        name: RequestName | None,
    ) -> SubmittedJob | FollowedJob:
        """The same, unless `name` has a job already: then that one is followed.

        Raises IdempotencyKeyReused, too.
        """
        model, spec = choice.view.card.model, choice.view.card.input
        with contextlib.ExitStack() as submission:
            span = submission.enter_context(options.span.child(options.picture, {"batchwire.model": model}))
            if time.monotonic() >= options.wait_until:
                # One request of 64 pictures, 50 megapixels each in 10 KB, kept a core for 51 s, for nobody.
                raise DeadlinePassed(
                    "No time was left for this picture: send fewer at once, or allow more time."
                )
            # A shared one was looked up with what is kept.
            is_own = name is not None and not name.is_shared
            if name is not None and is_own and (before := self.named(model, name, owner=options.owner)):
                return before
            self.admit(choice, options)
            with self._decoder(options) as waited_s:
                if waited_s > LENGTH_VALID_S:
                    # Hundreds may have waited here with it, each let in by a queue that had room for one. And
                    # none of them is to find out again, after 0.9 s, that Redis is away.
                    with self._known_away():
                        self.admit(choice, options)
                began = time.monotonic()
                with span.child("decode", {"batchwire.waited_s": waited_s}):
                    if isinstance(picture, bytes):
                        prepared = fit.prepare(picture, spec, max_pixels=self.limits.max_pixels)
                    else:
                        prepared = fit.given(picture, spec)
                STAGE.labels(model, "decode").observe(time.monotonic() - began)
                # Within its place, too: threads that enqueued at once took the GIL from those that decode.
                try:
                    job = self._enqueue(choice, prepared, options, span, top=top, name=name)
                except BrokerUnavailable as error:
                    self._note_away(error)
                    raise
            if isinstance(job, SubmittedJob) and job.waiter is not None:
                submission.pop_all()  # `wait` ends the span
            return job

    def submit_part(
        self, choice: ModelChoice, part: PreparedPicture, options: JobOptions, *, top: int
    ) -> SubmittedJob:
        """Enqueue a picture, or a part of one, that is fitted and admitted. Raises BrokerUnavailable."""
        attributes = {"batchwire.model": choice.view.card.model}
        with contextlib.ExitStack() as submission:
            span = submission.enter_context(options.span.child(options.picture, attributes))
            job = _own(self._enqueue(choice, part, options, span, top=top))
            if job.waiter is not None:
                submission.pop_all()  # `wait` ends the span
            return job

    @contextlib.contextmanager
    def cutting(
        self, picture: bytes, parts: Sequence[Part], options: JobOptions, *, original_size: tuple[int, int]
    ) -> Iterator[PartCutter]:
        """A place among those that decode, to cut these parts out of a picture of that (width, height).

        Raises Overloaded.
        """
        with self._decoder(options):
            yield PartCutter(picture, parts, original_size=original_size, max_pixels=self.limits.max_pixels)

    def admit(self, choice: ModelChoice, options: JobOptions) -> None:
        """Refuse a picture that its model has no time for. Raises Overloaded, BrokerUnavailable."""
        card, left_s = choice.view.card, options.wait_until - time.monotonic()
        size = choice.view.job_size + len(choice.notice)
        if options.callback_url:
            self.producer.webhooks.admit(card.model)
        try:
            self.producer.admit(
                card.model,
                size=size,
                timeout_s=left_s,
                pace=choice.view.pace,
                polled=options.polled,
                lane=options.lane,
            )
        except Overloaded as refusal:
            if not options.polled:
                self.refusals.note(refusal, card.model, lane=options.lane)
            raise

    def named(self, model: str, name: RequestName, *, owner: str = "") -> FollowedJob | None:
        """The job that a client named so, if its result is still kept. Raises IdempotencyKeyReused."""
        job_id = self.producer.named(model, name)
        return self.follower(model, job_id, owner=owner) if job_id is not None else None

    def follower(self, model: str, job_id: str, *, owner: str = "") -> FollowedJob:
        """A job of `owner` that was submitted before."""
        stored = self.producer.look_up(model, job_id, owner=owner)
        if stored is None:
            raise Unavailable("The job that this request named before has just ended: send it again.")
        return FollowedJob(model, job_id, stored.expires_at)

    def expires_at(self, model: str, options: JobOptions) -> float:
        """Until when the results of such jobs are kept at most, in Redis' time."""
        deadline = self._clock.of(model).now() + options.wait_until - time.monotonic()
        return deadline + self.producer.result_ttl_s

    def _enqueue(
        self,
        choice: ModelChoice,
        prepared: PreparedPicture,
        options: JobOptions,
        span: Span,
        *,
        top: int,
        name: RequestName | None = None,
    ) -> SubmittedJob | FollowedJob:
        model, wait_until = choice.view.card.model, options.wait_until
        now, waits = self._clock.of(model).now(), options.waits or not options.polled
        job_id = options.job_id or self.producer.ids.make(
            model, owner="" if waits else options.owner, is_polled=not waits
        )
        message = _message(model, job_id) if span.is_recorded else None
        with span.child(f"send {model}", message, kind=Kind.PRODUCER, at=now) as sending:
            job = Job(
                id=job_id,
                polled=options.polled,
                image=prepared.pixels,
                accepted_at=now,
                deadline=now + wait_until - time.monotonic(),
                lane=options.lane,
                reply_to=self.replies.frontend if waits else None,
                original_size=prepared.original_size,
                top=top,
                traceparent=sending.traceparent or options.traceparent,
                input=choice.view.card.input.tag,
                notice=choice.notice,
                request_id=options.request_id,
                scores=options.scores,
            )
            webhook = _webhook(job, options) if options.callback_url else None
            # Before the job is enqueued: its result may come at once.
            waiter = self.replies.expect(model, job.id) if waits else None
            job_id = ""
            try:
                job_id = self.producer.enqueue(model, job, name, webhook)
            finally:
                if waiter is not None and job_id != job.id:
                    self.replies.forget(waiter)
        if name is not None and job_id != job.id:
            return self._named_before(model, job_id, name, options)
        self._note_queued(waiter, job)
        if _LOG.isEnabledFor(logging.DEBUG):
            about = logs.about(job_id=job.id, model=model)
            _LOG.debug("job %s of %s is enqueued", job.id, model, extra=about)
        expires_at, is_named = job.deadline + self.producer.result_ttl_s, name is not None
        return SubmittedJob(model, job, waiter, options.started_at, wait_until, expires_at, is_named, span)

    def _named_before(self, model: str, job_id: str, name: RequestName, options: JobOptions) -> FollowedJob:
        """The job that another request has just submitted by this name."""
        if name.is_shared:
            return FollowedJob(model, job_id, math.inf)  # following it shows whether it has ended
        return self.follower(model, job_id, owner=options.owner)

    @contextlib.contextmanager
    def _decoder(self, options: JobOptions) -> Iterator[float]:
        """A place among those that decode: the seconds waited for it, a request's time at most.

        Raises Overloaded.
        """
        began, owner = time.monotonic(), options.owner if options.lane else ""
        if not owner and self.api_keys is not None:
            owner = access.owner()
        # A pipeline that is polled decodes again long after its request came.
        since = began if options.waits else options.started_at
        # Forty pictures of 49 megapixels kept small ones waiting for 26 s, far beyond their deadline.
        timeout_s = since + self.limits.request_timeout_s - began
        with self._decoders.place(timeout_s=timeout_s, owner=owner) as is_given:
            if not is_given:
                raise Overloaded("Too many large pictures are being decoded; come back in 1 s.")
            yield time.monotonic() - began

    def draw(self, upload: bytes, result: Result | TaskResult, *, started_at: float) -> bytes:
        """The picture with its result drawn on it, as PNG. Raises ClientError, or Overloaded."""
        with self._decoder(JobOptions(started_at, started_at + self.limits.request_timeout_s)):
            return annotate.annotated(upload, result, max_pixels=self.limits.max_pixels)

    def wait(self, submitted: SubmittedJob, *, is_client_gone: Callable[[], bool]) -> Result:
        """Sleep until the result comes. Raises DeadlinePassed, ModelUnavailable, ClientGone, and cancels."""
        waiter, model = submitted.waiter, submitted.model
        if waiter is None:
            raise ValueError("a job that is polled can't be waited for")
        result, reason, client = None, "", SERVED.get()
        with submitted.span as span, contextlib.ExitStack() as waiting:
            waiting.callback(self.replies.forget, waiter)
            if client is not None:
                client.on_input = waiter.wake
            while not reason and (left_s := submitted.wait_until - time.monotonic()) > 0:
                is_watched = client is not None and not client.has_input
                look_s = WATCHED_LOOK_S if is_watched else LOOK_AT_CLIENT_S
                if (result := waiter.wait(min(left_s, look_s))) is not None:
                    spent = result.timings_ms
                    ended_at = submitted.job.accepted_at + (spent.waiting + spent.batch + spent.model) / 1000
                    with span.child("reply", at=ended_at):
                        STAGE.labels(model, "reply").observe(max(0.0, self._clock.of(model).now() - ended_at))
                    break
                if waiter.take_forgotten():
                    self._enqueue_again(submitted)
                if is_client_gone():
                    span.event("cancelled")
                    if not submitted.is_named:
                        self.producer.cancel(model, submitted.job.id)
                    raise ClientGone("The client closed the connection.")
                reason = self._failure(model)
            if result is None:
                result = self._take_late(submitted, waiter, reason)
            if result.error is not None:
                span.fail(result.error.code, result.error.message)
            return result

    def _take_late(self, submitted: SubmittedJob, waiter: Waiter, reason: str) -> Result:
        """A result that came at the last moment. Raises why there is none: `reason`, else the deadline."""
        # First what came already: of several pictures the last are looked at late.
        result = waiter.wait(0)
        if result is None:
            with self._known_away():
                result = self.producer.take_or_cancel(submitted.model, submitted.job.id)
        if result is not None:
            return result
        if reason:
            raise unavailable(reason)
        timeout_s = submitted.wait_until - submitted.started_at
        raise DeadlinePassed(f"No answer came in {timeout_s:g} s.")

    @contextlib.contextmanager
    def _known_away(self) -> Iterator[None]:
        """Ask Redis, unless it was away a moment ago: each of 64 pictures would find that out again in 0.9 s.

        Raises BrokerUnavailable.
        """
        if time.monotonic() < self._away_until:
            raise BrokerUnavailable("Redis does not answer.")
        try:
            yield
        except BrokerUnavailable as error:
            self._note_away(error)
            raise

    def _note_away(self, error: BrokerUnavailable) -> None:
        """Redis did not answer, unless it refused something."""
        if not error.is_refusal:
            self._away_until = time.monotonic() + _AWAY_S

    def _enqueue_again(self, submitted: SubmittedJob) -> None:
        """Put a job back that Redis forgot: it was killed before its last writes were on the disk."""
        job_id, model = submitted.job.id, submitted.model
        submitted.span.event("enqueued again")
        about = logs.about(job_id=job_id, model=model)
        _LOG.warning("Redis has forgotten job %s of %s: enqueued again", job_id, model, extra=about)
        metrics.job_lost(model, "waiting")
        with contextlib.suppress(BrokerUnavailable):  # it is looked up again soon
            self.producer.enqueue(submitted.model, submitted.job)
            self._note_queued(submitted.waiter, submitted.job)

    def _note_queued(self, waiter: Waiter | None, job: Job) -> None:
        """The job was enqueued just now, and may be waited for here."""
        if waiter is not None:
            clock = self._clock.of(waiter.model)
            there_at = clock.latest() if clock.has_stepped else clock.now()
            waiter.queued = QueuedJob(job.id, job.lane, job.polled, there_at)
            waiter.is_enqueued = True

    def _failure(self, model: str) -> str:
        """Why every live worker of the model failed to load it; empty while one may still answer."""
        try:
            view = self.registry.models().get(model)
        except BrokerUnavailable:
            return ""
        return view.reason if view is not None and view.state is WorkerState.FAILED else ""

    def cancel(self, submitted: SubmittedJob) -> None:
        """Give up a job whose request has failed elsewhere, unless its client may come back for it."""
        submitted.span.event("cancelled")
        submitted.span.end()
        if submitted.waiter is not None:
            self.replies.forget(submitted.waiter)
        if submitted.is_named:
            return
        with contextlib.suppress(BrokerUnavailable), self._known_away():  # it then ends at its deadline
            self.producer.cancel(submitted.model, submitted.job.id, has_webhook=submitted.job.polled)

    def poll(self, model: str, job_id: str, *, owner: str = "") -> StoredJob | None:
        """The job's result, or that it is pending; None where `owner` has none (any more).

        Its place among those of an API key is free once its end was told. Raises DeadlinePassed, once: the
        job is cancelled then.
        """
        try:
            stored = self._stored(model, job_id, owner=owner)
        except DeadlinePassed:
            self._free_place(model, job_id)
            raise
        if stored is None or not isinstance(stored.state, PendingJob):
            self._free_place(model, job_id)
        return stored

    def _free_place(self, model: str, job_id: str) -> None:
        """The client is told that its job has ended: its API key has the place back, if it has so few."""
        key = access.KEY.get()
        if key is not None and key.jobs and self.api_keys is not None:
            self.api_keys.limiter.ended(key.name, model, job_id)

    def _stored(self, model: str, job_id: str, *, owner: str) -> StoredJob | None:
        asked_at = time.monotonic()
        stored = self.producer.look_up(model, job_id, owner=owner)
        if stored is None or not isinstance(stored.state, PendingJob):
            return stored
        if stored.state.deadline_passed:
            result = self.producer.take_or_cancel(model, job_id, is_polled=True)
            if result is None:
                raise DeadlinePassed("The picture waited for a model server until its deadline.")
            return StoredJob(result, stored.expires_at)
        lane = stored.state.polled_lane
        if self.producer.lost.is_missing(model, job_id, asked_at=asked_at, lane=lane):
            self.producer.cancel(model, job_id)  # without a trace: whoever asks what became of it hears it
            return None
        return stored

    def why_gone(self, model: str, job_id: str, *, owner: str = "") -> ClientError | None:
        """What became of a polled job that `owner` has no more; None: no such job is known.

        Raises BrokerUnavailable.
        """
        fate = self.producer.lost.fate(model, job_id, owner=owner)
        if fate is Fate.UNKNOWN:
            return None
        if fate is Fate.EXPIRED:
            return ResultExpired(
                "This job was accepted, and its result, if it had one, is not kept any more: send the "
                "picture again."
            )
        if fate is Fate.LOST:
            metrics.job_lost(model, "polled")
            about = logs.about(job_id=job_id, model=model)
            _LOG.warning("Redis has lost job %s of %s: its poller is told", job_id, model, extra=about)
        return JobLost("This job was accepted, but Redis has lost it: send the picture again.")

    def follow(
        self,
        model: str,
        job_id: str,
        *,
        until: float,
        is_client_gone: Callable[[], bool],
        owner: str = "",
    ) -> StoredJob | None:
        """The same, but sleep while the job is pending, until that monotonic time at most. Takes no place.

        Raises DeadlinePassed, ClientGone; the job goes on without its client.
        """
        if time.monotonic() >= until:
            return self.poll(model, job_id, owner=owner)
        waiter = self.replies.follow(model, job_id)
        try:
            stored = self.poll(model, job_id, owner=owner)
            if stored is None or not isinstance(stored.state, PendingJob):
                return stored
            self._sleep(waiter, min(until, time.monotonic() + stored.state.left_s), is_client_gone)
            # The key, not the message: it says how long the result stays.
            return self.poll(model, job_id, owner=owner)
        finally:
            self.replies.forget(waiter)

    def delete(self, model: str, job_id: str, *, owner: str = "") -> bool:
        """Cancel `owner`'s polled job, or drop its result and its webhook; return whether there was one.

        Its place among those of an API key is free at once.
        """
        was_there = self.producer.delete(model, job_id, owner=owner)
        if was_there and owner and self.api_keys is not None:
            self.api_keys.limiter.cancelled(owner, model, job_id)
        return was_there

    def longest_wait_until(self, wait_s: float) -> float:
        """The monotonic time until which a poller may wait that asks for so many seconds."""
        return time.monotonic() + min(wait_s, self.limits.request_timeout_s)

    @staticmethod
    def _sleep(waiter: Waiter, until: float, is_client_gone: Callable[[], bool]) -> None:
        """Sleep until the job has ended, or until then. Raises ClientGone."""
        while (left_s := until - time.monotonic()) > 0:
            if waiter.wait(min(left_s, LOOK_AT_CLIENT_S)) is not None or waiter.take_forgotten():
                return
            if is_client_gone():
                raise ClientGone("The client closed the connection.")


def _webhook(job: Job, options: JobOptions) -> Webhook:
    """Where the end of the job is announced."""
    times = job.accepted_at, job.deadline
    return Webhook(options.callback_url, *times, job.request_id, owner=job.owner or UNSET)


def _own(job: SubmittedJob | FollowedJob) -> SubmittedJob:
    """The job of a picture without a name, which no other request can have submitted."""
    if isinstance(job, FollowedJob):
        raise TypeError(f"{job!r} has no name to be found by. This is a bug")
    return job
