"""A network that OpenVINO's front ends read: its file, its single image input, and its numeric outputs.

Owns the reading, and every message about a file that is refused. importing.py owns what becomes of the graph.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue import file_kinds
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import FileSource, FrozenGraph, Onnx, Paddle, SavedModel, TFLite
from model_server.engines import normalisation
from model_server.engines.openvino import declared_input, runtime
from model_server.engines.openvino.quantised import Quantisation, input_quantisation, with_outputs_in_numbers

_FRONT_ENDS: Final[dict[type, str]] = {
    Onnx: "onnx",
    TFLite: "tflite",
    FrozenGraph: "tf",
    SavedModel: "tf",
    Paddle: "paddle",
}

_DECODER: Final = re.compile(r"\bDecode(?:Jpeg|Png|Image|Bmp|Gif|AndCropJpeg)\b")

_FROM_PIXELS: Final = (
    "Export it from the pixels on, with a float32 input of (None, height, width, 3): for a graph of "
    'TensorFlow 1, tf.import_graph_def(graph, input_map={"ExpandDims:0": pixels}), where pixels is a '
    "placeholder of that shape and ExpandDims:0 the first tensor that has an axis for the batch."
)

CHANNELS_FIRST: Final = (Onnx, Paddle)
"""Kinds whose networks take (channels, height, width) unless their own shape says otherwise."""


AS_PREPARED: Final = "as prepared"
"""The layout of an input that the model's own code makes: no axis of it has a meaning here."""


@dataclass(frozen=True, slots=True)
class ImportedGraph:
    """A graph as in its file, except that its outputs are numbers, even if the file rounds them to bytes."""

    model: Any
    """An openvino.Model."""
    layout: str
    """The layout of its input: NHWC or NCHW, or AS_PREPARED."""
    quantised: Quantisation | None
    takes_bytes: bool
    """Whether the network takes pixels as they are, as integers that nothing normalises."""
    doubt: str
    """A warning, if the file may have been made for another normalisation than model.toml's; else empty."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """The NumPy type of its input."""
        return self.model.input(0).element_type.to_dtype()

    prepared: tuple[int, ...] = ()
    """The shape of its input for one picture, if the model's own code makes that."""

    @property
    def own_precision(self) -> str:
        """What the file computes in: fp32, or 16 bits if an operation gives such numbers."""
        kinds = {
            node.get_output_element_type(0).get_type_name()
            for node in self.model.get_ops()
            # Weights may be stored in 16 bits and computed with in 32.
            if node.get_output_size() and node.get_type_name() != "Constant"
        }
        return "bf16" if "bf16" in kinds else "fp16" if "f16" in kinds else "fp32"

    def reshape(self, spec: ModelSpec, *, batch: int) -> None:
        """Set the input's shape; a batch of -1 is any size. Raises ModelUnavailable if they disagree."""
        height, width, channels = spec.input.network_shape
        sizes = [height, width, channels] if self.layout == "NHWC" else [channels, height, width]
        if self.layout == AS_PREPARED:
            sizes = list(self.prepared)
        try:
            self.model.reshape(runtime.PartialShape([batch, *sizes]))
        except RuntimeError as error:  # whatever OpenVINO's C++ raises
            raise ModelUnavailable(
                f"{spec.name}: the network does not take {spec.input.width} x {spec.input.height} pictures "
                f"({reason(error)}). Correct width and height in model.toml."
            ) from error

    def free_batch(self) -> None:
        """Let each reshape to one image accept any number: files made for one image do not.

        Only running the graph shows whether that is correct.
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


def read(spec: ModelSpec, prepared: NDArray[Any] | None = None) -> ImportedGraph:
    """Read the network of `spec`. Raises ModelUnavailable with the reason.

    `prepared` are the check's pictures, if the model's own code prepares them: then it takes them as they
    are.
    """
    model = opened(spec)
    if len(model.inputs) != 1:
        names = ", ".join(sorted(node.any_name for node in model.inputs))
        path = _file_of(spec)
        # Of another format's file OpenVINO may read a network without anything in it.
        cure = file_kinds.hint(path, spec.source, within=spec.folder)
        raise ModelUnavailable(
            f"{spec.name}: the network has {len(model.inputs)} inputs ({names})."
            f"{cure or ' Export it again with the picture as its only input.'}"
        )
    if prepared is not None:
        return _as_prepared(spec, model, prepared.shape[1:])
    quantised = input_quantisation(model)
    takes_bytes = _takes_bytes(spec, model.input(0).element_type, quantised)
    doubt = ""
    if quantised is not None and not takes_bytes:
        is_bytes = quantised.low == 0
        doubt = (declared_input.of_bytes if is_bytes else declared_input.of_range)(spec, quantised)
    if model.input(0).element_type.is_real():
        doubt = declared_input.doubt(spec, _file_of(spec), model)
    return ImportedGraph(with_outputs_in_numbers(model), _layout(spec, model), quantised, takes_bytes, doubt)


def opened(spec: ModelSpec) -> Any:  # noqa: ANN401
    """The openvino.Model in the file of `spec`. Raises ModelUnavailable with the reason."""
    path = _file_of(spec)
    try:
        return runtime.read(_FRONT_ENDS[type(spec.source)], path)
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        decoder = _DECODER.search(str(error))
        if decoder:
            raise ModelUnavailable(
                f"{spec.name}: {path.name} takes the bytes of a picture's file and decodes them itself "
                f"({decoder[0]}). {_FROM_PIXELS}"
            ) from error
        hint = file_kinds.hint(path, spec.source, within=spec.folder)
        if not hint and spec.is_onnx:
            hint = " ENGINE=onnxruntime may be able to."
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't read {path.name}: {reason(error)}.{hint}"
        ) from error


def _file_of(spec: ModelSpec) -> Path:
    """The file or folder to read. Raises ModelUnavailable if it is missing."""
    source = spec.source
    if not isinstance(source, FileSource):
        raise TypeError(f"{source!r} is not imported; this is a bug")
    return _path(spec, source)


def _as_prepared(spec: ModelSpec, model: Any, shape: tuple[int, ...]) -> ImportedGraph:  # noqa: ANN401
    """The graph for arrays of this shape. Raises ModelUnavailable if it takes others."""
    takes = model.input(0).partial_shape
    if not takes.compatible(runtime.PartialShape([-1, *shape])):
        raise ModelUnavailable(
            f"{spec.name}: preprocess in hooks.py returns {shape} for a picture, but the network takes "
            f"{takes}, batch first."
        )
    return as_prepared(with_outputs_in_numbers(model), shape)


def as_prepared(model: Any, shape: tuple[int, ...]) -> ImportedGraph:  # noqa: ANN401
    """An openvino.Model that takes arrays of this shape, one for a picture, as they are."""
    return ImportedGraph(model, AS_PREPARED, None, takes_bytes=True, doubt="", prepared=shape)


def _takes_bytes(spec: ModelSpec, kind: Any, quantised: Quantisation | None) -> bool:  # noqa: ANN401
    """Whether the network takes pixels as they are. Raises ModelUnavailable if model.toml contradicts it."""
    is_bytes = bool(kind.get_type_name() == "u8")
    if not kind.is_integral() or (is_bytes and spec.normalise == "none"):
        return is_bytes
    if quantised is None and not is_bytes:
        raise ModelUnavailable(
            f"{spec.name}: the network takes pixels as {kind.get_type_name()}, which is not supported. "
            "Export it again with an input of float32 or uint8."
        )
    if not is_bytes:
        return False  # declared_input judges their range
    if quantised is not None:
        numbers = _numbers(spec)
        if quantised.is_identity(numbers):
            return True
        if quantised.fits(float(numbers.min()), float(numbers.max())) != "wrong":
            return False
    raise ModelUnavailable(
        f"{spec.name}: the network takes bytes, 0 to 255, and normalises them itself. Write "
        'normalise = "none" in [input] of model.toml in place of the present normalise (and of its mean and '
        "std, if it has them)."
    )


def _numbers(spec: ModelSpec) -> NDArray[np.float32]:
    """Every byte as normalised by model.toml, with the channels last."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.input.channels, axis=1)
    return normalisation.of(spec).of_pixels(pixels[None, None])


def _path(spec: ModelSpec, source: FileSource) -> Path:
    """The file or folder to read. Raises ModelUnavailable if it is missing."""
    if isinstance(source, SavedModel):
        path = spec.folder / source.folder
        if not (path / "saved_model.pb").is_file():
            raise ModelUnavailable(
                f"{spec.name}: {source.folder!r} has no file saved_model.pb."
                f"{file_kinds.hint(path, source, within=spec.folder)}"
            )
        return path
    path = spec.folder / source.file
    if isinstance(source, Paddle):
        path = _paddle(spec, path)
    if not path.is_file() and not isinstance(source, Paddle):
        problem = (
            f"{source.file!r} is a folder" if path.is_dir() else f"its folder has no file {source.file!r}"
        )
        raise ModelUnavailable(f"{spec.name}: {problem}.{file_kinds.hint(path, source, within=spec.folder)}")
    return path


def _paddle(spec: ModelSpec, path: Path) -> Path:
    """The `.pdmodel`, or the folder with the `__model__` of PaddlePaddle 1."""
    if path.is_dir():
        files = sorted(path.glob("*.pdmodel"))
        if len(files) == 1:
            return files[0]
        if not files and (path / "__model__").is_file():
            return path
        raise ModelUnavailable(
            f"{spec.name}: {path.name!r} must have exactly one *.pdmodel file; it has {len(files)}."
            f"{file_kinds.hint(path, spec.source, within=spec.folder) or ' ' + _PADDLE_3}"
        )
    if path.suffix == ".json" or not path.is_file():
        problem = "is in PaddlePaddle 3's new format" if path.is_file() else "is missing"
        raise ModelUnavailable(f"{spec.name}: {path.name!r} {problem}. {_PADDLE_3}")
    return path


_PADDLE_3: Final = "PaddlePaddle 3 writes a .pdmodel if FLAGS_enable_pir_api=0 is set when it exports."


def _layout(spec: ModelSpec, model: Any) -> str:  # noqa: ANN401
    """NHWC or NCHW: the layout that the network's shape allows; if both, the usual one of its kind."""
    height, width, channels = spec.input.network_shape
    shape = model.input(0).partial_shape
    usual, other = ("NCHW", "NHWC") if isinstance(spec.source, CHANNELS_FIRST) else ("NHWC", "NCHW")
    sizes = {"NHWC": [-1, height, width, channels], "NCHW": [-1, channels, height, width]}
    for layout in (usual, other):
        if shape.compatible(runtime.PartialShape(sizes[layout])):
            return layout
    raise ModelUnavailable(
        f"{spec.name}: the network takes {shape}, but model.toml says pictures of {width} x {height} with "
        f"{channels} channels: {sizes[usual]} or {sizes[other]}, batch first."
    )


def reason(error: Exception) -> str:
    """A front end's message without the lines that name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last of these is advice on how to extend OpenVINO.
    others = ("Check '", "Exception", "To facilitate")
    last = next((line for line in reversed(lines) if not line.startswith(others)), "").removeprefix("-- ")
    return (last or first_line(error)).rstrip(".")
