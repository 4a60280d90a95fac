"""Checks that an engine computes what plain Keras computes (or an imported network in fp32).

Owns the messages of a refusal, and the measures and tolerances of probabilities of which one is the answer.
The model's task says by which measures it is judged. Runs no network itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.engines.engine import OutputNames

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.check.final_operation import Ending
    from model_server.engines.engine import Outputs

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """The correct `outputs`, in float32, for `pictures`, uint8 (N, height, width, channels)."""

    pictures: NDArray[np.uint8]
    outputs: Outputs
    names: OutputNames = field(default_factory=OutputNames)
    precision: str = "fp32"
    """What the network's own file computes in: numbers that it rounds can't be compared more closely."""

    def judged_in(self, precision: str) -> str:
        """The precision whose tolerance applies to an engine in `precision`."""
        return self.precision if precision == "fp32" else precision


class Verdict(Protocol):
    """The result of a comparison; as a text, the figures and what is allowed."""

    @property
    def agrees(self) -> bool:
        """Whether the engine may serve."""
        ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an engine may be from the reference, in shares, so that any number of classes can be judged."""

    peak: float
    """The largest difference of an output, as a share of the image's largest output (often near 1)."""
    log: float
    """The largest difference of a log-probability, as a share of their range over the classes, for the image
    where that range is largest. A confident network hides much from the first measure: its probabilities are
    0 and 1 whatever its logits. Each image's own range would not do: with three classes a network is often
    unsure (a range of 1.1 for one image, 8 for another), and a sound one in 16 bits was off by 0.017 of
    it."""


TOLERANCES: Final = {
    # Measured (peak, log) on OpenVINO: digits 8e-8 and 2e-7, ResNet50 with random weights 2e-7 and 5e-7.
    "fp32": Tolerance(0.001, 0.001),
    # bf16: digits 4e-4 and 9e-4, photos10 0.012 and 0.003, three classes retrained from it 0.001 and 0.002,
    # ResNet50 6e-4 and 0.0021. The faults to detect are far off: channels in the wrong order give 0.025 in
    # the second on that ResNet50, 0.2 on photos10; a forgotten normalisation 0.35 and more.
    "bf16": Tolerance(0.1, 0.015),
    "fp16": Tolerance(0.1, 0.015),
    # int8 is compared with its own outputs from when it was made. The user's images decided then whether it
    # is good enough (quantise.py); this detects a processor or a version that computes something else.
    "int8": Tolerance(0.3, 0.1),
}

RULES: Final = 5
"""Increased when new rules may refuse a converted network: part of its entry's name (conversion.py)."""

_SLACK: Final = 0.01
"""How far outside 0..1 a probability may lie: quantised networks round."""

_SUM_SLACK: Final = 0.01
"""How far from 1 the sum of an image's probabilities may be: int8 networks round them."""

_LEAST_PROBABILITY: Final = 1e-30
"""Logarithms of smaller probabilities are not compared; float32 itself ends at 1e-38."""


@dataclass(frozen=True, slots=True)
class AgreementVerdict:
    """The result of a comparison, for the worst of all images (see Tolerance), and what is allowed."""

    pictures: int
    same_top1: int
    """How many images have the same best class. A lead within the tolerance is a tie: either is right."""
    peak: float
    log: float
    tolerance: Tolerance

    @property
    def agrees(self) -> bool:
        """Whether the engine may serve. A difference of NaN is too large."""
        near = self.peak <= self.tolerance.peak and self.log <= self.tolerance.log
        return near and self.same_top1 == self.pictures

    def __str__(self) -> str:
        return (
            f"same top-1 on {self.same_top1} of {self.pictures} pictures; largest difference "
            f"{self.peak:.2g} of the peak (at most {self.tolerance.peak:g}), "
            f"{self.log:.2g} of the log-probabilities' range (at most {self.tolerance.log:g})"
        )


def compare(reference: Outputs, outputs: Outputs, tolerance: Tolerance) -> AgreementVerdict:
    """Compare outputs, each float32 with the images as first axis. Raises ValueError if the shapes differ."""
    shapes = [[output.shape for output in side] for side in (reference, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the outputs' shapes are {shapes[1]}, but should be {shapes[0]}")
    rows = len(reference[0])
    flat = [
        (right.reshape(rows, -1).astype(np.float64), actual.reshape(rows, -1).astype(np.float64))
        for right, actual in zip(reference, outputs, strict=True)
    ]
    return AgreementVerdict(
        pictures=rows,
        same_top1=_same_top1(*flat[0], tie=tolerance.peak),
        # NumPy's maximum, because that of a number and NaN is NaN.
        peak=float(np.max([_peak(*pair) for pair in flat])),
        log=float(np.max([_log(*pair) for pair in flat])),
        tolerance=tolerance,
    )


def require(
    spec: ModelSpec,
    engine: str,
    precision: str,
    reference: Reference,
    predict: Callable[[NDArray[np.uint8]], Outputs],
) -> Verdict:
    """Run the reference's images. Raises ModelUnavailable, with the verdict, if the outputs disagree."""
    try:
        verdict = spec.task.compare(
            spec, reference.outputs, predict(reference.pictures), reference.judged_in(precision)
        )
        if verdict.agrees:
            return verdict
        reason = str(verdict)
    except ValueError as error:
        reason = str(error)
    right = "its file does in fp32" if spec.is_imported else "plain Keras does"
    if spec.is_torch:
        right = "PyTorch does in fp32"
    has_one_engine = spec.is_imported and not spec.is_torch and not spec.is_onnx
    other = "PRECISION" if has_one_engine else "PRECISION or ENGINE"
    raise ModelUnavailable(
        f"{spec.name}: {engine} in {precision} does not compute what {right}, so it is not served "
        f"({reason}). Try another {other}."
    )


def is_of_second(spec: ModelSpec, shape: tuple[int, ...]) -> bool:
    """Whether an image's output of this shape is one number for two labels: the second's probability.

    Networks of two classes that were trained with binary cross-entropy end so. Raises ModelUnavailable if the
    activation in model.toml would turn every such number into 1.
    """
    if not spec.task.reads_one_as_two or len(spec.labels) != 2 or math.prod(shape) != 1:
        return False
    if spec.activation == "softmax":
        raise ModelUnavailable(
            f"{spec.name}: the network gives one number for a picture, and a softmax of one is always 1. If "
            'it ends in a logit, write activation = "sigmoid" in model.toml; otherwise leave the line out.'
        )
    return True


def require_finite(spec: ModelSpec, outputs: Outputs) -> None:
    """Raise ModelUnavailable if an output has numbers that are not finite."""
    if not all(np.isfinite(output).all() for output in outputs):
        raise ModelUnavailable(f"{spec.name}: {_NOT_FINITE}")


_NOT_FINITE: Final = (
    "the network gives NaN (not a number) for some pictures. Either its weights are wrong, or it was trained "
    "with another normalisation than normalise in model.toml."
)


def require_probabilities(spec: ModelSpec, outputs: NDArray[np.float32]) -> None:
    """Raise ModelUnavailable unless a classifier's outputs lie in 0..1."""
    if np.isnan(outputs).any():
        raise ModelUnavailable(f"{spec.name}: {_NOT_FINITE}")
    low, high = float(outputs.min()), float(outputs.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise ModelUnavailable(
            f"{spec.name}: the network gives numbers from {low:.3g} to {high:.3g}, not probabilities. If it "
            'ends in logits, say so in model.toml: [output] activation = "softmax" (or "sigmoid").'
        )


def require_logits(spec: ModelSpec, numbers: NDArray[np.float32], ends_in: Ending) -> None:
    """Raise ModelUnavailable if model.toml applies an activation to outputs that are probabilities already.

    After two softmaxes the best of a thousand classes has 0.0027 at most, the others 0.001. `numbers` is
    float32 (images, classes), for several different images: after a softmax they add up to 1 for each image.
    Only the graph can distinguish a sigmoid's outputs from small logits; if it does not, this only warns.
    """
    if spec.activation == "none":
        return
    wide = numbers.astype(np.float64)
    several_within = wide.shape[1] > 1 and bool(((wide >= 0) & (wide <= 1 + _SUM_SLACK)).all())
    add_up = bool((np.abs(wide.sum(axis=1) - 1) <= _SUM_SLACK).all())
    if ends_in in ("probabilities", "independent") or (
        several_within and add_up and spec.activation == "softmax"
    ):
        raise ModelUnavailable(
            f"{spec.name}: the network gives probabilities already, and activation = "
            f'"{spec.activation}" would make them nearly equal. Remove that line from [output] in model.toml.'
        )
    if ends_in == "unknown" and several_within and wide.any():
        _LOG.warning(
            "%s: the network gives numbers from 0 to 1 for all the pictures of the check. If they are "
            'probabilities already, remove activation = "%s" from [output] in model.toml.',
            spec.name,
            spec.activation,
        )


def _same_top1(right: NDArray[np.float64], actual: NDArray[np.float64], *, tie: float) -> int:
    rows = np.arange(len(right))
    lead = right.max(axis=1) - right[rows, actual.argmax(axis=1)]
    return int((lead <= tie * np.abs(right).max(axis=1)).sum())


def _peak(right: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    peaks = np.maximum(np.abs(right).max(axis=1), _LEAST_PROBABILITY)
    return float((np.abs(right - actual).max(axis=1) / peaks).max())


def _log(right: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """The difference of the log-probabilities; 0 if the outputs are not probabilities of several classes."""
    if right.shape[1] < 2 or right.min() < 0:
        return 0.0
    if not np.isfinite(actual).all():
        return np.inf
    logs = [np.log(np.maximum(side, _LEAST_PROBABILITY)) for side in (right, actual)]
    # Softmax loses a constant, the logits' mean; so does the comparison.
    logs = [side - side.mean(axis=1, keepdims=True) for side in logs]
    span = max(float(np.ptp(logs[0], axis=1).max()), 1.0)
    return float(np.abs(logs[0] - logs[1]).max() / span)
