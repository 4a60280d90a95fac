"""What an ONNX file's graph says before it runs: how it ends, and what its weights are stored in.

Owns the reading of those two, from the bytes: ONNX Runtime shows neither. Reports nothing for a file that it
does not understand: whether it is sound is for ONNX Runtime to say.
"""

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from model_server.engines import protobuf
from model_server.engines.check import final_operation
from model_server.engines.check.final_operation import Ending
from model_server.engines.protobuf import Content, Field

# Numbers of the fields in onnx.proto.
_MODEL_GRAPH: Final = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION = 1, 2, 4
_TENSOR_KIND: Final = 2

_HALVES: Final = {10: "fp16", 16: "bf16"}
"""TensorProto.DataType of numbers of 16 bits."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What is known of a graph."""

    own_precision: str = "fp32"
    """What its weights are stored in: numbers that the file rounds can't be compared more closely."""
    nodes: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """An output's name -> the operation that gives it, and the names of that one's inputs."""

    def ending(self, output: str) -> Ending:
        """How the graph behind an output ends."""
        return final_operation.of_onnx(self.nodes, output)


def read(path: Path) -> GraphFacts:
    """The facts of a file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for part in protobuf.fields(content, 0, len(content)):
                if part.number == _MODEL_GRAPH:
                    return _of_graph(content, part)
    except (OSError, ValueError, IndexError):
        pass
    return GraphFacts()


def _of_graph(content: Content, graph: Field) -> GraphFacts:
    nodes: dict[str, tuple[str, list[str]]] = {}
    own = "fp32"
    for part in protobuf.fields(content, graph.at, graph.end):
        if part.number == _GRAPH_NODE:
            operation, inputs, outputs = _node(content, part)
            nodes |= dict.fromkeys(outputs, (operation, inputs))
        if part.number == _GRAPH_INITIALIZER:
            kinds = (
                each.value
                for each in protobuf.fields(content, part.at, part.end)
                if each.number == _TENSOR_KIND
            )
            own = _HALVES.get(next(kinds, 0), own)
    return GraphFacts(own, nodes)


def _node(content: Content, node: Field) -> tuple[str, list[str], list[str]]:
    """A node's operation, its inputs and its outputs."""
    operation, inputs, outputs = "", [], []
    for part in protobuf.fields(content, node.at, node.end):
        name = protobuf.text(content, part).decode() if part.number <= _NODE_OPERATION else ""
        match part.number:
            case 1:
                inputs.append(name)
            case 2:
                outputs.append(name)
            case 4:
                operation = name
    return operation, inputs, outputs
