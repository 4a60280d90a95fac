"""A network that OpenVINO's front ends read: its file, its one picture input, and its outputs in numbers.

Owns the reading and every sentence that says why a file is not taken. What becomes of the graph is
importing.py's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue import file_kinds
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import FrozenGraph, Imported, Onnx, Paddle, SavedModel, TFLite
from model_server.engines import normalisation
from model_server.engines.openvino import runtime
from model_server.engines.openvino.quantised import Quantised, quantised_input, with_outputs_in_numbers

_FRONT_ENDS: Final[dict[type, str]] = {
    Onnx: "onnx",
    TFLite: "tflite",
    FrozenGraph: "tf",
    SavedModel: "tf",
    Paddle: "paddle",
}

_CHANNELS_FIRST: Final = (Onnx, Paddle)
"""Kinds whose networks take (channels, height, width), where a network's own shape does not tell."""


@dataclass(frozen=True, slots=True)
class ImportedGraph:
    """A graph as its file has it; its outputs are numbers, even where the file rounds them to bytes."""

    model: Any
    """An openvino.Model."""
    layout: str
    """Of its input: NHWC or NCHW."""
    quantised: Quantised | None
    takes_bytes: bool
    """Whether pixels go in as they are: the network takes integers, and model.toml normalises by none."""
    doubt: str
    """A sentence to warn with where that normalisation may be another than the file was made for."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """NumPy's type of its input."""
        return self.model.input(0).element_type.to_dtype()

    def reshape(self, spec: ModelSpec, *, batch: int) -> None:
        """Set the input's shape; a batch of -1 is any. Raises ModelUnavailable if the network has another."""
        height, width, channels = spec.input.shape
        sizes = [height, width, channels] if self.layout == "NHWC" else [channels, height, width]
        try:
            self.model.reshape(runtime.PartialShape([batch, *sizes]))
        except RuntimeError as error:  # whatever OpenVINO's C++ raises
            raise ModelUnavailable(
                f"{spec.name}: the network does not take {spec.input.width} x {spec.input.height} pictures "
                f"({reason(error)}). Mend width and height in model.toml."
            ) from error

    def free_batch(self) -> None:
        """Let each reshape to one picture take any number, which files made for one picture do not.

        Whether that is right is found by running it.
        """
        operations = runtime.operations()
        for node in self.model.get_ordered_ops():
            sizes = node.input_value(1).get_node() if node.get_type_name() == "Reshape" else None
            if sizes is None or sizes.get_type_name() != "Constant":
                continue
            target = np.array(sizes.get_data(), np.int64).reshape(-1)
            if len(target) < 2 or target[0] != 1 or 0 in target:
                continue
            target[0] = 0 if -1 in target else -1  # 0: as many as come in
            freed = operations.reshape(node.input_value(0), operations.constant(target), special_zero=True)
            for taker in node.output(0).get_target_inputs():
                taker.replace_source_output(freed.output(0))


def read(spec: ModelSpec) -> ImportedGraph:
    """Read the network of `spec`. Raises ModelUnavailable with the reason."""
    source = spec.source
    if not isinstance(source, Imported):
        raise TypeError(f"{source!r} is not imported. This is a bug")
    path = _path(spec, source)
    try:
        model = runtime.read(_FRONT_ENDS[type(source)], path)
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't read {path.name}: {reason(error)}."
            f"{file_kinds.hint(path, source, within=spec.folder)}"
        ) from error
    if len(model.inputs) != 1:
        names = ", ".join(sorted(each.any_name for each in model.inputs))
        raise ModelUnavailable(
            f"{spec.name}: the network has {len(model.inputs)} inputs ({names}). Export it again with the "
            "picture as the only one."
        )
    quantised = quantised_input(model)
    takes_bytes = _takes_bytes(spec, model.input(0).element_type, quantised)
    doubt = "" if takes_bytes else _doubt(spec, quantised)
    return ImportedGraph(with_outputs_in_numbers(model), _layout(spec, model), quantised, takes_bytes, doubt)


def _takes_bytes(spec: ModelSpec, kind: Any, quantised: Quantised | None) -> bool:  # noqa: ANN401
    """Whether pixels go in as they are. Raises ModelUnavailable if model.toml normalises otherwise."""
    is_bytes = bool(kind.get_type_name() == "u8")
    if not kind.is_integral() or (is_bytes and spec.normalise == "none"):
        return is_bytes
    if quantised is None and not is_bytes:
        raise ModelUnavailable(
            f"{spec.name}: the network takes pixels as {kind.get_type_name()}, which nothing here makes. "
            "Export it again with an input of float32, or of uint8."
        )
    if quantised is not None:
        numbers = _numbers(spec)
        if is_bytes and quantised.is_identity(numbers):
            return True
        if quantised.fits(float(numbers.min()), float(numbers.max())) != "wrong":
            return False
    if not is_bytes:
        raise ModelUnavailable(
            f"{spec.name}: the network takes numbers {quantised}, and normalise in model.toml makes others "
            f"of a picture, {numbers.min():.4g} to {numbers.max():.4g}. Say there what it was trained with."
        )
    raise ModelUnavailable(
        f"{spec.name}: the network takes bytes, 0 to 255, as they are, and normalises them itself. "
        'Write normalise = "none" in [input] of model.toml, and remove the normalise that is there (with its '
        "mean and std, if it has them)."
    )


def _numbers(spec: ModelSpec) -> NDArray[np.float32]:
    """What model.toml's normalisation makes of every byte, the channels last."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.input.channels, axis=1)
    return normalisation.of(spec)(pixels[None, None])


def _doubt(spec: ModelSpec, quantised: Quantised | None) -> str:
    """What is not sure of numbers that a quantised input takes."""
    if quantised is None:
        return ""
    least, most = float(_numbers(spec).min()), float(_numbers(spec).max())
    if quantised.fits(least, most) == "right":
        return ""
    return (
        f"the network takes numbers {quantised}, and normalise in model.toml makes {least:.4g} to {most:.4g} "
        "of a picture. Both may be right (it was calibrated with dim pictures, say). If its answers are not, "
        "write there what it was trained with."
    )


def _path(spec: ModelSpec, source: Imported) -> Path:
    """The file or folder to read, which must be there."""
    if isinstance(source, SavedModel):
        path = spec.folder / source.folder
        if not (path / "saved_model.pb").is_file():
            raise ModelUnavailable(
                f"{spec.name}: there is no file saved_model.pb in {source.folder!r}."
                f"{file_kinds.hint(path, source, within=spec.folder)}"
            )
        return path
    path = spec.folder / source.file
    if isinstance(source, Paddle):
        path = _paddle(spec, path)
    if not path.is_file() and not isinstance(source, Paddle):
        there = (
            f"{source.file!r} is a folder"
            if path.is_dir()
            else f"there is no file {source.file!r} in its folder"
        )
        raise ModelUnavailable(f"{spec.name}: {there}.{file_kinds.hint(path, source, within=spec.folder)}")
    return path


def _paddle(spec: ModelSpec, path: Path) -> Path:
    """The `.pdmodel`, or the folder with the `__model__` of PaddlePaddle 1."""
    if path.is_dir():
        found = sorted(path.glob("*.pdmodel"))
        if len(found) == 1:
            return found[0]
        if not found and (path / "__model__").is_file():
            return path
        raise ModelUnavailable(
            f"{spec.name}: {path.name!r} has {len(found)} files *.pdmodel, where one is taken."
            f"{file_kinds.hint(path, spec.source, within=spec.folder) or ' ' + _PADDLE_3}"
        )
    if path.suffix == ".json" or not path.is_file():
        there = "is PaddlePaddle 3's new format" if path.is_file() else "is not there"
        raise ModelUnavailable(f"{spec.name}: {path.name!r} {there}. {_PADDLE_3}")
    return path


_PADDLE_3: Final = "PaddlePaddle 3 writes a .pdmodel where FLAGS_enable_pir_api=0 is set when it exports."


def _layout(spec: ModelSpec, model: Any) -> str:  # noqa: ANN401
    """NHWC or NCHW: what the network's shape allows; where it allows both, its kind's habit."""
    height, width, channels = spec.input.shape
    shape = model.input(0).partial_shape
    usual, other = ("NCHW", "NHWC") if isinstance(spec.source, _CHANNELS_FIRST) else ("NHWC", "NCHW")
    sizes = {"NHWC": [-1, height, width, channels], "NCHW": [-1, channels, height, width]}
    for layout in (usual, other):
        if shape.compatible(runtime.PartialShape(sizes[layout])):
            return layout
    raise ModelUnavailable(
        f"{spec.name}: the network takes {shape}, but model.toml says pictures of {width} x {height} with "
        f"{channels} channels: {sizes[usual]} or {sizes[other]}, the first being the batch."
    )


def reason(error: Exception) -> str:
    """What a front end says, without the lines that say where in its source."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((line for line in reversed(told) if not line.startswith(("Check '", "Exception"))), "")
    return (last or first_line(error)).rstrip(".")
