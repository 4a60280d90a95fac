"""What becomes of the pictures of one request, whichever protocol it came by.

Owns that all are submitted before the first is waited for, that one picture's failure is its own, and that
the jobs of a request that fails as a whole are cancelled. Knows no HTTP: the routes read requests and write
answers, and jobs.py has the life of each job.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from broker.api_keys import ApiKey
from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    IdempotencyKeyReused,
    ModelUnavailable,
    Overloaded,
    ServiceError,
    Unavailable,
)
from broker.messages import Result
from broker.producer import PendingJob, StoredJob
from web import answers, metrics, pipelines, question
from web.idempotency import IdempotentRequest
from web.jobs import MAX_PIXELS_TOGETHER, ClientGone, FollowedJob, JobClient, JobOptions, SubmittedJob
from web.keys import access
from web.keys.limits import KeyLimiter
from web.model_choice import ModelChoice
from web.polled_pipelines import PolledPipeline, PolledPipelines
from web.question import Question
from web.uploads import reader
from web.uploads.reader import Picture, Upload

Polled = SubmittedJob | PolledPipeline | FollowedJob
"""A picture that waits for a poller."""
SubmittedResult = Polled | Result | ServiceError
"""What became of one picture: it waits for a poller, has its result, or failed."""
PictureResult = SubmittedResult | StoredJob
"""The same after a wait for a polled one, whose result can be polled as well."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose pictures they are: what is asked of their jobs, and whether anybody still waits for them."""

    options: JobOptions
    is_gone: Callable[[], bool]
    named: IdempotentRequest | None = None
    job_ids: tuple[str, ...] = ()
    """What the pictures' jobs shall be called; empty: as it comes."""


class Inference:
    """Asks models about the pictures of requests, from any thread."""

    def __init__(self, jobs: JobClient, polled_pipelines: PolledPipelines) -> None:
        self.jobs = jobs
        self.polled_pipelines = polled_pipelines

    def run(self, upload: Upload, caller: Caller) -> list[SubmittedResult]:
        """What becomes of every picture: all are submitted, then waited for (but not a poller's).

        Raises a ServiceError of the whole request.
        """
        jobs, count, asked_before = self.jobs, len(upload.pictures), question.CURRENT.get().pictures
        try:
            choice = jobs.models.choose(upload.parameters.get("model"), is_polled=caller.options.polled)
            card, key = choice.view.card, access.KEY.get()
            model = card.model
            question.CURRENT.set(Question(model, asked_before + count))
            if count > MAX_PIXELS_TOGETHER:
                upload = replace(upload, pictures=jobs.within_pixels(upload.pictures))
            # A request that asks for too many predictions is refused whole.
            top = reader.top(upload.tops, card, asked=choice.asked.card) if upload.tops else card.top
            with jobs.places.share(model):
                if key is None or jobs.api_keys is None:
                    results = self._results(choice, upload, caller, top=top)
                else:
                    limiter = jobs.api_keys.limiter
                    results = self._within_limits(limiter, key, choice, upload, caller, top=top)
        except ServiceError as error:
            if question.CURRENT.get().pictures == asked_before:  # no model was chosen
                asked = jobs.models.known(upload.parameters.get("model"))
                question.CURRENT.set(Question(asked, asked_before + count))
            metrics.PICTURES.labels(question.CURRENT.get().model, error.code).inc(count)
            raise
        for result in results:
            outcome = "accepted"
            if isinstance(result, ServiceError):
                outcome = result.code
            elif isinstance(result, Result):
                outcome = result.error.code if result.error else "ok"
            metrics.PICTURES.labels(model, outcome).inc()
        return results

    def _within_limits(
        self,
        limiter: KeyLimiter,
        key: ApiKey,
        choice: ModelChoice,
        upload: Upload,
        caller: Caller,
        *,
        top: int,
    ) -> list[SubmittedResult]:
        """The same, where the request's API key has limits: what it takes of them is given back at its end.

        But the place of a job that is polled, which ends elsewhere, and the token of a picture, unless it was
        refused for now (503): its client sends it again.
        """
        count, polled = len(upload.pictures), caller.options.polled
        left_s = caller.options.wait_until - time.monotonic()
        try:
            taken = limiter.take(key, choice.view.card.model, count, polled=polled, time_s=max(0.0, left_s))
        except Overloaded as refusal:
            self.jobs.refusals.note(refusal, lane=key.name)
            raise
        ended, refunds = [True] * count, 0
        try:
            results = self._results(choice, upload, replace(caller, job_ids=taken.ids), top=top)
            refunds = sum(isinstance(each, Unavailable) for each in results)
            if polled:
                pairs = zip(results, taken.ids, strict=True)
                ended = [not (isinstance(each, Polled) and each.id == job_id) for each, job_id in pairs]
            return results
        except Unavailable:
            refunds = count
            raise
        finally:
            if taken.needs_end:
                limiter.settle(taken, ended=ended, refunds=refunds)

    def outcomes(self, upload: Upload, caller: Caller) -> list[Result | ServiceError]:
        """What became of pictures that are all waited for: their results, or the errors that they ended in.

        Raises a ServiceError of the whole request.
        """
        results: list[Result | ServiceError] = []
        for result in self.run(upload, caller):
            if isinstance(result, Polled):
                raise TypeError(f"{result!r} was not waited for. This is a bug")
            if isinstance(result, Result) and result.error is not None:
                results.append(answers.error_of(result.error))
            else:
                results.append(result)
        return results

    def _results(
        self, choice: ModelChoice, upload: Upload, caller: Caller, *, top: int
    ) -> list[SubmittedResult]:
        if choice.view.card.steps:
            return self._by_steps(choice, upload, caller, top=top)
        results: list[SubmittedResult] = []
        try:
            for number, picture in enumerate(upload.pictures):
                if results and isinstance(results[-1], BrokerUnavailable):
                    results.append(results[-1])  # each would find that out again, 0.9 s later
                    continue
                if results and caller.is_gone():
                    raise ClientGone("The client closed the connection.")
                results.append(self._submitted(choice, picture, caller, number, top=top))
            for number, job in enumerate(results):
                if isinstance(job, SubmittedJob | FollowedJob) and not caller.options.polled:
                    ended = self._ended(job, caller)
                    if isinstance(ended, ModelUnavailable) and not upload.parameters.get("model"):
                        # A default that failed meanwhile has a fallback, perhaps.
                        ended = self._by_fallback(upload, upload.pictures[number], caller)
                    results[number] = ended
        except BaseException:
            for result in results:
                if isinstance(result, SubmittedJob):
                    self.jobs.cancel(result)
            raise
        return results

    def _submitted(
        self, choice: ModelChoice, picture: Picture, caller: Caller, number: int, *, top: int
    ) -> SubmittedResult:
        """The job of a request's picture of that number, or why there is none.

        Raises what is the fault of the whole request.
        """
        options, name = caller.options, None
        if caller.job_ids and options.polled:  # any other needs no id that is known beforehand
            options = replace(options, job_id=caller.job_ids[number])
        if caller.named:
            name = caller.named.picture(number, owner=options.owner)
        try:
            if isinstance(picture, ClientError):
                raise picture
            if choice.view.card.steps and isinstance(picture, bytes):
                return self.polled_pipelines.start(choice, picture, options, name)
            return self.jobs.submit_once(choice, picture, options, top=top, name=name)
        except IdempotencyKeyReused:
            raise
        except ServiceError as error:
            return error.as_outcome()

    def _ended(self, job: Polled, caller: Caller) -> Result | ServiceError:
        """The result of a job whose client waits to the end, or the error that it is. Raises ClientGone."""
        try:
            if isinstance(job, SubmittedJob):
                return self.jobs.wait(job, is_client_gone=caller.is_gone)
            until = caller.options.wait_until
            stored = self._looked_at(job, caller, until=until)
            if stored is None:
                return _lost()
            if isinstance(stored.state, PendingJob):
                return DeadlinePassed(f"No answer came in {until - caller.options.started_at:g} s.")
            return stored.result
        except ClientGone:
            raise
        except ServiceError as error:
            return error.as_outcome()

    def _by_steps(
        self, choice: ModelChoice, upload: Upload, caller: Caller, *, top: int
    ) -> list[SubmittedResult]:
        options = caller.options
        pictures = [
            ClientError(f"{choice.view.card.model} is a pipeline: it takes encoded pictures, and no pixels.")
            if isinstance(picture, np.ndarray)
            else picture
            for picture in upload.pictures
        ]
        if not (options.polled or caller.named):
            return [*pipelines.run(self.jobs, choice, pictures, options, is_client_gone=caller.is_gone)]
        results: list[SubmittedResult] = []
        for number, picture in enumerate(pictures):
            if isinstance(picture, ClientError):
                results.append(picture)
            elif results and isinstance(results[-1], BrokerUnavailable):
                results.append(results[-1])  # each would find that out again, 0.9 s later
            else:
                results.append(self._submitted(choice, picture, caller, number, top=top))
        if options.polled:
            return results
        return [self._ended(each, caller) if isinstance(each, Polled) else each for each in results]

    def awaited(
        self, results: Sequence[PictureResult], caller: Caller, *, until: float
    ) -> list[PictureResult]:
        """What became of jobs that are polled after a wait for their results: what is not there is polled."""
        awaited: list[PictureResult] = list(results)
        try:
            for number, job in enumerate(results):
                # One that was submitted just now is looked at only where its client waits for it.
                if isinstance(job, Polled if time.monotonic() < until else FollowedJob):
                    awaited[number] = self._followed(job, caller, until=until)
        except ClientGone:
            # It was not told where to poll: nobody else hears of the end either.
            is_wanted = caller.named is not None or caller.options.callback_url
            for job in results:
                if isinstance(job, Polled) and not is_wanted:
                    with contextlib.suppress(BrokerUnavailable):
                        self.jobs.delete(job.model, job.id, owner=caller.options.owner)
            raise
        return awaited

    def _followed(self, job: Polled, caller: Caller, *, until: float) -> PictureResult:
        """What has become of a job by then: the job itself while it is pending. Raises ClientGone."""
        try:
            stored = self._looked_at(job, caller, until=until)
        except ClientGone:
            raise
        except ServiceError as error:
            return error.as_outcome()
        if stored is None:  # a killed Redis came back without it
            return _lost()
        return job if isinstance(stored.state, PendingJob) else stored

    def _looked_at(self, job: Polled, caller: Caller, *, until: float) -> StoredJob | None:
        """What is stored of a caller's job by then. Raises as JobClient.follow does."""
        owner = caller.options.owner
        return self.jobs.follow(job.model, job.id, until=until, is_client_gone=caller.is_gone, owner=owner)

    def _by_fallback(self, upload: Upload, picture: Picture, caller: Caller) -> Result | ServiceError:
        """One picture's result where the default failed meanwhile: only now is its fallback known.

        Raises ClientGone.
        """
        try:
            choice = self.jobs.models.choose(None)
            card = choice.view.card
            top = reader.top(upload.tops, card, asked=choice.asked.card) if upload.tops else card.top
            if isinstance(picture, ClientError):
                return picture
            return self._ended(self.jobs.submit(choice, picture, caller.options, top=top), caller)
        except ClientGone:
            raise
        except ServiceError as error:
            return error.as_outcome()


def _lost() -> Unavailable:
    return Unavailable("The job was cancelled, or Redis has lost it: send the picture again.")
