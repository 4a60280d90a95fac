"""Pipelines whose clients poll: threads of this process take their pictures through the steps.

Owns those threads, how many there are, and that each job ends with a result: also where the process stops. A
process that is killed leaves its jobs pending until their deadline, when their clients are told so.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from msgspec import UNSET

from broker.errors import BrokerUnavailable, Overloaded, ServiceError, Unavailable
from broker.messages import Failure, Result
from broker.producer import RequestName
from telemetry import logs, tracing
from web import pipelines
from web.jobs import ClientGone, FollowedJob, JobClient, JobOptions
from web.middleware import request_ids
from web.model_choice import ModelChoice
from web.request_places import of_one_owner

_LOG = logging.getLogger(__name__)

_RETRY_S: Final = 0.5
"""Between two tries to write a result while Redis is away."""

_RETRY_AFTER_S: Final = 10
"""A place may be taken for as long as ASYNC_TIMEOUT_S, and most are for a few seconds."""

_LAST_S: Final = 1.0
"""What a thread gets to say that its process stops: while it waits it looks four times a second."""


@dataclass(frozen=True, slots=True)
class PolledPipeline:
    """A picture that goes through the steps of a pipeline while its client polls."""

    model: str
    id: str
    notice: str
    version: str
    expires_at: float = 0.0
    """Until when its result is kept at most, in Redis' time."""
    owner: str = ""

    def failed(self, error: ServiceError) -> Result:
        """The result that says so."""
        return self.ended(Result("", self.model, self.version, error=Failure(error.code, error.message)))

    def ended(self, result: Result) -> Result:
        """What came of its steps, as this job's result."""
        return replace(result, id=self.id, owner=self.owner or UNSET)


class PolledPipelines:
    """Takes pictures through pipelines, `at_once` at most. `stop` at the process's end."""

    def __init__(self, jobs: JobClient, *, at_once: int) -> None:
        self._jobs = jobs
        self._at_once = at_once
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._running: dict[str, tuple[PolledPipeline, threading.Thread]] = {}

    def start(
        self, choice: ModelChoice, picture: bytes, options: JobOptions, name: RequestName | None = None
    ) -> PolledPipeline | FollowedJob:
        """Announce the job, and begin; or the job that `name` has already. An owner has half of the places.

        Raises Overloaded, Unavailable, BrokerUnavailable, IdempotencyKeyReused.
        """
        card = choice.view.card
        if name is not None and (job_before := self._jobs.named(card.model, name, owner=options.owner)):
            return job_before
        job_id = options.job_id or self._jobs.producer.ids.make(
            card.model, owner=options.owner, is_polled=True
        )
        job = PolledPipeline(card.model, job_id, choice.notice, card.model_version, owner=options.owner)
        if options.callback_url:
            self._jobs.producer.webhooks.admit(card.model)
        # Its steps' jobs are waited for here, and announced to nobody.
        callback_url, options = options.callback_url, replace(options, waits=True, callback_url="", job_id="")
        # Daemons: one that hangs in a decoder must not keep its process from ending.
        thread = threading.Thread(
            target=self._run, args=(choice, picture, options, job), name="pipeline", daemon=True
        )
        with self._changing:
            if self._stopping.is_set():
                raise Unavailable("This process is stopping; send it again.")
            if len(self._running) >= self._at_once:
                raise _too_many(self._at_once, "")
            owned = sum(each.owner == job.owner for each, _ in self._running.values())
            if job.owner and owned >= (most := of_one_owner(self._at_once)):
                raise _too_many(most, " of this API key")
            self._running[job.id] = job, thread
        try:
            left_s = options.wait_until - time.monotonic()
            job_id = self._jobs.producer.begin(
                job.model,
                job.id,
                time_s=left_s,
                name=name,
                callback_url=callback_url,
                request_id=options.request_id,
                owner=job.owner,
            )
            if job_id != job.id:
                self._end(job)
                return self._jobs.follower(job.model, job_id, owner=job.owner)
            thread.start()
        except BaseException:
            self._end(job)
            raise
        return replace(job, expires_at=self._jobs.expires_at(job.model, options))

    def stop(self, *, within_s: float) -> None:
        """Wait for what runs, so long at most; the rest is told that this process stops."""
        deadline = time.monotonic() + within_s
        self._join(deadline - _LAST_S)
        self._stopping.set()
        self._join(max(deadline, time.monotonic() + _LAST_S))
        for job, _ in self._left():
            try:
                self._jobs.producer.finish(job.failed(_stopped()))
            except BrokerUnavailable as error:
                about = logs.about(job_id=job.id, model=job.model)
                _LOG.error(
                    "%s: pipeline job %s stays pending: %s", job.model, job.id, error.detail, extra=about
                )
                return

    def _left(self) -> list[tuple[PolledPipeline, threading.Thread]]:
        with self._changing:
            return list(self._running.values())

    def _join(self, until: float) -> None:
        for _, thread in self._left():
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def _end(self, job: PolledPipeline) -> None:
        with self._changing:
            self._running.pop(job.id, None)

    def _run(self, choice: ModelChoice, picture: bytes, options: JobOptions, job: PolledPipeline) -> None:
        request_ids.CURRENT.set(options.request_id)
        tracing.CURRENT.set(options.span)
        try:
            try:
                result = self._result(choice, picture, options, job)
            except Exception:  # noqa: BLE001 - else its client would be left to the deadline
                about = logs.about(job_id=job.id, model=job.model)
                _LOG.exception("pipeline job %s of %s failed; this is a bug", job.id, job.model, extra=about)
                result = job.failed(ServiceError("The service failed on this request; its log says why."))
            self._write(result, until=options.wait_until)
        finally:
            self._end(job)

    def _result(
        self, choice: ModelChoice, picture: bytes, options: JobOptions, job: PolledPipeline
    ) -> Result:
        outcome: Result | ServiceError
        try:
            [outcome] = pipelines.run(
                self._jobs, choice, [picture], options, is_client_gone=partial(self._is_unwanted, job)
            )
        except ClientGone:
            outcome = _stopped()  # one that was cancelled has no key to write this to
        except ServiceError as error:
            outcome = error
        return job.ended(outcome) if isinstance(outcome, Result) else job.failed(outcome)

    def _is_unwanted(self, job: PolledPipeline) -> bool:
        """Whether this process stops, or the job was cancelled."""
        if self._stopping.is_set():
            return True
        try:
            return not self._jobs.producer.is_known(job.model, job.id)
        except BrokerUnavailable:
            return False

    def _write(self, result: Result, *, until: float) -> None:
        """Write the result; while Redis is away, until the deadline or the process's end."""
        while True:
            try:
                self._jobs.producer.finish(result)
                return
            except BrokerUnavailable as error:
                if time.monotonic() > until or self._stopping.wait(_RETRY_S):
                    _LOG.error(
                        "the result of pipeline job %s of %s is lost: %s",
                        *(result.id, result.model, error.detail),
                        extra=logs.about(job_id=result.id, model=result.model),
                    )
                    return


def _too_many(pipelines: int, whose: str) -> Overloaded:
    return Overloaded(
        f"{pipelines} pipelines{whose} are polled here already; come back in {_RETRY_AFTER_S} s.",
        retry_after_s=_RETRY_AFTER_S,
    )


def _stopped() -> Unavailable:
    return Unavailable("The web process that asked its steps has stopped: send the picture again.")
