"""Pipelines: several models asked about one picture, the later ones about what the earlier ones have found.

Owns the order of the steps, what of a picture each is asked about, and the nested answer. Each question is a
job of its own in its model's queue, which jobs.py submits and waits for. Knows no HTTP.
"""

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
    ModelUnavailable,
    NoWorker,
    ServiceError,
    UnknownModel,
)
from broker.messages import Box, Keypoint, Prediction, Result, Skeleton, Step, TaskResult, Timings
from pictures import rle
from pictures.fit import Part, PreparedPicture
from web import answers
from web.jobs import ClientGone, JobClient, JobOptions, SubmittedJob
from web.model_choice import ModelChoice
from web.responses import Answer, ErrorDetail, FailedAnswer

_ENGINE: Final = "steps"
_PRECISION: Final = "own"
"""Stand in a pipeline's answer where other models have theirs."""


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
                each.ask(level)
            for each in runs:
                each.hear(is_client_gone)
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
        self._options = options
        self._asked: dict[str, list[_Question]] = {step.name: [] for step in steps}
        self._answers: dict[str, _Question] = {}
        """The questions about the whole picture, and failures that belong to no box."""
        self._size = (0, 0)
        """(width, height) of the picture; known once a job is submitted."""
        self._timings = Timings()

    def ask(self, level: Sequence[Step]) -> None:
        """Submit the jobs of these steps, whose earlier steps have ended."""
        parts: list[_Question] = []
        for step in level:
            choice = self._choice(step)
            if step.crop:
                parts += self._of_boxes(step, choice)
            else:
                question = _Question(step, choice)
                self._answers[step.name] = question
                self._asked[step.name].append(question)
                question.outcome = self._submitted(question, None)
        for question, part in zip(parts, self._cut(parts), strict=True):
            question.outcome = part if isinstance(part, ServiceError) else self._submitted(question, part)

    def hear(self, is_client_gone: Callable[[], bool]) -> None:
        """Wait for what was asked. Raises ClientGone."""
        slowest = Timings()
        for question in self._questions():
            if not isinstance(question.outcome, SubmittedJob):
                continue
            try:
                result = self._jobs.wait(question.outcome, is_client_gone=is_client_gone)
            except ClientGone:
                raise
            except ServiceError as error:
                question.outcome = error
                continue
            question.outcome = result if question.box is None else _on_photo(result, question.box, self._size)
            slowest = max(slowest, result.timings_ms, key=_total)
        before = self._timings
        self._timings = Timings(
            round(before.waiting + slowest.waiting, 3),
            round(before.batch + slowest.batch, 3),
            round(before.model + slowest.model, 3),
        )

    def cancel(self) -> None:
        """Give up what still waits."""
        for question in self._questions():
            if isinstance(question.outcome, SubmittedJob):
                self._jobs.cancel(question.outcome)

    def result(self, choice: ModelChoice) -> Result | ServiceError:
        """The nested answer; the first step's error where no step has answered."""
        whole = list(self._answers.values())
        if all(question.result is None for question in whole):
            return _error(whole[0])
        card = choice.view.card
        return Result(
            id=str(uuid.uuid4()),
            model=card.model,
            model_version=card.model_version,
            steps={name: _answer(question) for name, question in self._answers.items()},
            notice=choice.notice,
            timings_ms=self._timings,
            engine=_ENGINE,
            precision=_PRECISION,
        )

    def _questions(self) -> Iterator[_Question]:
        for questions in self._asked.values():
            yield from questions

    def _choice(self, step: Step) -> ModelChoice | ServiceError:
        """The step's model, or why it can't be asked."""
        try:
            view = self._jobs.models.named(step.model)
        except UnknownModel:
            return NoWorker(f"No model server has announced {step.model}, which the step {step.name} asks.")
        except ServiceError as error:
            return error
        if view.card.steps:
            return ModelUnavailable(f"{step.model} is a pipeline itself; the step {step.name} needs a model.")
        return ModelChoice(view, view)

    def _submitted(self, question: _Question, part: PreparedPicture | None) -> SubmittedJob | ServiceError:
        """The job of a question about that part of the picture, or about the whole; or why there is none."""
        if isinstance(question.choice, ServiceError):
            return question.choice
        for asked in self._questions():
            if isinstance(asked.outcome, BrokerUnavailable):
                return asked.outcome  # each would find that out again, 0.9 s later
        if time.monotonic() >= self._jobs.wait_until(self._options):
            return DeadlinePassed(f"The steps before {question.step.name} took all the time there was.")
        card = question.choice.view.card
        top = min(question.step.top or card.top, card.top_max)
        try:
            if part is not None:
                return self._jobs.submit_part(question.choice, part, self._options, top=top)
            job = self._jobs.submit(question.choice, self._picture, self._options, top=top)
        except ServiceError as error:
            return error
        self._size = job.job.original_size
        return job

    def _of_boxes(self, step: Step, choice: ModelChoice | ServiceError) -> list[_Question]:
        """The step's questions, about the most probable of the boxes that it wants."""
        wanted: list[tuple[Prediction, int, _Question]] = []
        for earlier in self._asked[step.crop]:
            result = earlier.result
            found = result.predictions if result is not None else ()
            if found and all(each.box is None for each in found):
                problem = f"{earlier.step.model}, which the step {step.crop} asks, gives no boxes."
                question = _Question(step, choice, outcome=ModelUnavailable(problem))
                self._answers[step.name] = question
                continue
            wanted += [
                (each, place, earlier)
                for place, each in enumerate(found)
                if each.box is not None
                and each.probability >= step.least
                and (not step.labels or each.label in step.labels)
            ]
        wanted.sort(key=lambda each: -each[0].probability)
        questions = []
        for prediction, place, earlier in wanted[: step.most]:
            box = _widened(prediction.box or (0, 0, 0, 0), step.margin, self._size)
            question = _Question(step, choice, box=box)
            earlier.later.setdefault(place, {})[step.name] = question
            self._asked[step.name].append(question)
            questions.append(question)
        return questions

    def _cut(self, questions: Sequence[_Question]) -> list[PreparedPicture | ServiceError]:
        """The parts of the picture that are asked about, or why there is none."""
        parts = {
            place: Part(question.box, question.choice.view.card.input)
            for place, question in enumerate(questions)
            if question.box is not None and isinstance(question.choice, ModelChoice)
        }
        cut: Sequence[PreparedPicture | ServiceError] = ()
        if parts:
            try:
                cut = self._jobs.cut(
                    self._picture, list(parts.values()), self._options, original_size=self._size
                )
            except ServiceError as error:
                cut = [error] * len(parts)
        prepared = dict(zip(parts, cut, strict=True))
        return [
            question.choice if isinstance(question.choice, ServiceError) else prepared[place]
            for place, question in enumerate(questions)
        ]


def _answer(question: _Question) -> dict[str, Any]:
    """A question's answer as JSON, with those of the later steps in its predictions."""
    result = question.result
    if result is None:
        return _built(_failed(question.outcome))
    predictions = tuple(
        msgspec.structs.replace(
            prediction, steps={name: _answer(each) for name, each in question.later[place].items()}
        )
        if place in question.later
        else prediction
        for place, prediction in enumerate(result.predictions)
    )
    return _built(answers.of(replace(result, predictions=predictions)))


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


def _on_photo(result: Result, part: Box, size: tuple[int, int]) -> Result:
    """The result of a part of a picture, with its places on the picture, of that (width, height)."""
    left, top = part[:2]

    def placed(each: Prediction) -> Prediction:
        box, mask, keypoints = each.box, each.mask, each.keypoints
        if box is not None:
            box = (box[0] + left, box[1] + top, box[2], box[3])
        if mask is not None:
            mask = rle.placed(mask, part, size)
        if keypoints is not None:
            keypoints = tuple(
                Keypoint(point.name, point.x + left, point.y + top, point.probability) for point in keypoints
            )
        return msgspec.structs.replace(each, box=box, mask=mask, keypoints=keypoints)

    return replace(result, predictions=tuple(map(placed, result.predictions)))
