"""Whether a network ends in probabilities, as its last operation tells.

Owns which operations those are, in OpenVINO's graphs and in Keras'. Loads neither and runs nothing. Numbers
alone do not tell: the logits of several hard questions, each answered by yes for 60 of 100 pictures, lie near
0.4 for every picture.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

Ending = Literal["probabilities", "logits", "unknown"]

_PROBABILITIES: Final = ("Softmax", "Sigmoid")
"""Both libraries' names; Keras' layers have a function besides, named in lower case."""

_LINEAR: Final = ("MatMul", "Add", "Convolution", "Dense", "Conv2D")
"""What gives numbers of any size."""

_PASSED: Final = (
    *("Result", "Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "FakeQuantize"),
    *("Flatten", "Dropout", "Identity", "Activation"),
)
"""What only moves, casts or rounds: what comes before it counts. (Keras' Activation: a linear one.)"""

_JOINED: Final = ("Concat", "Concatenate")
"""What joins several heads: they count if they are alike."""


def of_graph(node: Any) -> Ending:  # noqa: ANN401 - an openvino.Node
    """How a graph of OpenVINO's ends that gives a node's first output; `node` may be its Result."""
    kind = node.get_type_name()
    if kind in _PROBABILITIES:
        return "probabilities"
    if kind in _LINEAR:
        return "logits"
    if kind in _PASSED:
        return of_graph(node.input_value(0).get_node())
    return _alike(of_graph(each.get_node()) for each in node.input_values()) if kind in _JOINED else "unknown"


def of_keras(tensor: Any) -> Ending:  # noqa: ANN401 - a keras.KerasTensor
    """How a Keras network ends that gives a symbolic tensor, one of its `outputs`."""
    operation, call, at = tensor._keras_history
    if hasattr(operation, "outputs"):  # a network within the network
        return of_keras(operation.outputs[at])
    kind = type(operation).__name__
    activation = getattr(operation, "activation", None)
    function = "linear" if activation is None else getattr(activation, "__name__", type(activation).__name__)
    if kind in _PROBABILITIES or function.capitalize() in _PROBABILITIES:
        return "probabilities"
    if function != "linear":
        return "unknown"
    if kind in _LINEAR:
        return "logits"
    inputs = operation._inbound_nodes[call].input_tensors
    return _alike(map(of_keras, inputs)) if kind in (*_PASSED, *_JOINED) else "unknown"


def _alike(endings: Iterable[Ending]) -> Ending:
    found = set(endings)
    return found.pop() if len(found) == 1 else "unknown"
