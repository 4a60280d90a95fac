"""Pipelines whose clients poll: threads of this process take their pictures through the steps.

Owns those threads, how many there are, and that each job ends with a result: also where the process stops. A
process that is killed leaves its jobs pending until their deadline, when their clients are told so.
"""

import contextvars
import logging
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import BrokerUnavailable, Overloaded, ServiceError, Unavailable
from broker.messages import Failure, Result
from web import pipelines
from web.jobs import ClientGone, JobClient, JobOptions
from web.model_choice import ModelChoice

_LOG = logging.getLogger(__name__)

_RETRY_S: Final = 0.5
"""Between two tries to write a result while Redis is away."""

_LAST_S: Final = 1.0
"""What a thread needs to say that its process stops: it looks four times a second."""


@dataclass(frozen=True, slots=True)
class PolledPipeline:
    """A picture that goes through the steps of a pipeline while its client polls."""

    model: str
    id: str
    notice: str


class PolledPipelines:
    """Takes pictures through pipelines, `at_once` at most. `stop` at the process's end."""

    def __init__(self, jobs: JobClient, *, at_once: int) -> None:
        self._jobs = jobs
        self._at_once = at_once
        self._places = threading.BoundedSemaphore(at_once)
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(at_once, "pipelines")
        self._running: set[Future[None]] = set()

    def start(self, choice: ModelChoice, picture: bytes, options: JobOptions) -> PolledPipeline:
        """Announce the job, and begin. Raises Overloaded, BrokerUnavailable."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._at_once} pipelines are polled here already; come back in 1 s.")
        try:
            job = PolledPipeline(choice.view.card.model, str(uuid.uuid4()), choice.notice)
            options = replace(options, waits=True)
            left_s = self._jobs.wait_until(options) - time.monotonic()
            self._jobs.producer.begin(job.model, job.id, time_s=left_s)
            context = contextvars.copy_context()  # the log names the request
            running = self._threads.submit(context.run, self._run, choice, picture, options, job)
            self._running.add(running)
            running.add_done_callback(self._running.discard)
        except BaseException:
            self._places.release()
            raise
        return job

    def stop(self, *, within_s: float) -> None:
        """Wait for what runs, so long at most; the rest is told that this process stops."""
        wait(list(self._running), timeout=max(0.0, within_s - _LAST_S))
        self._stopping.set()
        self._threads.shutdown(wait=True)

    def _run(self, choice: ModelChoice, picture: bytes, options: JobOptions, job: PolledPipeline) -> None:
        try:
            result = replace(self._result(choice, picture, options, job), id=job.id)
            self._write(result, until=self._jobs.wait_until(options))
        except Exception:  # noqa: BLE001 - a thread that dies quietly would leave its client to the deadline
            _LOG.exception("pipeline job %s of %s failed; this is a bug", job.id, job.model)
        finally:
            self._places.release()

    def _result(
        self, choice: ModelChoice, picture: bytes, options: JobOptions, job: PolledPipeline
    ) -> Result:
        outcome: Result | ServiceError
        try:
            [outcome] = pipelines.run(
                self._jobs, choice, [picture], options, is_client_gone=self._stopping.is_set
            )
        except ClientGone:
            outcome = Unavailable("The web process that asked its steps has stopped: send the picture again.")
        except ServiceError as error:
            outcome = error
        if isinstance(outcome, Result):
            return outcome
        failure = Failure(outcome.code, outcome.message)
        return Result(job.id, job.model, choice.view.card.model_version, error=failure)

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
                        *(result.id, result.model, error.message),
                    )
                    return
