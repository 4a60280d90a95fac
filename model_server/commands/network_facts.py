"""What a network's file tells of itself: its input, its outputs, and how it wants its pixels.

Owns the reading of each kind of file for `new`. Guesses nothing about the task, and writes nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from broker.errors import ModelUnavailable
from broker.messages import Fit, InputSpec, Label
from model_server.catalogue.model_spec import Darknet, KerasFile, ModelSpec, Source
from model_server.catalogue.model_toml import (
    FileSource,
    Normalise,
    Onnx,
    TorchExport,
    TorchNetwork,
    TorchSource,
)
from model_server.engines import normalisation, served_outputs
from model_server.engines.check import final_operation
from model_server.engines.check.final_operation import Ending
from model_server.engines.output_choice import NetworkOutput
from model_server.tasks import TASKS

if TYPE_CHECKING:  # they load OpenVINO and PyTorch
    from numpy.typing import NDArray

    from model_server.engines.openvino.declared_input import UltralyticsFile
    from model_server.engines.torch.network import PyTorchNetwork

USUAL_SIDE: Final = 224
"""The side in pixels of a network that takes any size."""

_BY_NAME: Final = {
    "tf": ("mobilenet_", "mobilenetv2", "inception", "xception", "nasnet", "resnet50v2", "resnet101v2"),
    "caffe": ("resnet50", "resnet101", "resnet152", "vgg16", "vgg19"),
    "torch": ("densenet",),
    "none": ("efficientnet", "convnext", "mobilenetv3", "regnet"),
}
"""The mode of preprocess_input, by how names in keras.applications begin; of several the longest counts."""

_SCALING_LAYERS: Final = ("Rescaling", "Normalization")

_RANGES: Final[tuple[Normalise, ...]] = ("none", "unit", "tf", "torch")


@dataclass(frozen=True, slots=True)
class Guess:
    """A value for model.toml; `why` is empty if the file itself says so."""

    value: Any
    why: str = ""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A network, as its file describes it."""

    source: Source
    width: Guess
    height: Guess
    channels: Guess
    normalise: Guess
    outputs: list[NetworkOutput] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    classes: int = 0
    """How many a Darknet network or a file of weights has; 0 for others."""
    has_boxes: bool = False
    """Whether it is a Darknet detector."""
    declared: UltralyticsFile | None = None
    """What a file of Ultralytics says of itself."""


def read(folder: Path, source: Source) -> NetworkFacts:
    """Read the network in `folder`. Raises ModelUnavailable with the reason."""
    match source:
        case KerasFile():
            return _of_keras(folder, source)
        case Darknet():
            return _of_darknet(folder, source)
        case _ if isinstance(source, TorchSource):
            return _of_torch(folder, source)
        case _ if isinstance(source, FileSource):
            return _of_imported(folder, source)
    raise TypeError(f"{source!r} is not a file's source. This is a bug")


def _provisional(
    folder: Path, source: Source, width: int = USUAL_SIDE, height: int = USUAL_SIDE, channels: int = 3
) -> ModelSpec:
    """A spec to read the network with, before anything is known of it."""
    input_ = InputSpec(width, height, channels, Fit.STRETCH)
    return ModelSpec(folder.name, folder, TASKS["raw"], source, input_, "none", (), top=1)


def _of_keras(folder: Path, source: KerasFile) -> NetworkFacts:
    from model_server.engines.keras.quiet_tensorflow import quiet  # noqa: PLC0415 - they load TensorFlow

    with quiet():
        from model_server.engines.keras import tensorflow  # noqa: F401, PLC0415 - it names Keras' backend
    from model_server.engines.keras import network, sources  # noqa: PLC0415

    model = sources.build(_provisional(folder, source))
    if len(model.inputs) != 1:
        raise ModelUnavailable(f"the network has {len(model.inputs)} inputs; a picture must be its only one")
    shape = [None if size is None else int(size) for size in model.input_shape[1:]]
    if len(shape) == 2:
        shape.append(1)
    if len(shape) != 3:
        raise ModelUnavailable(f"the network takes {tuple(shape)}, not pictures of (height, width, channels)")
    height, width, channels = shape
    sizes = _sizes(height, width, channels)
    filled = [(1, *(size or 0 for size in output.shape[1:])) for output in model.outputs]
    return NetworkFacts(
        source,
        *sizes,
        normalise=_normalise_of_keras(model),
        outputs=[
            NetworkOutput((name,), shape)
            for name, shape in zip(network.output_names(model), filled, strict=True)
        ],
        endings=[final_operation.of_keras(output) for output in model.outputs],
    )


def _normalise_of_keras(model: Any) -> Guess:  # noqa: ANN401 - a keras.Model
    layers = list(model._flatten_layers(include_self=True))
    scaling = next((layer for layer in layers if type(layer).__name__ in _SCALING_LAYERS), None)
    if scaling is not None:
        return Guess("none", f"its layer {scaling.name!r} scales the pixels itself")
    names = [str(layer.name).lower() for layer in layers if hasattr(layer, "layers")]
    matches = [
        (len(start), mode, name)
        for name in names
        for mode, starts in _BY_NAME.items()
        for start in starts
        if name.startswith(start)
    ]
    if matches:
        _, mode, name = max(matches)
        return Guess(mode, f"{name} of keras.applications was trained so")
    return Guess("unit", "the file does not say")


def _of_darknet(folder: Path, source: Darknet) -> NetworkFacts:
    from model_server.darknet import cfg  # noqa: PLC0415

    try:
        sections = cfg.read(folder / source.cfg)
        net = sections[0].options
        width, height, channels = (int(net.get(key, default)) for key, default in _DARKNET_INPUT)
        yolo = [section.options for section in sections if section.name == "yolo"]
        last = [each.options.get("output") or each.options.get("filters") for each in sections]
        classes = int(yolo[0].get("classes", 20)) if yolo else int(next(filter(None, reversed(last)), 0))
    except (ValueError, OSError) as error:  # DarknetError is a ValueError
        raise ModelUnavailable(f"{source.cfg}: {error}") from error
    return NetworkFacts(
        source,
        Guess(width),
        Guess(height),
        Guess(channels),
        Guess("unit"),
        classes=classes,
        has_boxes=bool(yolo),
    )


_DARKNET_INPUT: Final = (("width", 416), ("height", 416), ("channels", 3))


def _of_torch(folder: Path, source: TorchSource) -> NetworkFacts:
    """TorchScript does not say which pictures it takes: the network is run on one of each usual size."""
    from model_server.engines.torch import sources  # noqa: PLC0415

    spec, classes = _provisional(folder, source), 0
    normalise = Guess("torch", "usual for networks of PyTorch")
    if isinstance(source, TorchNetwork):
        classes = sources.classes_of(spec)
        usual = sources.usual_input(spec)
        spec = _provisional(folder, source, usual.width, usual.height, usual.channels)
        spec = replace(spec, labels=tuple(Label(str(number), str(number)) for number in range(classes)))
        normalise = Guess(usual.normalise, usual.why) if usual.normalise else normalise
        network = sources.load(spec)
        try:
            outputs = network.outputs(np.zeros((1, *spec.input.shape), np.uint8))
            guesses = (Guess(usual.width, usual.why), Guess(usual.height, usual.why), Guess(usual.channels))
        except Exception:  # noqa: BLE001 - the network's own code raises anything; another size may do
            guesses, network, outputs = _first_taken(folder, source, network)
    elif isinstance(source, TorchExport):
        sizes = sources.exported_sizes(spec)
        channels, height, width = sizes if len(sizes) == 3 else (None, None, None)
        guesses = _sizes(height, width, channels)
        spec = _provisional(folder, source, *(guess.value for guess in guesses))
        network = sources.load(spec)
        outputs = network.outputs(np.zeros((1, *spec.input.shape), np.uint8))
    else:
        guesses, network, outputs = _first_taken(folder, source, sources.load(spec))
    return NetworkFacts(
        source,
        *guesses,
        normalise=normalise if guesses[2].value == 3 else Guess("unit", "the file does not say"),
        outputs=served_outputs.named(network.names, [output.shape for output in outputs]),
        endings=["unknown"] * len(outputs),
        classes=classes,
    )


def _first_taken(
    folder: Path, source: TorchSource, network: PyTorchNetwork
) -> tuple[tuple[Guess, Guess, Guess], PyTorchNetwork, list[NDArray[np.float32]]]:
    """The first of the usual sizes that the network takes; the network for it, and its outputs.

    Raises ModelUnavailable.
    """
    for channels, side in itertools.product((3, 1), _USUAL_SIDES):
        spec = _provisional(folder, source, side, side, channels)
        try:
            taking = network.of_other_pictures(spec)
            outputs = taking.run(np.zeros((1, *spec.input.shape), np.uint8))
        except Exception:  # noqa: BLE001, S112 - the network's own code raises anything; the next size may do
            continue
        why = "the file does not say; it takes this size"
        return (Guess(side, why), Guess(side, why), Guess(channels, "likewise")), taking, outputs
    sides = ", ".join(map(str, sorted(_USUAL_SIDES)))
    raise ModelUnavailable(
        f"the network takes no square pictures of a usual size ({sides}; in colour or grey), and its file "
        "does not say what it takes: write its model.toml by hand (docs/models.md)"
    )


_USUAL_SIDES: Final = (USUAL_SIDE, *(32, 64, 96, 128, 160, 192, 240, 256, 288, 299, 320, 384, 512, 640, 28))
"""Sides of the pictures that published networks take, the most usual first."""


def _of_imported(folder: Path, source: FileSource) -> NetworkFacts:
    from model_server.engines.openvino import (  # noqa: PLC0415 - they load OpenVINO
        declared_input,
        imported_graph,
        quantised,
    )

    model = imported_graph.opened(_provisional(folder, source))
    dimensions = [size.get_length() if size.is_static else None for size in _partial_shape(model)]
    if len(dimensions) != 4:
        raise ModelUnavailable(f"the network takes {dimensions}, not pictures with a batch's axis")
    sizes, layout = _arranged(dimensions, is_first=isinstance(source, imported_graph.CHANNELS_FIRST))
    height, width, channels = (guess.value for guess in (sizes[1], sizes[0], sizes[2]))
    static = [1, height, width, channels] if layout == "NHWC" else [1, channels, height, width]
    declared = declared_input.ultralytics(folder / source.file) if isinstance(source, Onnx) else None
    normalise = _normalise_of_imported(model, source, quantised, channels)
    if declared is not None:
        normalise = Guess("unit", "Ultralytics made the file, and its networks take 0 to 1")
    try:
        model.reshape(static)
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"the network does not take {width} x {height} pictures ({imported_graph.reason(error)})"
        ) from error
    shapes = [
        tuple(size.get_length() if size.is_static else 0 for size in output.partial_shape)
        for output in model.outputs
    ]
    outputs = served_outputs.named([output.names for output in model.outputs], shapes)
    endings = [final_operation.of_graph(output.get_node()) for output in model.outputs]
    return NetworkFacts(
        source, *sizes, normalise=normalise, outputs=outputs, endings=endings, declared=declared
    )


def _partial_shape(model: Any) -> Any:  # noqa: ANN401 - an openvino.PartialShape
    if len(model.inputs) != 1:
        raise ModelUnavailable(f"the network has {len(model.inputs)} inputs; a picture must be its only one")
    shape = model.input(0).partial_shape
    return shape if shape.rank.is_static else [type(shape[0]).dynamic()] * 4


def _arranged(sizes: list[int | None], *, is_first: bool) -> tuple[tuple[Guess, Guess, Guess], str]:
    """Width, height and channels, and the layout; `is_first`: channels usually come before the sides."""
    _, one, two, three = sizes
    is_last = three in (1, 3) and not (is_first and one in (1, 3))
    if not is_last and one not in (1, 3):
        is_last = not is_first
    height, width, channels = (one, two, three) if is_last else (two, three, one)
    return _sizes(height, width, channels), "NHWC" if is_last else "NCHW"


def _sizes(height: int | None, width: int | None, channels: int | None) -> tuple[Guess, Guess, Guess]:
    """Width, height and channels, those that are free as usual."""
    free = "the network takes any size"
    return (
        Guess(width) if width else Guess(USUAL_SIDE, free),
        Guess(height) if height else Guess(USUAL_SIDE, free),
        Guess(channels) if channels else Guess(3, "the network takes any number"),
    )


def _normalise_of_imported(model: Any, source: FileSource, quantised: Any, channels: int) -> Guess:  # noqa: ANN401
    """The normalisation that fits a quantised input's range; else the usual one of the kind.

    For bytes it is "none": they are handed over as they are. Only mean and deviation of each channel differ
    too much from what one step and zero for all channels can say.
    """
    is_torch = type(source).__name__ in ("Onnx", "Paddle") and channels == 3
    usual = Guess("torch" if is_torch else "unit", "the file does not say; usual for this kind of file")
    kind = model.input(0).element_type
    stored = quantised.input_quantisation(model)
    if stored is None:
        return Guess("none") if kind.is_integral() else usual
    takes_bytes = stored.low == 0
    for name in _RANGES if channels == 3 else _RANGES[:3]:
        if takes_bytes and name != "torch":
            continue
        spec = ModelSpec(
            "", Path(), TASKS["raw"], source, InputSpec(1, 1, channels, Fit.STRETCH), name, (), top=1
        )
        pixels = np.repeat(np.array([0, 255], np.uint8)[:, None], channels, axis=1)
        numbers = normalisation.of(spec).of_pixels(pixels[None, None])
        if stored.fits(float(numbers.min()), float(numbers.max())) == "right":
            return Guess(name, f"its quantised input takes numbers {stored}")
    if takes_bytes:
        return Guess("none", f"it takes bytes itself, for numbers {stored}")
    return usual
