"""Whether a network ends in probabilities, judged by its last operation.

Owns which operations those are, in OpenVINO's graphs, Keras' and ONNX's. Loads none of them and runs nothing.
The numbers alone don't show it: the logits of several hard yes-or-no questions can lie near 0.4 for every
image.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

Ending = Literal["probabilities", "independent", "logits", "unknown"]
"""`independent`: each number is a probability of its own, and they need not add up to 1."""

_PROBABILITIES: Final[dict[str, Ending]] = {"Softmax": "probabilities", "Sigmoid": "independent"}
"""The names in all three; Keras' layers also have a function, named in lower case."""

_LINEAR: Final = ("MatMul", "Add", "Convolution", "Dense", "Conv2D", "Gemm", "Conv")
"""Operations that give numbers of any size."""

_PASSED: Final = (
    *("Result", "Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "FakeQuantize"),
    *("Flatten", "Dropout", "Identity", "Activation", "Cast", "QuantizeLinear", "DequantizeLinear"),
)
"""Operations that only move, cast or round: the one before them counts. (Keras' Activation: a linear one.)"""

_JOINED: Final = ("Concat", "Concatenate")
"""Operations that join several heads: the heads count if they end alike."""


def of_graph(node: Any) -> Ending:  # noqa: ANN401 - an openvino.Node
    """How the graph behind the first output of an OpenVINO node ends; `node` may be a Result."""
    kind = node.get_type_name()
    if kind in _PROBABILITIES:
        return _PROBABILITIES[kind]
    if kind in _LINEAR:
        return "logits"
    if kind in _PASSED:
        return of_graph(node.input_value(0).get_node())
    heads = (of_graph(value.get_node()) for value in node.input_values())
    return _alike(heads) if kind in _JOINED else "unknown"


def of_keras(tensor: Any) -> Ending:  # noqa: ANN401 - a keras.KerasTensor
    """How the Keras network behind a symbolic tensor, one of its `outputs`, ends."""
    operation, call, at = tensor._keras_history
    if hasattr(operation, "outputs"):  # a network within the network
        return of_keras(operation.outputs[at])
    kind = type(operation).__name__
    activation = getattr(operation, "activation", None)
    function = "linear" if activation is None else getattr(activation, "__name__", type(activation).__name__)
    if (ending := _PROBABILITIES.get(kind) or _PROBABILITIES.get(function.capitalize())) is not None:
        return ending
    if function != "linear":
        return "unknown"
    if kind in _LINEAR:
        return "logits"
    inputs = operation._inbound_nodes[call].input_tensors
    return _alike(map(of_keras, inputs)) if kind in (*_PASSED, *_JOINED) else "unknown"


def of_onnx(nodes: Mapping[str, tuple[str, Sequence[str]]], output: str) -> Ending:
    """How an ONNX graph ends behind an output; `nodes`: its operation and inputs, by what each gives."""
    kind, inputs = nodes.get(output, ("", ()))
    if kind in _PROBABILITIES:
        return _PROBABILITIES[kind]
    if kind in _LINEAR:
        return "logits"
    if kind in _PASSED and inputs:
        return of_onnx(nodes, inputs[0])
    return _alike(of_onnx(nodes, each) for each in inputs) if kind in _JOINED else "unknown"


def _alike(endings: Iterable[Ending]) -> Ending:
    distinct = set(endings)
    return distinct.pop() if len(distinct) == 1 else "unknown"
