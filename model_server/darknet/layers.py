"""The kinds of layers of a Darknet network, and a network of them.

Owns the types only: network.py reads them from a cfg, keras_model.py builds them.
"""

from dataclasses import dataclass
from typing import Final

ACTIVATIONS: Final = ("linear", "leaky", "relu", "relu6", "mish", "swish", "logistic")

Size = tuple[int, int, int]
"""Height, width, channels."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """Darknet's [convolutional]; `before` is the padding on each side."""

    filters: int
    size: int
    stride: int
    before: int
    groups: int
    activation: str
    normalised: bool


@dataclass(frozen=True, slots=True)
class MaxPool:
    """[maxpool]. Padding is below every number; `before` is the smaller half of it, as in Darknet."""

    size: int
    stride: int
    before: int


@dataclass(frozen=True, slots=True)
class Shortcut:
    """[shortcut]: the sum of its sources."""

    activation: str


@dataclass(frozen=True, slots=True)
class Route:
    """[route]: its sources concatenated along the channels, or one group of each."""

    groups: int
    group: int


@dataclass(frozen=True, slots=True)
class Upsample:
    """[upsample]: each pixel repeated `stride` times each way, multiplied by `scale`."""

    stride: int
    scale: float


@dataclass(frozen=True, slots=True)
class AveragePool:
    """[avgpool]: the mean of each channel."""


@dataclass(frozen=True, slots=True)
class Softmax:
    """[softmax] over all its inputs."""


@dataclass(frozen=True, slots=True)
class Same:
    """[dropout] and [cost], which do nothing once a network is trained."""


@dataclass(frozen=True, slots=True)
class Yolo:
    """[yolo]: reads the convolution before it as boxes, one for each cell and anchor."""

    anchors: tuple[tuple[float, float], ...]
    """Width and height in pixels of the input, of the mask's anchors only."""
    classes: int
    scale: float
    """How far a centre may lie outside its cell (scale_x_y)."""
    is_new: bool
    """new_coords of Scaled-YOLOv4: the convolution before it was logistic, and sides are squares."""


Kind = Convolution | MaxPool | Shortcut | Route | Upsample | AveragePool | Softmax | Same | Yolo


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with its inputs and its output."""

    name: str
    """Its name in messages."""
    kind: Kind
    sources: tuple[int, ...]
    """The numbers of its input layers; -1 is the image."""
    takes: Size
    """The size of its first input."""
    gives: Size
    """The size of its output."""


@dataclass(frozen=True, slots=True)
class Network:
    """The layers, in Darknet's order and numbering."""

    input: Size
    layers: tuple[Layer, ...]

    @property
    def detectors(self) -> list[Layer]:
        """The [yolo] layers, in order."""
        return [layer for layer in self.layers if isinstance(layer.kind, Yolo)]
