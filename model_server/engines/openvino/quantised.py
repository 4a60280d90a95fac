"""Networks whose file is quantised: what their integers stand for, and how to recognise such a file.

Owns the reading of FakeQuantize, in which OpenVINO stores a quantisation. Runs nothing.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import FrozenGraph, Onnx, Paddle, TFLite
from model_server.engines.openvino import runtime

_MARKS: Final[dict[type, bytes]] = {
    Onnx: b"QuantizeLinear",
    FrozenGraph: b"FakeQuantWithMinMax",
    Paddle: b"quantize_linear",
}
"""Names of operations, as in the file, that only a quantised network has."""


_NEAR: Final = 0.25
"""Both ends agree within this share of a quantised input's span: no warning."""

_MOST: Final = 10
"""How many times the input's span an image's numbers may cover: a file that was calibrated with dim images
clips brighter ones, by design. 0 to 255 for -2.1 to 2.6 is 54 times."""

_LEAST: Final = 0.6
"""The share of the input's span that an image's numbers must cover: calibration saw all of it, except for a
resampling's overshoot, a tenth. 0 to 1 for -1 to 1 is 0.5, and -1 to 1 for ImageNet's mean and deviation
0.42."""

_LEAST_OF_SYMMETRIC: Final = 0.25
"""The same share if zero is in the middle: half of the span may be unused (0 to 1 as -1 to 1)."""

_NEGATIVE: Final = (0.1, 0.25)
"""The share below zero of the input's span, and of an image's numbers: if the first is less and the second
more, the signs disagree. No images are so bright that every pixel is above the middle."""

Fit = Literal["right", "doubtful", "wrong"]


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The numbers that a quantised input's integers stand for: number = (integer - zero) * step."""

    step: float
    zero: float
    low: int
    high: int

    def __str__(self) -> str:
        return f"from {self._number(self.low):.4g} to {self._number(self.high):.4g}"

    def integers(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        """The integers that the network takes for these numbers."""
        return np.asarray(np.clip(np.rint(numbers / self.step + self.zero), self.low, self.high), np.float64)

    def is_identity(self, numbers: NDArray[np.float32]) -> bool:
        """Whether 0 to 255, normalised to `numbers` (in the third axis), becomes the same bytes again."""
        bytes_ = np.arange(256)[:, None]
        return bool(np.abs(self.integers(numbers) - bytes_).max() <= 1)

    def fits(self, least: float, most: float) -> Fit:
        """Whether the input was made for a normalisation that turns 0 and 255 into `least` and `most`.

        It is doubtful if calibration with too few images, or a symmetric range, may explain the difference.
        """
        low, high = self._number(self.low), self._number(self.high)
        span, width = high - low, most - least
        covered = (min(high, most) - max(low, least)) / span
        symmetric = abs(self.zero - (self.low + self.high + 1) / 2) < 0.01
        another_sign = -low < _NEGATIVE[0] * span and -least > _NEGATIVE[1] * width
        required = _LEAST_OF_SYMMETRIC if symmetric else _LEAST
        if width > _MOST * span or covered < required or another_sign:
            return "wrong"
        return "right" if max(abs(least - low), abs(most - high)) <= _NEAR * span else "doubtful"

    def _number(self, integer: int) -> float:
        return (integer - self.zero) * self.step


def is_quantised(spec: ModelSpec) -> bool:
    """Whether the file itself is quantised; then `auto` means int8, not 16 bits."""
    source = spec.source
    if isinstance(source, TFLite):
        return _has_quantisation(spec.folder / source.file)
    mark = _MARKS.get(type(source))
    path = spec.folder / getattr(source, "file", "")
    if mark is None or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(mark) >= 0


def _has_quantisation(path: Path) -> bool:
    """Whether a TensorFlow Lite graph is quantised: its file has scales, but no names (0.2 s for 4 MB)."""
    try:
        model = runtime.read("tflite", path)
    except RuntimeError:
        return False  # importing will report why it can't be read
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def input_quantisation(model: Any) -> Quantisation | None:  # noqa: ANN401
    """The quantisation of a network's input; None if it takes real numbers, or integers as they are."""
    bounds = {"u8": (0, 255), "i8": (-128, 127)}.get(model.input(0).element_type.get_type_name())
    node = _after(model.get_parameters()[0], "FakeQuantize")
    if bounds is None or node is None:
        return None
    low, high, real_low, real_high = (_constant(node, number) for number in (1, 2, 3, 4))
    step = (real_high - real_low) / (high - low)
    return Quantisation(step, low - real_low / step, *bounds)


def calibrated_input(model: Any) -> Quantisation | None:  # noqa: ANN401
    """The range that an input of real numbers is rounded to at once, as calibration set it; else None."""
    node = _after(model.get_parameters()[0], "FakeQuantize")
    if node is None or not model.input(0).element_type.is_real():
        return None
    if any(node.input_value(number).get_node().get_type_name() != "Constant" for number in (1, 2)):
        return None
    low, high = _constant(node, 1), _constant(node, 2)
    step = (high - low) / 255
    return Quantisation(step, -128 - low / step, -128, 127) if step > 0 else None


def _after(node: Any, kind: str) -> Any:  # noqa: ANN401
    """The next node, if it is of `kind`, skipping nodes that only move or cast; else None."""
    while True:
        followers = [target.get_node() for target in node.output(0).get_target_inputs()]
        if len(followers) != 1:
            return None
        node = followers[0]
        if node.get_type_name() == kind:
            return node
        if node.get_type_name() not in ("Transpose", "Convert", "Reshape"):
            return None


def with_outputs_in_numbers(model: Any) -> Any:  # noqa: ANN401
    """The graph without a quantised graph's last step, which rounds each output to a byte."""
    outputs = [_before_rounding(result).input_value(0) for result in model.get_results()]
    return runtime.Model(outputs, model.get_parameters(), model.get_friendly_name())


def _before_rounding(result: Any) -> Any:  # noqa: ANN401
    """The node whose input is the result's value before rounding."""
    cast = result.input_value(0).get_node()
    if cast.get_type_name() != "Convert" or not result.get_output_element_type(0).is_integral():
        return result
    rounded = cast.input_value(0).get_node()
    return rounded if rounded.get_type_name() == "FakeQuantize" else result


def _constant(node: Any, number: int) -> float:  # noqa: ANN401
    values: NDArray[np.float64] = np.asarray(node.input_value(number).get_node().get_data(), np.float64)
    return float(values.reshape(-1)[0])
