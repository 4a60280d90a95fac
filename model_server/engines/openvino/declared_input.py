"""What a file with an input of real numbers says of them, held against model.toml.

Owns those refusals and warnings. False alarms would be worse than silence: only what no calibration explains
is refused, and what a file's author may have written wrongly causes a warning. Importing this module loads no
OpenVINO.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import Onnx, TFLite
from model_server.engines import normalisation
from model_server.engines.openvino import file_metadata

if TYPE_CHECKING:
    from model_server.engines.openvino.quantised import Quantisation

_RIGHT: Final = "there the normalisation that it was trained with."

_TASKS: Final = {
    "detect": "detection",
    "classify": "classification",
    "segment": "segmentation",
    "pose": "keypoints",
}
"""What Ultralytics calls the tasks that both of us have."""


_ULTRALYTICS: Final = {"names", "stride", "task"}
"""Keys of the metadata that Ultralytics writes into its ONNX files."""


def doubt(spec: ModelSpec, path: Path, model: Any) -> str:  # noqa: ANN401 - an openvino.Model
    """A warning if the file may have been made for other numbers than model.toml's; else empty.

    Raises ModelUnavailable if it was.
    """
    from model_server.engines.openvino.quantised import calibrated_input  # noqa: PLC0415 - it loads OpenVINO

    doubts = [of_range(spec, calibrated_input(model))]
    if isinstance(spec.source, TFLite):
        doubts.append(_normalising(spec, file_metadata.of_tflite(path)))
    if isinstance(spec.source, Onnx):
        doubts.append(of_onnx(spec, path))
    return " ".join(filter(None, doubts))


def of_onnx(spec: ModelSpec, path: Path) -> str:
    """A warning if an ONNX file's metadata say something else than model.toml; else empty.

    Raises ModelUnavailable if they contradict it.
    """
    return _ultralytics(spec, file_metadata.of_onnx(path))


def of_range(spec: ModelSpec, taken: Quantisation | None) -> str:
    """A warning if the input's range may have been set for other numbers than model.toml's; else empty.

    Raises ModelUnavailable if it was.
    """
    if taken is None:
        return ""
    numbers = _numbers(spec)
    least, most = float(numbers.min()), float(numbers.max())
    fit = taken.fits(least, most)
    if fit == "right":
        return ""
    if fit == "wrong":
        raise ModelUnavailable(
            f"{spec.name}: the network takes numbers {taken}, but normalise in model.toml gives "
            f"{least:.4g} to {most:.4g}. Write {_RIGHT}"
        )
    return (
        f"the network takes numbers {taken}, and normalise in model.toml gives {least:.4g} to {most:.4g}. "
        "Both may be right (it was calibrated with dim pictures, say). If its answers are wrong, write "
        f"{_RIGHT}"
    )


def of_bytes(spec: ModelSpec, taken: Quantisation) -> str:
    """A warning where a network that takes bytes gets others than the pixels' own; else empty.

    Not for a normalisation that differs from channel to channel: no bytes as they are stand for its numbers.
    """
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.input.channels, axis=1)[None, None]
    numbers = normalisation.of(spec).of_pixels(pixels)
    if np.ptp(numbers, axis=-1).max() > 0:
        return of_range(spec, taken)
    changed = int(np.abs(taken.integers(numbers) - pixels).max())
    return (
        f"the network takes bytes, which stand for numbers {taken}; normalise in model.toml gives "
        f"{numbers.min():.4g} to {numbers.max():.4g}, so pixels reach it changed by up to {changed} of 255. "
        'With normalise = "none" they reach it as they are, as most programs for TensorFlow Lite hand them '
        "over. Both may be right: compare with your own code by check --golden."
    )


def _normalising(spec: ModelSpec, declared: file_metadata.Normalising | None) -> str:
    """A warning if a TensorFlow Lite file's metadata have another normalisation."""
    if declared is None or any(len(numbers) not in (1, spec.input.channels) for numbers in declared):
        return ""
    mean, std = (np.asarray(numbers, np.float64) for numbers in declared)
    if std.min() <= 0 or (std.max() < 1 and mean.max() <= 1):
        return ""  # written for pixels of 0 to 1: nobody divides 0 to 255 by less
    declared_numbers = (normalisation.every_byte(spec.input.channels) - mean) / std
    if normalisation.is_same(_numbers(spec), declared_numbers):
        return ""
    written = ", ".join(
        f"{name} = {_listed(numbers, spec)}" for name, numbers in (("mean", mean), ("std", std))
    )
    return (
        f"the file's metadata say normalise = {{ {written} }}, and model.toml has another. If its answers "
        "are wrong, write that in [input]."
    )


def _listed(numbers: NDArray[np.float64], spec: ModelSpec) -> str:
    each = np.broadcast_to(numbers, (spec.input.channels,))
    return "[" + ", ".join(f"{number:.6g}" for number in each) + "]"


@dataclass(frozen=True, slots=True)
class UltralyticsFile:
    """What Ultralytics writes into a file of its own."""

    kind: str
    """In Ultralytics' own words: detect, segment, pose, classify, obb."""
    classes: list[str]
    points: tuple[int, ...] = ()
    """Of a network for poses: how many points, and how many numbers for each."""


def ultralytics(path: Path) -> UltralyticsFile | None:
    """What an ONNX file of Ultralytics says of itself; None for others."""
    metadata = file_metadata.of_onnx(path)
    if not set(metadata) >= _ULTRALYTICS:
        return None
    try:
        points = tuple(int(number) for number in ast.literal_eval(metadata.get("kpt_shape", "()")))
    except (ValueError, OverflowError, SyntaxError, TypeError, MemoryError, RecursionError):
        points = ()
    return UltralyticsFile(metadata["task"], _classes(metadata["names"]), points)


def _ultralytics(spec: ModelSpec, metadata: dict[str, str]) -> str:
    """What Ultralytics writes into its ONNX files: the classes, the task; its networks take 0 to 1."""
    if not set(metadata) >= _ULTRALYTICS:
        return ""
    task = _TASKS.get(metadata["task"])
    if task is not None and spec.task.name != task and spec.task.name in _TASKS.values():
        raise ModelUnavailable(
            f'{spec.name}: the file\'s metadata say that its task is "{metadata["task"]}". Write '
            f'task = "{task}" in model.toml.'
        )
    classes = _classes(metadata["names"])
    if spec.task.has_labels and classes and len(classes) != len(spec.labels):
        raise ModelUnavailable(
            f"{spec.name}: the file's metadata name {len(classes)} classes, from {classes[0]!r} to "
            f"{classes[-1]!r}, but there are {len(spec.labels)} labels. The labels file needs one for each."
        )
    if not normalisation.is_same(_numbers(spec), normalisation.every_byte(spec.input.channels) / 255):
        message = "Ultralytics made the file, and its networks take 0 to 1 in RGB"
        if isinstance(spec.normalise, str):
            raise ModelUnavailable(
                f'{spec.name}: {message}. Write normalise = "unit" in [input] of model.toml, and leave '
                "order out."
            )
        return f"{message}; normalise in model.toml gives other numbers."
    labels = [label.label.lower() for label in spec.labels]
    named = [name.lower() for name in classes]
    if labels != named and sorted(labels) == sorted(named):
        return "the labels file has the classes of the file's metadata in another order; theirs is right."
    return ""


def _classes(names: str) -> list[str]:
    """The classes in order, from the text of a Python dictionary; empty if it is none."""
    try:
        found = ast.literal_eval(names)
        return [str(found[number]) for number in range(len(found))]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return []


def _numbers(spec: ModelSpec) -> NDArray[np.float32]:
    """Every byte as model.toml normalises it."""
    return normalisation.of(spec).of_pixels(normalisation.every_byte(spec.input.channels))
