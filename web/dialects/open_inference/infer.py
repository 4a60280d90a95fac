"""From a request of the protocol to pictures, and from their results to the outputs that it has.

Owns which input and which outputs a model has here, by its task, for HTTP and gRPC alike. Decodes no picture,
asks no model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError, InferenceFailed, NoWorker, ServiceError
from broker.messages import Card, InputSpec, Label, Result
from broker.registry import ModelView
from web import answers
from web.dialects import json_pixels, model_versions, named_outputs
from web.dialects.open_inference import tensors
from web.dialects.open_inference.tensors import (
    BYTES,
    UINT8,
    InferRequest,
    InputTensor,
    Tensor,
    WantedOutput,
)
from web.uploads import json_bodies
from web.uploads.parameters import MAX_PICTURES, PRIORITY
from web.uploads.reader import Picture, Upload

INPUT: Final = "image"

PROBABILITIES: Final = "probabilities"

_VALUES: Final = "values"

_OF_LABELS: Final = (PROBABILITIES, _VALUES)

ANSWER: Final = "answer"
"""Of tasks that have no tensors: what POST /predict answers, as JSON."""

OWN_FIELDS: Final = "result"
"""What a model's own code adds to its task's outputs, as JSON. No card tells of it: none can name it."""

_NO_CLASS: Final = -1
"""The class of the boxes that fill up an answer with fewer than another picture's has."""

_MICROSECONDS: Final = 1_000_000

_PICTURE_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II", b"MM")


def upload_of(request: InferRequest | None, rest: bytes, card: Card) -> Upload:
    """What a request, or a raw one, asks of the model. Raises ClientError."""
    tops = ["1"] if outputs_of(card).has_scores else []
    parameters = {"model": card.model}
    if request is not None and isinstance(request.parameters.priority, str):
        parameters[PRIORITY] = request.parameters.priority
    return Upload(pictures_of(request, rest, card.input), parameters, tops)


def timeout_s(request: InferRequest | None) -> float:
    """How long the client waits by what it says."""
    timeout_us = request.parameters.timeout if request else 0
    return timeout_us / _MICROSECONDS if timeout_us else math.inf


def wanted_outputs(request: InferRequest | None, card: Card) -> list[WantedOutput]:
    """The outputs that the answer shall have. Raises ClientError."""
    known = outputs_of(card).told(card)
    if request is None or not request.outputs:
        return [WantedOutput(name) for name in known]
    for output in request.outputs:
        if output.name not in known:
            raise ClientError(f"The model has no output {output.name[:40]!r}; it has {', '.join(known)}.")
        if output.parameters.classification and known[output.name][0] == BYTES:
            raise ClientError(f"{output.name!r} has no classes: leave parameters.classification out.")
    if len({output.name for output in request.outputs}) < len(request.outputs):
        raise ClientError("The request names an output twice.")
    return request.outputs


def pictures_of(request: InferRequest | None, rest: bytes, spec: InputSpec) -> list[Picture]:
    """The pictures of a request, or of a raw one. Raises ClientError."""
    if request is None:
        return [_raw(rest, spec)]
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        named = ", ".join(repr(tensor.name[:40]) for tensor in request.inputs[:5]) or "none"
        raise ClientError(f"The model has one input, {INPUT!r}; the request has {named}.")
    (tensor,) = request.inputs
    if not tensor.shape or not 1 <= tensor.shape[0] <= MAX_PICTURES:
        raise ClientError(
            f"The shape of {INPUT!r} is {tensor.shape}: a request has 1 to {MAX_PICTURES} pictures."
        )
    found: list[Picture]
    if tensor.datatype == BYTES:
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
            raise ClientError(f"The shape of {INPUT!r} is {tensor.shape}: BYTES has [n] or [n, 1].")
        found = [
            each if isinstance(each, bytes) else json_bodies.picture(each)
            for each in tensors.elements(tensor, tensors.binary_of(tensor, rest))
        ]
    elif tensor.datatype == UINT8:
        found = [*_pixels(tensor, rest, spec)]
    else:
        raise ClientError(
            f"{INPUT!r} is UINT8 (pixels) or BYTES (encoded pictures), and not {tensor.datatype[:20]!r}."
        )
    return found


def input_of(card: Card) -> tuple[str, list[int]]:
    """The data type and one picture's shape of the input that the metadata tell: pixels, where they fit."""
    return (UINT8, [*card.input.network_shape]) if card.input.has_size else (BYTES, [1])


def _pixels(tensor: InputTensor, rest: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    json_pixels.require_size(spec)
    wanted = [*spec.network_shape]
    if len(tensor.shape) != 4 or tensor.shape[1:] != wanted:
        height, width, channels = wanted
        raise ClientError(
            f"The shape of {INPUT!r} is {tensor.shape}; UINT8 has [n, {height}, {width}, {channels}] here. "
            "Send encoded pictures as BYTES [n], and the service fits them."
        )
    return tensors.pixels(tensor, tensors.binary_of(tensor, rest))


def _raw(body: bytes, spec: InputSpec) -> Picture:
    """A body that is one input: an encoded picture, or as many bytes as the model's pixels are."""
    shape = spec.network_shape
    if spec.has_size and len(body) == np.prod(shape) and not body.startswith(_PICTURE_STARTS):
        return np.frombuffer(body, np.uint8).reshape(shape)
    return body


def detected(results: Sequence[Result], labels: Sequence[Label]) -> list[Tensor]:
    """A detector's outputs: x1, y1, x2, y2 on the photo, probabilities, places among the labels.

    Raises NoWorker where a model server has not told the labels.
    """
    if not labels and any(result.predictions for result in results):
        raise NoWorker("The model's labels are not known yet: send it again.")
    places = {(label.class_id, label.label): place for place, label in reversed([*enumerate(labels)])}
    most = max(len(result.predictions) for result in results)
    boxes = np.zeros((len(results), most, 4), np.float32)
    scores = np.zeros((len(results), most), np.float32)
    classes = np.full((len(results), most), _NO_CLASS, np.int64)
    for row, result in enumerate(results):
        for at, found in enumerate(result.predictions):
            boxes[row, at] = named_outputs.corners(found.box) or 0
            scores[row, at] = found.probability
            classes[row, at] = places.get((found.class_id, found.label), _NO_CLASS)
    return [Tensor("boxes", boxes), Tensor("scores", scores), Tensor("classes", classes)]


def _scores(results: Sequence[Result], _: Sequence[Label]) -> list[Tensor]:
    return [Tensor(PROBABILITIES, _stacked(results, lambda result: result.scores))]


def _embeddings(results: Sequence[Result], _: Sequence[Label]) -> list[Tensor]:
    return [Tensor("embedding", _stacked(results, lambda result: result.embedding))]


def _numbers(results: Sequence[Result], _: Sequence[Label]) -> list[Tensor]:
    return [Tensor(_VALUES, _stacked(results, lambda result: (*(result.values or {}).values(),)))]


def _answers(results: Sequence[Result], _: Sequence[Label]) -> list[Tensor]:
    texts = [msgspec.json.encode(answers.of(result)) for result in results]
    return [Tensor(ANSWER, _objects([[text] for text in texts]))]


@dataclass(frozen=True, slots=True)
class TaskOutputs:
    """The outputs of the models of a task."""

    told: Callable[[Card], dict[str, tuple[str, list[int]]]]
    """Name -> data type and shape of one picture's, -1 where it varies."""
    read: Callable[[Sequence[Result], Sequence[Label]], list[Tensor]]
    """The outputs of all pictures. Raises InferenceFailed where they are of different models."""
    has_scores: bool = False
    """All labels count, and no predictions."""


_SCORES: Final = TaskOutputs(lambda card: {PROBABILITIES: ("FP32", [card.classes])}, _scores, has_scores=True)

_OF_TASK: Final = {
    "classification": _SCORES,
    "multi_label": _SCORES,
    "detection": TaskOutputs(
        lambda _: {"boxes": ("FP32", [-1, 4]), "scores": ("FP32", [-1]), "classes": ("INT64", [-1])}, detected
    ),
    "embedding": TaskOutputs(lambda _: {"embedding": ("FP32", [-1])}, _embeddings),
    "regression": TaskOutputs(lambda card: {_VALUES: ("FP32", [card.classes])}, _numbers),
}

_OTHERS: Final = TaskOutputs(lambda _: {ANSWER: (BYTES, [1])}, _answers)


def outputs_of(card: Card) -> TaskOutputs:
    """The outputs that a model has here."""
    return _OF_TASK.get(card.task, _OTHERS)


def best_classes(tensor: Tensor, count: int, labels: Sequence[Label]) -> Tensor:
    """Triton's classification extension: of each picture the `count` largest, as `value:index:label`.

    Without labels where an index is no place among them: a detector's scores are those of its boxes.
    """
    names = labels if tensor.name in _OF_LABELS else ()
    rows = []
    for row in tensor.values.reshape(len(tensor.values), -1):
        best = np.argsort(-row, kind="stable")[:count]
        rows.append([f"{row[at]:f}:{at}{_suffix(names, at)}".encode() for at in best])
    return Tensor(tensor.name, _objects(rows))


def _objects(rows: list[list[bytes]]) -> NDArray[Any]:
    objects: NDArray[Any] = np.array(rows, object)
    return objects


def _suffix(labels: Sequence[Label], at: int) -> str:
    return f":{labels[at].label}" if at < len(labels) else ""


def _stacked(
    results: Sequence[Result], read: Callable[[Result], Sequence[float] | None]
) -> NDArray[np.float32]:
    """One row a picture, empty where the model's own code answers in its place.

    Raises InferenceFailed where they are of different models.
    """
    rows = [() if (row := read(each)) is None and each.result is not None else row for each in results]
    if any(row is None for row in rows) or len({len(row) for row in rows if row is not None}) != 1:
        raise InferenceFailed("The model was replaced between these pictures: send them again.")
    return np.array(rows, np.float32)


def good(results: Sequence[Result | ServiceError]) -> list[Result]:
    """The results. Raises the first error among them, which says whose it is: there is no answer in part."""
    found = []
    for number, result in enumerate(results, 1):
        if isinstance(result, ServiceError):
            raise result.about(f"Picture {number} of {len(results)}") if len(results) > 1 else result
        found.append(result)
    return found


def require_one_version(results: Sequence[Result], view: ModelView, *, version: str) -> None:
    """Raise NoWorker where two versions answered, or another than the client named.

    A version may replace another meanwhile, and labels are those of one.
    """
    if version:
        model_versions.require_same(results, view)
    if len({result.model_version for result in results}) > 1:
        raise NoWorker(
            f"Two versions of {view.card.model} answered, while one replaces the other: send it again."
        )


def answered(
    card: Card,
    results: Sequence[Result],
    labels: Sequence[Label],
    wanted: Sequence[WantedOutput],
    *,
    is_named: bool,
) -> list[Tensor]:
    """The outputs that are wanted, in their order. Raises as their task's `read` does.

    Where the request named none, OWN_FIELDS comes last, if there are such.
    """
    known = {tensor.name: tensor for tensor in outputs_of(card).read(results, labels)}
    outputs = [
        best_classes(known[output.name], count, labels)
        if (count := output.parameters.classification)
        else known[output.name]
        for output in wanted
    ]
    if is_named or ANSWER in known or all(result.result is None for result in results):
        return outputs
    return [*outputs, Tensor(OWN_FIELDS, _objects([[msgspec.json.encode(each.result)] for each in results]))]
