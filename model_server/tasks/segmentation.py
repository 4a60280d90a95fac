"""Segmentation: which pixels of a photo show what, by class or by instance.

Owns the ways from a network's maps to masks with their classes, and what else its task is. masks.py samples
the maps, detection.py chooses the instances' boxes. Knows no runtime and no Redis. Runs in the serving
thread; docs/tasks.md has the times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Box, Fit, Mask, Prediction, TaskResult
from model_server.catalogue.detection_layout import MOST_DETECTIONS, Detection, Output, Share
from model_server.engines.check import plain_numbers
from model_server.tasks import box_rows, detection, masks
from model_server.tasks.numbers import finite, require_finite
from model_server.tasks.task import ReadOptions, Task, table_of
from pictures import rle

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import ModelToml
    from model_server.engines.check.agreement import Verdict
    from model_server.engines.engine import Outputs

_USUAL_TOP: Final = 100

LONGEST: Final = 4096
"""Cells of a map's side, at most, as for inputs."""

_SMALLEST: Final = 4
"""A map with smaller sides is hardly one: `hint` does not suggest it."""

DIFFERING: Final = {"fp32": 0.001, "bf16": 0.05, "fp16": 0.05, "int8": 0.2}
"""The largest share of cells with another class, by precision, of a network that gives class numbers."""

_SUM: Final = 0.01
"""How far the numbers of a cell may be from a sum of 1 to be probabilities: 16 bits round them."""


class Segmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[segmentation]: what the outputs are, and which masks an answer has."""

    layout: Literal["semantic", "ultralytics"] = "semantic"
    """`semantic`: an output with a map for each class, or with the classes' numbers. `ultralytics`: boxes
    with the coefficients of their masks, and the prototypes of these."""
    values: Literal["logits", "probabilities", "classes"] | None = None
    """What the numbers of `semantic` are. None: classes in a single map; else probabilities where those of a
    pixel sum to 1, and logits where not."""
    background: Annotated[int, msgspec.Meta(ge=0)] | str | None = None
    """The class, by number or label, that is not reported."""
    least_area: Share = 0.001
    """The least share of the photo with which a class is reported."""
    confidence: Share = 0.4
    """The least probability of an instance that is reported."""
    nms_iou: Share = 0.45
    """Of two instances of one class whose boxes overlap more, only the better is reported."""
    boxes: Output = 0
    prototypes: Output = 1
    masks: Literal["rle", "png"] = "rle"
    """How masks are written in the answer."""


class SegmentationTask(Task):
    """Which pixels show what: a mask for each class or each instance."""

    name = "segmentation"
    noun = "a segmentation model"
    gives_probabilities = False
    has_places = True
    most = MOST_DETECTIONS
    table = Segmentation

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """Masks: of classes the largest first, of instances the most probable."""
        if table_of(spec.options, Segmentation).layout == "ultralytics":
            return TaskResult(_instances(outputs, spec, options))
        return TaskResult(_areas(finite(outputs[0]), spec, options))

    def compare(self, spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /) -> Verdict:
        """Differences of the scores, or the share of other classes; of instances also of the boxes."""
        table = table_of(spec.options, Segmentation)
        if table.layout == "ultralytics":
            return box_rows.compare(spec, reference, outputs, precision, "mask coefficients and prototypes")
        if not _gives_classes(table, reference[0].shape[1:]) or reference[0].shape != outputs[0].shape:
            return plain_numbers.compare(reference, outputs, precision)
        differ = (np.rint(reference[0]) != np.rint(outputs[0])).reshape(len(outputs[0]), -1)
        share = float(differ.mean(axis=1).max())
        words = "{} of the classes differ"
        return plain_numbers.NumbersVerdict(len(differ), share, DIFFERING[precision], words)

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """Keys that places rule out, and those that are for the other layout."""
        table = toml.own_table or Segmentation()
        if toml.input.fit is Fit.INK:
            yield (
                "input.fit",
                '"ink" can\'t be used for segmentation: masks could not be placed on the photo.',
            )
        if getattr(table, "layout", "") == "ultralytics" and toml.output.name is not None:
            yield "output.name", "Outputs of this layout are named in [segmentation]: boxes, prototypes."
        yield from super().misfits(toml)

    def label_problems(self, spec: ModelSpec, /) -> Iterator[tuple[str, str]]:
        """A background that is not among the labels."""
        background = table_of(spec.options, Segmentation).background
        if isinstance(background, int) and background >= len(spec.labels):
            problem = f"There is no class {background}: the {len(spec.labels)} classes count from 0."
            yield "segmentation.background", problem
        if isinstance(background, str) and background not in {label.label for label in spec.labels}:
            yield "segmentation.background", f"There is no label {background!r} in the labels file."

    def usual_top(self, _labels: int, /) -> int:
        """All that a picture usually has."""
        return _USUAL_TOP

    def outputs(self, spec: ModelSpec) -> tuple[Output, ...]:
        """Those that [segmentation] names; the map that [output] names."""
        table = table_of(spec.options, Segmentation)
        return (table.boxes, table.prototypes) if table.layout == "ultralytics" else super().outputs(spec)

    def misfit(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
        """Why these are not maps of the labels' classes."""
        table, labels = table_of(spec.options, Segmentation), len(spec.labels)
        actual = ", ".join(map(str, shapes))
        if table.layout == "ultralytics":
            if len(shapes) == 2 and len(shapes[0]) == 2 and len(shapes[1]) == 3:
                numbers = shapes[0][0] - 4 - labels
                if numbers == shapes[1][0] > 0:
                    return ""
            wanted = f"(4 + {labels} + numbers, n) and (numbers, height, width)"
        else:
            if _kind(table, shapes[0], labels):
                return ""
            wanted = (
                f"({labels}, height, width), (height, width, {labels}) or (height, width) of class numbers"
            )
        return f"the network's output for a picture is {actual}, but {labels} labels need {wanted}"

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """Maps of several classes; or rows of boxes with the prototypes of masks."""
        if any(len(shape) == 2 for shape in shapes) and any(_is_map(shape[1:]) for shape in shapes):
            return (
                'A network that gives boxes with masks needs task = "segmentation", layout = "ultralytics".'
            )
        if any(len(shape) == 3 and (_is_map(shape[1:]) or _is_map(shape[:2])) for shape in shapes):
            return 'If the output has a map for each class, write task = "segmentation".'
        return ""


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and all(_SMALLEST <= side <= LONGEST for side in shape)


def _single(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a single map, which may have an axis of length 1 before or after them."""
    if len(shape) == 3 and shape[0] == 1:
        return shape[1:]
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape


def _gives_classes(table: Segmentation, shape: tuple[int, ...]) -> bool:
    """Whether an output's numbers are classes."""
    return table.values == "classes" or (table.values is None and len(_single(shape)) == 2)


def _kind(table: Segmentation, shape: tuple[int, ...], labels: int) -> str:
    """What an output is: `classes`, `second` (one of two classes), `first` or `last` (the classes' axis)."""
    single = _single(shape)
    if len(single) == 2:
        if not _is_map(single):
            return ""
        if _gives_classes(table, shape):
            return "classes"
        return "second" if labels == 2 else ""
    if len(shape) != 3 or table.values == "classes":
        return ""
    if shape[0] == labels and _is_map(shape[1:]):
        return "first"
    return "last" if shape[2] == labels and _is_map(shape[:2]) else ""


@dataclass(frozen=True, slots=True)
class _ClassMap:
    """The class of each pixel of a mask, (width, height); -1: none."""

    classes: NDArray[np.int16]
    sums: NDArray[np.float64] | None
    """Of each class's probabilities over its pixels; None if the network gives no probabilities."""


def _areas(output: NDArray[np.float32], spec: ModelSpec, options: ReadOptions) -> tuple[Prediction, ...]:
    """The classes that the photo shows, the largest first.

    20 classes of 520 x 520 take 80 ms for masks of 1280 x 960, and 370 if every cell differs from the next.
    """
    table, size = table_of(spec.options, Segmentation), rle.size_of(options.original_size)
    shown = _class_map(output, spec, options.original_size, size)
    counts = np.bincount(shown.classes.reshape(-1) + 1, minlength=len(spec.labels) + 1)[1:]
    least = max(1.0, table.least_area * shown.classes.size)
    ranked = np.argsort(-counts, kind="stable")
    reported = [at for at in ranked.tolist() if counts[at] >= least and at != _background(spec)]
    flat = shown.classes.reshape(-1)
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])
    run_classes = flat[bounds[:-1]]
    predictions = []
    for at in reported[: options.top]:
        runs = np.flatnonzero(run_classes == at)
        begins, ends = bounds[runs], bounds[runs + 1]
        probability = 1.0 if shown.sums is None else min(1.0, float(shown.sums[at] / counts[at]))
        prediction = Prediction(
            spec.labels[at].label,
            spec.labels[at].class_id,
            probability,
            _box(begins, ends, size, options.original_size),
            float(counts[at] / len(flat)),
            _mask(begins, ends, size, table),
        )
        predictions.append(prediction)
    return tuple(predictions)


def _class_map(
    output: NDArray[np.float32], spec: ModelSpec, original_size: tuple[int, int], size: tuple[int, int]
) -> _ClassMap:
    """The best class of each pixel of a mask of `size`."""
    table, labels = table_of(spec.options, Segmentation), len(spec.labels)
    kind = _kind(table, output.shape, labels)
    if not kind:
        problem = SegmentationTask().misfit(spec, [output.shape])
        raise InferenceFailed(f"The outputs do not fit the model's model.toml: {problem}.")
    shown = np.full(size, -1, np.int16)
    if kind == "classes":
        numbers = output.reshape(_single(output.shape))
        x, y = masks.axes(spec.input, original_size, size, (numbers.shape[1], numbers.shape[0]))
        best = masks.nearest(np.rint(numbers).clip(-1, labels).astype(np.int16), x, y)
        best[best >= labels] = -1  # such as 255, for what belongs to no class
        sums = None
    else:
        scores = _scores(output, kind, table)
        x, y = masks.axes(spec.input, original_size, size, (scores.shape[2], scores.shape[1]))
        cells, highest = masks.best_of(scores)
        best = masks.classes(scores, cells, x, y)
        chances = masks.nearest(_probabilities(scores, highest, table), x, y)
        sums = np.bincount(best.reshape(-1), chances.reshape(-1), labels).astype(np.float64)
    shown[x.start : x.stop, y.start : y.stop] = best
    return _ClassMap(shown, sums)


def _scores(output: NDArray[np.float32], kind: str, table: Segmentation) -> NDArray[np.float32]:
    """(classes, height, width)."""
    if kind == "second":
        second = output.reshape(_single(output.shape))
        first = 1 - second if table.values == "probabilities" else np.zeros_like(second)
        return np.stack([first, second])
    return output if kind == "first" else np.ascontiguousarray(output.transpose(2, 0, 1))


def _probabilities(
    scores: NDArray[np.float32], highest: NDArray[np.float32], table: Segmentation
) -> NDArray[np.float32]:
    """The best class's probability in each cell, whose score is `highest`."""
    is_sure = table.values == "probabilities"
    if table.values is None and scores.min() >= 0:
        is_sure = bool((np.abs(scores.sum(axis=0) - 1) < _SUM).all())
    if is_sure:
        return highest
    total = np.zeros_like(highest)
    for plane in scores:
        total += np.exp(plane - highest)
    return np.reciprocal(total)


def _background(spec: ModelSpec) -> int:
    """The class that is not reported; -1: none."""
    background = table_of(spec.options, Segmentation).background
    if isinstance(background, str):
        return [label.label for label in spec.labels].index(background)
    return -1 if background is None else background


def _box(
    begins: NDArray[np.int64], ends: NDArray[np.int64], size: tuple[int, int], original_size: tuple[int, int]
) -> Box:
    """The smallest box on the photo around the runs of a mask of `size`."""
    height = size[1]
    left, right = int(begins[0]) // height, (int(ends[-1]) - 1) // height + 1
    top, bottom = int((begins % height).min()), int(((ends - 1) % height).max()) + 1
    if (begins // height != (ends - 1) // height).any():
        top, bottom = 0, height  # a run goes on in the next column
    across, down = (photo / side for photo, side in zip(original_size, size, strict=True))
    x, y = math.floor(left * across), math.floor(top * down)
    return x, y, math.ceil(right * across) - x, math.ceil(bottom * down) - y


def _mask(
    begins: NDArray[np.int64], ends: NDArray[np.int64], size: tuple[int, int], table: Segmentation
) -> Mask:
    return Mask((size[1], size[0]), rle.of_runs(begins, ends, size), table.masks)


def _instances(outputs: Outputs, spec: ModelSpec, options: ReadOptions) -> tuple[Prediction, ...]:
    """The `top` most probable instances, in the steps of Ultralytics' process_mask_native.

    Without those of which no pixel is in the mask. Ten take 4 ms for a photo of 640 x 480, and 14 if each
    fills it.
    """
    table, original_size = table_of(spec.options, Segmentation), options.original_size
    arranged, rest = box_rows.split(outputs[0], len(spec.labels))
    thresholds = Detection(table.confidence, table.nms_iou, layout="ultralytics")
    found = detection.find(arranged, spec, thresholds, original_size=original_size, top=options.top)
    prototypes = outputs[1]
    planes = np.ascontiguousarray(rest[found.rows]) @ prototypes.reshape(len(prototypes), -1)
    require_finite("masks", planes)
    size = rle.size_of(original_size)
    sampling = masks.Sampling.of(spec.input, original_size, size, prototypes.shape[1:])
    edges = np.ceil(found.corners * (np.array(size * 2) / (original_size * 2))).clip(0, size * 2).astype(int)
    predictions = []
    for prediction, plane, area in zip(found.predictions, planes, edges.tolist(), strict=True):
        part, left, top = sampling.part(plane.reshape(prototypes.shape[1:]), area)
        begins, ends = rle.runs(part > 0, left, top, size[1])
        if len(begins):
            mask = _mask(begins, ends, size, table)
            predictions.append(msgspec.structs.replace(prediction, mask=mask))
    return tuple(predictions)
