"""Networks in int8, wholly or in part, by NNCF: how they are made, and which parts cost most.

Owns the only use of NNCF, and the changes to graphs around it. It judges no network: quantise.py does. Loads
NNCF, which the default install lacks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_server.engines.openvino import runtime

_PASSES_ON: Final = (
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "MaxPool", "Concat", "Split", "VariadicSplit", "Slice"),
    *("StridedSlice", "ReverseSequence", "ReduceMax", "Pad", "ShapeOf", "Convert"),
)
"""Operations that only move numbers, or choose among them: those behind them compute in int8."""

_RANKED_ON: Final = 16
"""Pictures that rank the parts: their outputs' mean distance from fp32 differs by orders of magnitude."""


@dataclass(frozen=True, slots=True)
class QuantisedPart:
    """Numbers that are rounded to 8 bits at one place, and the operations that compute with them."""

    rounding: str
    """The name of the FakeQuantize in the int8 graph."""
    operations: tuple[str, ...]
    """Names in the float graph."""


def write(full: Path, int8: Path, pixels: NDArray[Any], *, floats: Sequence[str], narrow: bool) -> None:
    """Quantise after training, calibrated on `pixels`; the operations named in `floats` stay in float.

    `narrow`: weights of 7 bits. The sum of two products then fits 16 bits, all that CPUs without VNNI have.
    """
    # NNCF imports openvino: runtime.py, imported above, blocks the telemetry of both.
    import nncf  # noqa: PLC0415 - not part of the default install

    graph = runtime.core().read_model(full)
    join_gelus(graph)
    # NNCF's own choice narrows the first layer only, on every processor.
    fix = nncf.OverflowFix.ENABLE if narrow else nncf.OverflowFix.DISABLE
    quantised = nncf.quantize(
        graph,
        nncf.Dataset([picture[None] for picture in pixels]),
        subset_size=len(pixels),
        ignored_scope=nncf.IgnoredScope(names=list(floats), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )
    runtime.save_model(quantised, int8, compress_to_fp16=True)


def join_gelus(graph: Any) -> None:  # noqa: ANN401 - an openvino.Model
    """Replace Keras' GELU, 0.5 x (1 - erf(-x / sqrt 2)), by the one operation.

    NNCF knows the operation, but would round the numbers between the parts.
    """
    for erf in [node for node in graph.get_ordered_ops() if node.get_type_name() == "Erf"]:
        scaled = _other_than(erf.input_value(0), "Multiply", 0.5**0.5)
        negative = scaled and scaled.get_node()
        if not negative or negative.get_type_name() != "Negative":
            continue
        value = negative.input_value(0)
        for difference in _takers(erf, "Subtract"):
            if _constant(difference.input_value(0)) != 1:
                continue
            for product in _takers(difference, "Multiply"):
                sides = list(product.input_values())
                if not any(_is_same(_other_than(side, "Multiply", 0.5), value) for side in sides):
                    continue
                gelu = runtime.operations().gelu(value, "erf")
                gelu.set_friendly_name(product.get_friendly_name())
                for taker in product.output(0).get_target_inputs():
                    taker.replace_source_output(gelu.output(0))


def parts(int8: Path) -> list[QuantisedPart]:
    """The parts of an int8 graph that compute in integers, in the order of computation."""
    graph = runtime.core().read_model(int8)
    roundings = [node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    return [QuantisedPart(node.get_friendly_name(), tuple(sorted(_computing(node)))) for node in roundings]


def rank(
    full: Path, int8: Path, pixels: NDArray[Any], *, until: float, progress: Callable[[str], None]
) -> Iterator[tuple[float, QuantisedPart]]:
    """What each part costs on its own: the outputs' mean distance from fp32 if it alone is rounded.

    Each alone, not each left out: where two parts spoil an answer, leaving out one changes nothing. (NNCF's
    own search put all of photos10 back into float that way.) Parts that are not tried by `until`, of
    time.monotonic(), are left out.
    """
    some = pixels[:_RANKED_ON]
    right = _outputs(runtime.core().read_model(full), some)
    every = parts(int8)
    said = time.monotonic()
    for number, part in enumerate(every):
        if time.monotonic() > until:
            progress(f"{number} of {len(every)} parts tried alone; the time is up.")
            return
        graph = runtime.core().read_model(int8)
        _unround(graph, {other.rounding for other in every} - {part.rounding})
        yield float(np.abs(_outputs(graph, some) - right).sum(axis=1).mean()), part
        if time.monotonic() > said + 10:
            said = time.monotonic()
            progress(f"{number + 1} of {len(every)} parts tried alone.")


def _unround(graph: Any, names: set[str]) -> None:  # noqa: ANN401
    for node in graph.get_ops():
        if node.get_type_name() == "FakeQuantize" and node.get_friendly_name() in names:
            for taker in node.output(0).get_target_inputs():
                taker.replace_source_output(node.input_value(0))


def _outputs(graph: Any, pixels: NDArray[Any]) -> NDArray[np.float32]:  # noqa: ANN401
    run = runtime.compile_for_cpu(graph, "int8")
    batch = run.input(0).partial_shape[0]
    chunk = len(pixels) if batch.is_dynamic else batch.get_length()
    answers = [
        next(iter(run([pixels[at : at + chunk]]).values())).copy() for at in range(0, len(pixels), chunk)
    ]
    return np.concatenate(answers)


def _computing(node: Any) -> set[str]:  # noqa: ANN401
    """The names of the operations that compute with a node's numbers."""
    names: set[str] = set()
    for taker in node.output(0).get_target_inputs():
        operation = taker.get_node()
        if operation.get_type_name() in _PASSES_ON:
            names |= _computing(operation)
        elif operation.get_type_name() not in ("Result", "FakeQuantize"):
            names.add(operation.get_friendly_name())
    return names


def _takers(node: Any, kind: str) -> list[Any]:  # noqa: ANN401
    """The operations of that kind that take a node's output."""
    takers = [taker.get_node() for taker in node.output(0).get_target_inputs()]
    return [taker for taker in takers if taker.get_type_name() == kind]


def _other_than(output: Any, kind: str, number: float) -> Any:  # noqa: ANN401
    """The other input of an operation of that kind, of which one input is the number; else None."""
    node = output.get_node()
    if node.get_type_name() != kind:
        return None
    for mine, other in ((0, 1), (1, 0)):
        found = _constant(node.input_value(mine))
        if found is not None and abs(found - number) < 1e-4:
            return node.input_value(other)
    return None


def _is_same(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Whether two outputs are the same one of the same node, whose name in a graph is its own."""
    if one is None:
        return False
    return bool(
        one.get_node().get_name() == other.get_node().get_name() and one.get_index() == other.get_index()
    )


def _constant(output: Any) -> float | None:  # noqa: ANN401
    """The one number that a constant holds; None if it holds several, or is none."""
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    numbers = np.asarray(node.get_data(), np.float64).reshape(-1)
    return float(numbers[0]) if numbers.size and (numbers == numbers[0]).all() else None
