"""Answers from results that are kept, and runs that requests with the same picture share (RESULT_CACHE_S).

Owns what makes two questions the same, and when the result of another request's job answers. What is kept,
and for how long, is broker/result_cache.py's. Without RESULT_CACHE_S nobody makes a CachedInference.
"""

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError, DeadlinePassed, MalformedMessage, ServiceError
from broker.messages import Card, Result
from broker.producer import StoredJob
from broker.result_cache import ResultCache, shared_name
from web import metrics
from web.inference import Caller, Inference, Polled, SubmittedResult
from web.jobs import ClientGone, FollowedJob, JobClient, JobOptions, SubmittedJob
from web.model_choice import ModelChoice
from web.polled_pipelines import PolledPipelines
from web.uploads.reader import Picture, Upload

_RESULT_FIELDS: Final = tuple(field.name for field in fields(Result))


class Source(StrEnum):
    """Where the answer for a picture comes from."""

    HIT = "hit"  # a result that was kept
    SHARED = "shared"  # the run of another request
    MISS = "miss"  # its own run


@dataclass(frozen=True, slots=True)
class FoundResult(Result):
    """The result of another request's job."""

    source: Source = Source.HIT


@dataclass(frozen=True, slots=True)
class _Question:
    """A picture, and what is asked about it."""

    choice: ModelChoice
    picture: bytes | NDArray[np.uint8]
    top: int
    digest: str

    @property
    def card(self) -> Card:
        return self.choice.view.card


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnRun(SubmittedJob):
    """A job that this request has submitted, and whose result it keeps for others."""

    question: _Question


@dataclass(frozen=True, slots=True, kw_only=True)
class _SharedRun(FollowedJob):
    """A job that another request has submitted, which asks the same."""

    question: _Question


class CachedInference(Inference):
    """Asks models about pictures, unless the same was asked before. `say` hears each picture's source.

    Polled jobs, pipelines and requests with an Idempotency-Key are asked without it.
    """

    def __init__(
        self,
        jobs: JobClient,
        polled_pipelines: PolledPipelines,
        cache: ResultCache,
        *,
        say: Callable[[Sequence[str]], None],
    ) -> None:
        super().__init__(jobs, polled_pipelines)
        self.cache = cache
        self._say = say
        self._changing = threading.Lock()
        self._submitting: dict[str, threading.Event] = {}
        """By digest: set once the thread that decodes the picture has enqueued it, or failed."""

    def _results(
        self, choice: ModelChoice, upload: Upload, caller: Caller, *, top: int
    ) -> list[SubmittedResult]:
        results = super()._results(choice, upload, caller, top=top)
        if not choice.view.card.steps and caller.named is None and not caller.options.polled:
            sources = [each.source if isinstance(each, FoundResult) else Source.MISS for each in results]
            self._say(sources)
            for source in sources:
                metrics.cached(choice.view.card.model, source)
        return results

    def _submitted(
        self, choice: ModelChoice, picture: Picture, caller: Caller, number: int, *, top: int
    ) -> SubmittedResult:
        options = caller.options
        if caller.named is not None or options.polled or isinstance(picture, ClientError):
            return super()._submitted(choice, picture, caller, number, top=top)
        question = _Question(choice, picture, top, digest_of(choice, picture, options, top=top))
        try:
            if found := self._found(question):
                options.span.event("shared" if isinstance(found, _SharedRun) else "kept")
                return found
            return self._begun(question, options)
        except ServiceError as error:
            return error.as_outcome()

    def _found(self, question: _Question) -> FoundResult | _SharedRun | None:
        """The kept result, or the run of another request. Raises BrokerUnavailable."""
        model = question.card.model
        found = self.cache.find(model, question.digest, FoundResult)
        if isinstance(found, str):
            # Where a run passed its deadline its name is left, and the next run takes it.
            is_known = self.jobs.producer.is_known(model, found)
            return _SharedRun(model, found, math.inf, question=question) if is_known else None
        return found if found is not None and _is_current(found, question.card) else None

    def _begun(self, question: _Question, options: JobOptions) -> _OwnRun | _SharedRun | FoundResult:
        """A job of its own, unless another request is faster. Raises as JobClient.submit does."""
        left_s = options.wait_until - time.monotonic()
        with self._alone(question.digest, timeout_s=left_s) as is_first:
            if not is_first and (found := self._found(question)):
                return found
            job = self.jobs.submit_once(
                question.choice,
                question.picture,
                options,
                top=question.top,
                name=shared_name(question.digest),
            )
        if isinstance(job, FollowedJob):  # another process was faster
            return _SharedRun(job.model, job.id, job.expires_at, question=question)
        return _own_run(job, question)

    @contextlib.contextmanager
    def _alone(self, digest: str, *, timeout_s: float) -> Iterator[bool]:
        """Whether no other thread of this process submits the same. If one does, wait until it has.

        Of fifty requests at once one decodes. Where that fails the others go on side by side.
        """
        mine = threading.Event()
        with self._changing:
            submitted = self._submitting.setdefault(digest, mine)
        if submitted is not mine:
            submitted.wait(max(0.0, timeout_s))
            yield False
            return
        try:
            yield True
        finally:
            with self._changing:
                del self._submitting[digest]
            mine.set()

    def _ended(self, job: Polled, caller: Caller) -> Result | ServiceError:
        if isinstance(job, _SharedRun):
            try:
                return self._shared(job, caller)
            except ClientGone:
                raise
            except ServiceError as error:
                return error.as_outcome()
        result = super()._ended(job, caller)
        if isinstance(job, _OwnRun) and isinstance(result, Result):
            card = job.question.card
            self.cache.keep(card.model, job.question.digest, result, is_answer=_is_current(result, card))
        return result

    def _shared(self, run: _SharedRun, caller: Caller) -> Result | ServiceError:
        """The result of a shared run; where it gives none for this request, that of a run of its own.

        That run is not shared: a picture that fails is not waited for twice. Raises as JobClient.submit does.
        """
        until, question, stored = caller.options.wait_until, run.question, None
        with contextlib.suppress(MalformedMessage, DeadlinePassed):  # the run's own deadline, not this one
            stored = self._looked_at(run, caller, until=until)
        if stored is not None and self._is_answer(stored, question.card):
            result = stored.result
            values = {name: getattr(result, name) for name in _RESULT_FIELDS}
            return FoundResult(**values, source=Source.SHARED)
        if time.monotonic() >= until:
            raise DeadlinePassed(f"No answer came in {until - caller.options.started_at:g} s.")
        own = self.jobs.submit(question.choice, question.picture, caller.options, top=question.top)
        return self._ended(_own_run(own, question), caller)

    def _is_answer(self, stored: StoredJob, card: Card) -> bool:
        """Whether a job has ended with an answer, and not so long ago that it would have expired."""
        is_ended = isinstance(stored.state, Result) and _is_current(stored.state, card)
        return is_ended and self.jobs.producer.age_s(card.model, stored) < self.cache.ttl_s


def digest_of(
    choice: ModelChoice, picture: bytes | NDArray[np.uint8], options: JobOptions, *, top: int
) -> str:
    """Of all that an answer depends on: the picture as it came, the model, what is asked, and by whom."""
    card = choice.view.card
    # The version covers the model's folder and its weights. Which engine runs it the environment says.
    asked: tuple[object, ...] = (card.model, card.model_version, card.engine, card.precision, card.weights)
    asked += (card.input.tag, top, options.scores, choice.notice)
    if options.owner:  # X-Cache would tell one what another has sent
        asked += (options.owner,)
    if isinstance(picture, bytes):
        content: bytes = picture
    else:  # a picture's own size is in no other field of it
        asked, content = (*asked, picture.shape, picture.dtype.str), picture.tobytes()
    said = repr(asked).encode()
    digest = hashlib.sha256(b"%d:%b" % (len(said), said))
    digest.update(content)
    return digest.hexdigest()


def _is_current(result: Result, card: Card) -> bool:
    """Whether it is an answer of the card's version and engine: in an update an older worker may run it."""
    ran = (result.model_version, result.engine, result.precision)
    return result.error is None and ran == (card.model_version, card.engine, card.precision)


def _own_run(job: SubmittedJob, question: _Question) -> _OwnRun:
    values = {field.name: getattr(job, field.name) for field in fields(SubmittedJob)}
    return _OwnRun(**values, question=question)
