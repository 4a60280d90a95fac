"""What a model.toml may say.

Owns the file's fields, their bounds, and what must fit together. The words of a refusal are toml_errors.py's.
Reads no other file and loads no network. docs/models.md describes every field.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from broker.messages import Fit
from model_server.catalogue import toml_errors
from model_server.catalogue.detection_layout import LAYOUT_FIELDS, Detection
from model_server.catalogue.toml_errors import SEE, CatalogueError


class KerasApplication(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_application"
):
    """A network of keras.applications, such as ResNet50, with its published weights."""

    name: str
    weights: str = "imagenet"


class KerasFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_file"):
    """A network saved by Keras 3 into the model's folder."""

    file: str


class Darknet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="darknet"):
    """A network of Darknet's: the layers in `cfg`, their numbers in `weights`."""

    cfg: str
    weights: str


class Onnx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="onnx"):
    """A network in ONNX, as PyTorch and many others export it; large weights may lie in a file beside it."""

    file: str


class TFLite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tflite"):
    """A network for TensorFlow Lite, quantised or not."""

    file: str


class FrozenGraph(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="frozen_graph"
):
    """A TensorFlow graph with its weights as constants: a `.pb`, as TensorFlow 1 left it."""

    file: str


class SavedModel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="saved_model"
):
    """A folder with TensorFlow's saved_model.pb."""

    folder: str


class Paddle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="paddle"):
    """An inference model of PaddlePaddle: its `.pdmodel`, or a folder with just one."""

    file: str


Imported = Onnx | TFLite | FrozenGraph | SavedModel | Paddle
"""What OpenVINO reads itself, so that nothing else runs it."""
Source = KerasApplication | KerasFile | Imported | Darknet

Task = Literal["classification", "detection"]
Named = Literal["none", "unit", "tf", "torch", "caffe"]
Order = Literal["rgb", "bgr"]
Activation = Literal["none", "softmax", "sigmoid"]
Size = Annotated[int, Meta(ge=1, le=4096)]


class Normalisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(pixel - mean) / std, a number for each channel in the network's order, in units of 0..255."""

    mean: tuple[Annotated[float, Meta(ge=-65536, le=65536)], ...]
    std: tuple[Annotated[float, Meta(gt=0, le=65536)], ...]


Normalise = Named | Normalisation


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[input]: what the network takes."""

    width: Size
    height: Size
    channels: Literal[1, 3]
    fit: Fit
    normalise: Normalise
    resize: Size | None = None
    order: Order = "rgb"


_DARKNET_STRIDE: Final = 32
"""Pixels of the picture that a cell of a detector's coarsest grid has."""


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[output]: what is done with what the network gives."""

    activation: Activation = "none"


class ModelToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    task: Task
    labels: str
    top: Annotated[int, Meta(ge=1)]
    source: Source
    input: Input
    output: Output = Output()
    detection: Detection | None = None


def read(path: Path) -> ModelToml:
    """Read a model.toml. Raises CatalogueError with the file, the line and what is allowed there."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: can't be read as UTF-8 ({error}). {SEE}") from None
    try:
        toml = msgspec.toml.decode(text, type=ModelToml)
    except msgspec.ValidationError as error:
        raise toml_errors.of_value(path, text, error, ModelToml) from None
    except ValueError as error:  # msgspec.DecodeError and tomllib's are ValueErrors
        raise toml_errors.of_syntax(path, text, error) from None
    for key, problem in [*_misfits(toml.input), *_undetectable(toml), *_misplaced(path.parent, toml)]:
        raise toml_errors.of_key(path, text, key, problem)
    return toml


def require_top(path: Path, top: int, most: int, many: str) -> None:
    """Raise CatalogueError if `top` asks for more predictions than there can be: `most`, which are `many`."""
    if top > most:
        problem = f"An answer can't have {top} predictions: there are {many}. Write {most}, or fewer."
        raise toml_errors.of_key(path, path.read_text("utf-8-sig"), "top", problem)


def _misfits(given: Input) -> Iterator[tuple[str, str]]:
    """Keys of [input] that do not fit its others, each with the reason."""
    if given.fit is Fit.INK and given.channels != 1:
        yield "input.channels", 'fit = "ink" makes grey pictures, so channels must be 1.'
    if given.resize is not None and given.fit is not Fit.CROP:
        yield "input.resize", 'It is the short side before the centre crop, so fit must be "crop".'
    elif given.resize is not None and given.resize < max(given.width, given.height):
        yield "input.resize", "It is at least the width and the height."
    match given.normalise:
        case Normalisation(mean=mean, std=std):
            for key, numbers in (("mean", mean), ("std", std)):
                if len(numbers) != given.channels:
                    problem = f"It has {len(numbers)} numbers, but there are {given.channels} channels."
                    yield f"input.normalise.{key}", problem
            if min(std) < 1:
                # Nobody divides 0..255 by less; and no check of ours would notice.
                problem = "It is in units of 0..255: multiply mean and std by 255 where they are of 0..1."
                yield "input.normalise.std", problem
        case "torch" | "caffe" if given.channels != 3:
            problem = f'"{given.normalise}" is for 3 channels. Use "unit", or a table of mean and std.'
            yield "input.normalise", problem
        case "caffe" if given.order == "bgr":
            yield "input.order", 'normalise = "caffe" makes BGR already. Leave order out.'
    if given.order == "bgr" and given.channels != 3:
        yield "input.order", '"bgr" is for 3 channels.'


def _undetectable(toml: ModelToml) -> Iterator[tuple[str, str]]:
    """Keys that do not go with the task."""
    if toml.task == "classification":
        if toml.detection is not None:
            yield "detection", 'It is for task = "detection".'
        return
    if toml.input.fit is Fit.INK:
        yield "input.fit", '"ink" frames a drawing, and boxes could not be found again on the photo.'
    if toml.output.activation != "none":
        yield "output.activation", "It is for classification: a detector's scores are taken as they are."
    if isinstance(toml.source, Darknet):
        yield from _misfits_of_darknet(toml.input)
    if isinstance(toml.source, Darknet) and toml.detection is not None:
        for field in LAYOUT_FIELDS:
            if getattr(toml.detection, field) != getattr(Detection(), field):
                yield f"detection.{field}", "Darknet's outputs are known: leave it out."


def _misfits_of_darknet(given: Input) -> Iterator[tuple[str, str]]:
    """What a detector of Darknet would take without a word, or refuse in words of its layers."""
    if isinstance(given.normalise, str) and given.normalise != "unit":
        yield "input.normalise", 'Darknet\'s networks take 0..1. Use "unit".'
    for side in ("width", "height"):
        if getattr(given, side) % _DARKNET_STRIDE:
            yield f"input.{side}", f"It is a multiple of {_DARKNET_STRIDE}, whatever the cfg says."


def _misplaced(folder: Path, toml: ModelToml) -> Iterator[tuple[str, str]]:
    """Keys that name a file outside the folder, and labels that are not there.

    A network that is not there costs only its own model, when it is loaded.
    """
    keys = ("cfg", "weights") if isinstance(toml.source, Darknet) else ("file", "folder")
    named = {f"source.{key}": getattr(toml.source, key, "") for key in keys}
    for key, name in {"labels": toml.labels, **named}.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            yield key, f"{name!r} is outside this folder."
    if not (folder / toml.labels).is_file():
        yield "labels", f"There is no file {toml.labels!r} in this folder."
