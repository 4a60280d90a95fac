"""From sections to layers: what each computes, from which others, of which size, with how many weights.

Owns the meaning of every option and the arithmetic of sizes, as in Darknet's parser.c and layers. Reads no
weights and knows no Keras: an impossible network is refused before anything is read or allocated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from model_server.darknet.cfg import DarknetError, Section
from model_server.darknet.layers import (
    ACTIVATIONS,
    AveragePool,
    Convolution,
    Kind,
    Layer,
    MaxPool,
    Network,
    Route,
    Same,
    Shortcut,
    Size,
    Softmax,
    Upsample,
    Yolo,
)

MOST_VALUES: Final = 1 << 28
"""The most values in a layer's output for one image: YOLOv3's largest layer at 608 has 12 million."""


def plan(sections: list[Section], size: tuple[int, int] | None = None) -> Network:
    """The network of a cfg for images of (height, width); None: of the cfg's size. Raises DarknetError."""
    net = sections[0]
    net.allow("width", "height", "channels")
    own = (net.whole("height", None, 1, 8192), net.whole("width", None, 1, 8192))
    picture: Size = (*(size or own), net.whole("channels", None, 1, 4))
    layers: list[Layer] = []
    for section in sections[1:]:
        read = _KINDS.get(section.name)
        if read is None:
            raise section.refusal(f"this kind of layer is not supported. Supported: {', '.join(_KINDS)}")
        layer = read(section, _Predecessors(picture, layers))
        height, width, channels = layer.gives
        if min(layer.gives) < 1:
            raise section.refusal(f"an input of {layer.takes[1]} x {layer.takes[0]} leaves no output")
        if height * width * channels > MOST_VALUES:
            raise section.refusal(f"an output of {width} x {height} x {channels} is too large")
        layers.append(layer)
    if not layers:
        raise DarknetError("there are no layers after [net]")
    network = Network(picture, tuple(layers))
    if len({layer.kind.classes for layer in network.detectors if isinstance(layer.kind, Yolo)}) > 1:
        raise DarknetError("the [yolo] layers have different numbers of classes")
    return network


@dataclass(frozen=True, slots=True)
class _Predecessors:
    """What a layer can take as its input: the image and the layers so far."""

    picture: Size
    layers: list[Layer]

    def size(self, section: Section, number: int, option: str = "") -> Size:
        if number == -1 and not option:
            return self.picture
        if not 0 <= number < len(self.layers):
            raise section.refusal(f"there is no layer {number} before it", option)
        if isinstance(self.layers[number].kind, Yolo):
            raise section.refusal(f"layer {number} is a [yolo], which no other layer can use", option)
        return self.layers[number].gives

    def last(self, section: Section) -> tuple[int, Size]:
        number = len(self.layers) - 1
        return number, self.size(section, number)

    def named(self, section: Section, option: str) -> list[int]:
        """The layers that an option names: counted from the start, or backwards from here if negative."""
        here = len(self.layers)
        return [number + here if number < 0 else number for number in section.wholes(option)]


def _layer(section: Section, before: _Predecessors, kind: Kind, gives: Callable[[Size], Size]) -> Layer:
    """A layer whose input is the layer just before it."""
    number, takes = before.last(section)
    return Layer(str(section), kind, (number,), takes, gives(takes))


def _convolution(section: Section, before: _Predecessors) -> Layer:
    section.allow(
        *(
            [
                "filters",
                "size",
                "stride",
                "pad",
                "padding",
                "groups",
                "activation",
                "batch_normalize",
                "dilation",
                "stride_x",
                "stride_y",
            ]
        ),
        *(["binary", "xnor", "antialiasing"]),
    )
    for option in ("binary", "xnor", "antialiasing"):
        section.whole(option, 0, 0, 0)
    section.whole("dilation", 1, 1, 1)
    size = section.whole("size", 1, 1, 64)
    stride = section.whole("stride", 1, 1, 64)
    for option in ("stride_x", "stride_y"):
        section.whole(option, stride, stride, stride)
    padded = section.flag("pad")
    padding = section.whole("padding", 0, 0, 64)
    number, takes = before.last(section)
    kind = Convolution(
        filters=section.whole("filters", 1, 1, 1 << 16),
        size=size,
        stride=stride,
        before=size // 2 if padded else padding,
        groups=section.whole("groups", 1, 1, 1 << 16),
        activation=section.text("activation", "logistic", ACTIVATIONS),
        normalised=section.flag("batch_normalize"),
    )
    if takes[2] % kind.groups or kind.filters % kind.groups:
        raise section.refusal(
            f"{kind.groups} groups do not divide {takes[2]} channels into {kind.filters} filters", "groups"
        )
    height, width = ((side + 2 * kind.before - size) // stride + 1 for side in takes[:2])
    return Layer(str(section), kind, (number,), takes, (height, width, kind.filters))


def _max_pool(section: Section, before: _Predecessors) -> Layer:
    section.allow(*["size", "stride", "padding", "stride_x", "stride_y", "maxpool_depth", "antialiasing"])
    section.whole("maxpool_depth", 0, 0, 0)
    section.whole("antialiasing", 0, 0, 0)
    stride = section.whole("stride", 1, 1, 64)
    size = section.whole("size", stride, 1, 64)
    for option in ("stride_x", "stride_y"):
        section.whole(option, stride, stride, stride)
    padding = section.whole("padding", size - 1, 0, size - 1)

    def gives(takes: Size) -> Size:
        height, width = ((side + padding - size) // stride + 1 for side in takes[:2])
        return height, width, takes[2]

    return _layer(section, before, MaxPool(size, stride, padding // 2), gives)


def _shortcut(section: Section, before: _Predecessors) -> Layer:
    section.allow("from", "activation", "weights_type", "weights_normalization")
    section.text("weights_type", "none", ("none",))
    number, takes = before.last(section)
    sources = (number, *before.named(section, "from"))
    for source in sources[1:]:
        size = before.size(section, source, "from")
        if size != takes:
            raise section.refusal(f"layer {source} gives {size}, but the layer before gives {takes}", "from")
    return Layer(
        str(section), Shortcut(section.text("activation", "linear", ACTIVATIONS)), sources, takes, takes
    )


def _route(section: Section, before: _Predecessors) -> Layer:
    section.allow("layers", "groups", "group_id")
    sources = before.named(section, "layers")
    sizes = [before.size(section, source, "layers") for source in sources]
    if len({size[:2] for size in sizes}) > 1:
        raise section.refusal(f"the layers differ in height and width: {sizes}", "layers")
    groups = section.whole("groups", 1, 1, 1 << 16)
    group = section.whole("group_id", 0, 0, groups - 1)
    if any(size[2] % groups for size in sizes):
        raise section.refusal(f"{groups} groups do not divide the channels of {sizes}", "groups")
    channels = sum(size[2] // groups for size in sizes)
    gives = (*sizes[0][:2], channels)
    return Layer(str(section), Route(groups, group), tuple(sources), sizes[0], gives)


def _upsample(section: Section, before: _Predecessors) -> Layer:
    section.allow("stride", "scale")
    kind = Upsample(section.whole("stride", 2, 1, 64), section.decimal("scale", 1))
    return _layer(section, before, kind, lambda size: (size[0] * kind.stride, size[1] * kind.stride, size[2]))


def _average_pool(section: Section, before: _Predecessors) -> Layer:
    section.allow()
    return _layer(section, before, AveragePool(), lambda size: (1, 1, size[2]))


def _softmax(section: Section, before: _Predecessors) -> Layer:
    section.allow("groups", "temperature")
    section.whole("groups", 1, 1, 1)
    if section.decimal("temperature", 1) != 1:
        raise section.refusal("only a temperature of 1 is supported", "temperature")
    return _layer(section, before, Softmax(), lambda size: size)


def _same(section: Section, before: _Predecessors) -> Layer:
    section.allow()
    return _layer(section, before, Same(), lambda size: size)


def _yolo(section: Section, before: _Predecessors) -> Layer:
    section.allow("mask", "anchors", "classes", "num", "scale_x_y", "new_coords")
    classes = section.whole("classes", 20, 1, 1 << 16)
    sides = section.decimals("anchors")
    anchors = list(zip(sides[::2], sides[1::2], strict=False))
    number_of_anchors = section.whole("num", 1, 1, 1000)
    if len(sides) != 2 * number_of_anchors or min(sides) <= 0:
        raise section.refusal(f"anchors must be {number_of_anchors} pairs of sides above 0 (num)", "anchors")
    mask = section.wholes("mask") if "mask" in section.options else list(range(number_of_anchors))
    if any(not 0 <= anchor < number_of_anchors for anchor in mask):
        raise section.refusal(f"mask may only name anchors from 0 to {number_of_anchors - 1}", "mask")
    number, takes = before.last(section)
    if takes[2] != len(mask) * (5 + classes):
        raise section.refusal(
            f"the layer before it gives {takes[2]} channels, not {len(mask)} x (5 + {classes} classes)"
        )
    kind = Yolo(
        tuple(anchors[anchor] for anchor in mask),
        classes,
        section.decimal("scale_x_y", 1),
        section.flag("new_coords"),
    )
    return Layer(str(section), kind, (number,), takes, takes)


_KINDS: Final[dict[str, Callable[[Section, _Predecessors], Layer]]] = {
    "convolutional": _convolution,
    "shortcut": _shortcut,
    "route": _route,
    "upsample": _upsample,
    "maxpool": _max_pool,
    "avgpool": _average_pool,
    "dropout": _same,
    "softmax": _softmax,
    "cost": _same,
    "yolo": _yolo,
}
