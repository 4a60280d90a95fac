"""Pipelines: several models asked about one picture, the later ones about what the earlier ones have found.

Owns the order of the steps, what of a picture each is asked about, and the nested answer. Each question is a
job of its own in its model's queue, which jobs.py submits and waits for. Knows no HTTP.
"""

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    InferenceFailed,
    ModelUnavailable,
    NoWorker,
    Overloaded,
    ServiceError,
    UnknownModel,
)
from broker.messages import Box, InputSpec, Keypoint, Prediction, Result, Skeleton, Step, TaskResult, Timings
from pictures import rle
from pictures.fit import Part, PartCutter, PreparedPicture
from web import answers
from web.jobs import ClientGone, JobClient, JobOptions, SubmittedJob
from web.model_choice import ModelChoice
from web.responses import Answer, ErrorDetail, FailedAnswer

MOST_PARTS: Final = 64
"""Parts of one picture that are asked about, by all steps together."""

_AWAY_S: Final = 1.0
"""For so long Redis is believed to be away, once it was."""

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Question:
    """A step, asked about the whole picture or about a box of it."""

    step: Step
    choice: ModelChoice | ServiceError
    box: Box | None = None
    """None: the whole picture."""
    outcome: SubmittedJob | Result | ServiceError | None = None
    later: dict[int, dict[str, "_Question"]] = field(default_factory=dict)
    """What later steps were asked about this one's predictions, by their places."""

    @property
    def result(self) -> Result | None:
        """The result, if there is a good one."""
        return self.outcome if isinstance(self.outcome, Result) and self.outcome.error is None else None


def run(
    jobs: JobClient,
    choice: ModelChoice,
    pictures: Sequence[bytes | ClientError],
    options: JobOptions,
    *,
    is_client_gone: Callable[[], bool],
) -> list[Result | ServiceError]:
    """Take pictures through the steps of a pipeline, side by side; return what became of each, in order.

    All of it has the one deadline of the request. A step that fails has its failure in the answer; only where
    no step answers is the picture's own outcome an error. Raises ClientGone, and cancels.
    """
    steps = choice.view.card.steps
    runs = [_Run(jobs, steps, each, options) for each in pictures if not isinstance(each, ClientError)]
    try:
        for level in _levels(steps):
            for each in runs:
                each.ask(level, is_client_gone)
            for each in runs:
                each.wait(is_client_gone)
    except BaseException:
        for each in runs:
            each.cancel()
        raise
    results = iter(each.result(choice) for each in runs)
    return [each if isinstance(each, ClientError) else next(results) for each in pictures]


def drawable(result: Result) -> Result | TaskResult:
    """What is drawn of a result: of a pipeline every box, with what later steps call it, or else labels."""
    if result.steps is None:
        return result
    found = [each for answer in result.steps.values() for each in _predictions(answer)]
    boxed = [_captioned(each) for each in found if each.box is not None]
    skeletons = [answer["skeleton"] for answer in result.steps.values() if "skeleton" in answer]
    skeleton = msgspec.convert(skeletons[0], Skeleton) if skeletons else None
    return TaskResult(predictions=tuple(boxed or found), skeleton=skeleton)


def _predictions(answer: dict[str, Any]) -> Iterator[Prediction]:
    """The predictions of a step's answer, and those with boxes of the later steps."""
    for each in msgspec.convert(answer.get("predictions", ()), tuple[Prediction, ...]):
        yield each
        for later in (each.steps or {}).values():
            yield from (inner for inner in _predictions(later) if inner.box is not None)


def _captioned(prediction: Prediction) -> Prediction:
    """With the best label of each later step that gives no boxes, and the last one's probability."""
    labels, probability = [prediction.label], prediction.probability
    for answer in (prediction.steps or {}).values():
        best = next(iter(answer.get("predictions", ())), None)
        if best is not None and "box" not in best:
            labels.append(best["label"])
            probability = best["probability"]
    return msgspec.structs.replace(prediction, label=": ".join(labels), probability=probability)


def _levels(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, those together that wait for equally many before them."""
    levels: dict[str, int] = {}
    for step in steps:
        levels[step.name] = levels[step.crop] + 1 if step.crop else 0
    return [
        [step for step in steps if levels[step.name] == level] for level in range(max(levels.values()) + 1)
    ]


class _Run:
    """One picture on its way through the steps."""

    def __init__(self, jobs: JobClient, steps: Sequence[Step], picture: bytes, options: JobOptions) -> None:
        self._jobs = jobs
        self._picture = picture
        self._span = options.span.child("pipeline")
        self._options = replace(options, span=self._span)
        self._questions: dict[str, list[_Question]] = {step.name: [] for step in steps}
        self._whole: dict[str, _Question] = {}
        """The questions about the whole picture, and failures that belong to no box."""
        self._prepared: dict[InputSpec, PreparedPicture] = {}
        """The whole picture as some step's model takes it: others may take the same."""
        self._parts = 0
        self._size = (0, 0)
        """(width, height) of the picture; known once a job is submitted."""
        self._timings = Timings()
        self._deadline = options.wait_until
        self._away: tuple[float, BrokerUnavailable] | None = None
        """When Redis was away, and what it said."""

    def ask(self, level: Sequence[Step], is_client_gone: Callable[[], bool]) -> None:
        """Submit the jobs of these steps, whose earlier steps have ended. Raises ClientGone."""
        parts: list[_Question] = []
        for step in level:
            choice = self._choice(step)
            if step.crop:
                parts += self._of_boxes(step, choice)
                continue
            _require_client(is_client_gone)
            question = _Question(step, choice)
            self._whole[step.name] = question
            self._questions[step.name].append(question)
            question.outcome = self._submitted(question, None)
        self._ask_of_parts(parts, is_client_gone)

    def wait(self, is_client_gone: Callable[[], bool]) -> None:
        """Wait for what was asked. Raises ClientGone."""
        slowest = Timings()
        for question in self._all():
            if not isinstance(question.outcome, SubmittedJob):
                continue
            try:
                result = self._jobs.wait(question.outcome, is_client_gone=is_client_gone)
                slowest = max(slowest, result.timings_ms, key=_total)
                question.outcome = result if question.box is None else self._on_photo(result, question.box)
            except ClientGone:
                raise
            except ServiceError as error:
                question.outcome = error.as_outcome()
        before = self._timings
        self._timings = Timings(
            round(before.waiting + slowest.waiting, 3),
            round(before.batch + slowest.batch, 3),
            round(before.model + slowest.model, 3),
        )

    def cancel(self) -> None:
        """Give up what still waits."""
        for question in self._all():
            if isinstance(question.outcome, SubmittedJob):
                self._jobs.cancel(question.outcome)
        self._span.event("cancelled")
        self._span.end()

    def result(self, choice: ModelChoice) -> Result | ServiceError:
        """The nested answer; the first step's error where no step has answered."""
        whole = list(self._whole.values())
        if all(question.result is None for question in whole):
            error = _error(whole[0])
            self._span.end(error)
            return error
        self._span.end()
        card = choice.view.card
        return Result(
            id=str(uuid.uuid4()),
            model=card.model,
            model_version=card.model_version,
            steps={name: _answer(question, self._deadline) for name, question in self._whole.items()},
            notice=choice.notice,
            timings_ms=self._timings,
            engine=card.engine,
            precision=card.precision,
        )

    def _all(self) -> Iterator[_Question]:
        for questions in self._questions.values():
            yield from questions

    def _choice(self, step: Step) -> ModelChoice | ServiceError:
        """The step's model, or why it can't be asked."""
        try:
            view = self._jobs.models.named(step.model, is_polled=self._options.polled, is_step=True)
        except UnknownModel:
            return NoWorker(f"No model server has announced {step.model}, which the step {step.name} asks.")
        except ServiceError as error:
            return error.as_outcome()
        if view.card.steps:
            return ModelUnavailable(f"{step.model} is a pipeline itself; the step {step.name} needs a model.")
        return ModelChoice(view, view)

    def _submitted(self, question: _Question, cutter: PartCutter | None) -> SubmittedJob | ServiceError:
        """The job of a question about a part of the picture, or about the whole; or why there is none."""
        if isinstance(question.choice, ServiceError):
            return question.choice
        if time.monotonic() >= self._deadline:
            return DeadlinePassed(f"The steps before {question.step.name} took all the time there was.")
        if self._away is not None and time.monotonic() < self._away[0] + _AWAY_S:
            return self._away[1]  # each would find that out again, 0.9 s later
        try:
            return self._submit(question, question.choice, cutter)
        except BrokerUnavailable as error:
            self._away = time.monotonic(), error
            return error.as_outcome()
        except ServiceError as error:
            return error.as_outcome()
        except Exception:  # noqa: BLE001 - whatever one part raises costs no other
            _LOG.exception("the step %s failed on a part of a picture; this is a bug", question.step.name)
            return ServiceError("The service failed on this part of the picture; its log says why.")

    def _submit(self, question: _Question, choice: ModelChoice, cutter: PartCutter | None) -> SubmittedJob:
        card = choice.view.card
        top = min(question.step.top or card.top, card.top_max)
        options = replace(self._options, picture=f"step {question.step.name}")
        part = None if question.box is None else Part(question.box, card.input)
        prepared = self._prepared.get(card.input) if part is None else None
        if part is not None or prepared is not None:
            self._jobs.admit(choice, self._options)
        if part is not None and cutter is not None:
            with self._span.child("cut"):
                prepared = cutter.cut(part)
        if prepared is not None:
            return self._jobs.submit_part(choice, prepared, options, top=top)
        submitted = self._jobs.submit(choice, self._picture, options, top=top)
        self._size = submitted.job.original_size
        self._prepared[card.input] = PreparedPicture(submitted.job.image, self._size)
        return submitted

    def _of_boxes(self, step: Step, choice: ModelChoice | ServiceError) -> list[_Question]:
        """The step's questions, about the most probable of the boxes that it wants."""
        boxes: list[tuple[Prediction, int, _Question]] = []
        for earlier in self._questions[step.crop]:
            result = earlier.result
            if result is None:
                continue
            if not result.is_empty and all(each.box is None for each in result.predictions):
                problem = f"{earlier.step.model}, which the step {step.crop} asks, gives no boxes."
                self._whole[step.name] = _Question(step, choice, outcome=ModelUnavailable(problem))
                continue
            boxes += [
                (prediction, place, earlier)
                for place, prediction in enumerate(result.predictions)
                if prediction.box is not None
                and prediction.probability >= step.least
                and (not step.labels or prediction.label in step.labels)
            ]
        boxes.sort(key=lambda box: -box[0].probability)
        questions = []
        for prediction, place, earlier in boxes[: min(step.most, MOST_PARTS - self._parts)]:
            box = _widened(prediction.box or (0, 0, 0, 0), step.margin, self._size)
            question = _Question(step, choice, box=box)
            earlier.later.setdefault(place, {})[step.name] = question
            self._questions[step.name].append(question)
            questions.append(question)
        self._parts += len(questions)
        return questions

    def _ask_of_parts(self, questions: Sequence[_Question], is_client_gone: Callable[[], bool]) -> None:
        """Cut the parts out and submit each; one that is refused is not cut."""
        parts = [
            Part(question.box, question.choice.view.card.input)
            for question in questions
            if question.box is not None and isinstance(question.choice, ModelChoice)
        ]
        try:
            with contextlib.ExitStack() as stack:
                cutter = None
                if parts and time.monotonic() < self._deadline:
                    cutter = stack.enter_context(
                        self._jobs.cutting(self._picture, parts, self._options, original_size=self._size)
                    )
                for question in questions:
                    _require_client(is_client_gone)
                    question.outcome = self._submitted(question, cutter)
        except Overloaded as error:  # no place to decode
            for question in questions:
                question.outcome = question.outcome or error

    def _on_photo(self, result: Result, part: Box) -> Result:
        """The result of a part of the picture, with its places on the picture. Raises ServiceError."""
        if time.monotonic() >= self._deadline and any(each.mask for each in result.predictions):
            raise DeadlinePassed("There was no time left to place its masks on the picture.")
        try:
            predictions = tuple(_placed(each, part, self._size) for each in result.predictions)
        except ValueError as error:
            _LOG.error("%s: the masks of job %s can't be read: %s", result.model, result.id, error)
            raise InferenceFailed("The model's masks can't be read; the service's log says why.") from None
        return replace(result, predictions=predictions)


def _require_client(is_client_gone: Callable[[], bool]) -> None:
    if is_client_gone():
        raise ClientGone("The client closed the connection.")


def _answer(question: _Question, deadline: float) -> dict[str, Any]:
    """A question's answer as JSON, with those of the later steps in its predictions.

    Past the deadline the masks of parts are no longer made PNGs, 22 ms each.
    """
    result = question.result
    if result is None:
        return _built(_failed(question.outcome))
    if question.box is not None and time.monotonic() >= deadline and _has_pngs(result):
        return _built(_failed(DeadlinePassed("There was no time left to make PNGs of its masks.")))
    predictions = tuple(
        msgspec.structs.replace(
            prediction, steps={name: _answer(each, deadline) for name, each in question.later[place].items()}
        )
        if place in question.later
        else prediction
        for place, prediction in enumerate(result.predictions)
    )
    return _built(answers.of(replace(result, predictions=predictions)))


def _has_pngs(result: Result) -> bool:
    return any(each.mask is not None and each.mask.form == "png" for each in result.predictions)


def _failed(outcome: SubmittedJob | Result | ServiceError | None) -> Answer | FailedAnswer:
    if isinstance(outcome, Result):
        return answers.of(outcome)
    if isinstance(outcome, ServiceError):
        return FailedAnswer(success=False, error=ErrorDetail(outcome.code, outcome.message))
    raise TypeError(f"{outcome!r} was not waited for. This is a bug")


def _built(answer: Answer | FailedAnswer) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(answer)
    return built


def _error(question: _Question) -> ServiceError:
    """Why a step did not answer, to be the outcome of the whole picture."""
    outcome = question.outcome
    if isinstance(outcome, Result) and outcome.error is not None:
        outcome = answers.error_of(outcome.error)
    if not isinstance(outcome, ServiceError):
        raise TypeError(f"{outcome!r} is no failure. This is a bug")
    return outcome


def _total(timings: Timings) -> float:
    return timings.waiting + timings.batch + timings.model


def _widened(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """The box with its margin, inside of a picture of that (width, height), and of one pixel at least."""
    x, y, width, height = box
    left, top = (max(0, math.floor(at - margin * side)) for at, side in ((x, width), (y, height)))
    right, bottom = (
        min(whole, math.ceil(at + (1 + margin) * side))
        for at, side, whole in ((x, width, size[0]), (y, height, size[1]))
    )
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(1, right - left), max(1, bottom - top)


def _placed(prediction: Prediction, part: Box, size: tuple[int, int]) -> Prediction:
    """What was found on a part of a picture, with its places on the picture, of that (width, height)."""
    left, top = part[:2]
    box, mask, keypoints = prediction.box, prediction.mask, prediction.keypoints
    if box is not None:
        box = (box[0] + left, box[1] + top, box[2], box[3])
    if mask is not None:
        mask = rle.placed(mask, part, size)
    if keypoints is not None:
        keypoints = tuple(
            Keypoint(point.name, point.x + left, point.y + top, point.probability) for point in keypoints
        )
    return msgspec.structs.replace(prediction, box=box, mask=mask, keypoints=keypoints)
