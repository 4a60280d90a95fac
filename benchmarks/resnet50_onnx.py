"""`python -m benchmarks.resnet50_onnx FOLDER`: Keras' ResNet50 with random weights as a model in ONNX.

Owns the translation of that network's kinds of layers, so that engines of Keras and of ONNX files are
measured on the same network with the same numbers. Reads no settings.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import read_model
from model_server.engines.keras import sources
from model_server.engines.onnxruntime import onnx_writer
from model_server.engines.onnxruntime.onnx_writer import attribute

_ROOT: Final = Path(__file__).resolve().parent.parent
_SOURCE: Final = '[source]\nkind = "onnx"\nfile = "net.onnx"\n\n[input]\n'


class _Graph:
    """The network's nodes; each tensor of Keras has a name here."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []

    def add(self, operation: str, inputs: list[str], *attributes: bytes) -> str:
        """Add a node; return its output's name."""
        name = f"{operation} {len(self.nodes)}"
        self.nodes.append(onnx_writer.node(operation, inputs, name, *attributes))
        return name

    def constant(self, content: Any) -> str:  # noqa: ANN401 - numbers, in an array or not
        """Add an array; return its name."""
        name = f"constant {len(self.constants)}"
        array: NDArray[Any] = np.ascontiguousarray(content)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(onnx_writer.constant(name, array))
        return name

    def layer(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401 - a keras.Layer
        """Add a layer, with its activation. Raises NotImplementedError for one that ResNet50 lacks."""
        kind = type(layer).__name__
        add = getattr(self, f"_{kind.lower()}", None)
        if add is None:
            raise NotImplementedError(f"a layer {kind}")
        name = add(layer, inputs)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        return name if activation == "linear" else self.add(activation.capitalize(), [name])

    def _zeropadding2d(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        (top, bottom), (left, right) = layer.padding
        pads = self.constant([0, 0, top, left, 0, 0, bottom, right])
        return self.add("Pad", [*inputs, pads])

    def _conv2d(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        kernel, bias = layer.get_weights()
        weights = [self.constant(kernel.transpose(3, 2, 0, 1)), self.constant(bias)]
        return self.add(
            "Conv", [*inputs, *weights], *_window(layer.strides, layer.kernel_size, layer.padding)
        )

    def _batchnormalization(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        gamma, beta, mean, variance = (each.astype(np.float64) for each in layer.get_weights())
        scale = gamma / np.sqrt(variance + layer.epsilon)
        product = self.add("Mul", [*inputs, self.constant(scale.reshape(-1, 1, 1))])
        return self.add("Add", [product, self.constant((beta - mean * scale).reshape(-1, 1, 1))])

    def _maxpooling2d(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        return self.add("MaxPool", inputs, *_window(layer.strides, layer.pool_size, layer.padding))

    def _globalaveragepooling2d(self, _layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        return self.add("Flatten", [self.add("GlobalAveragePool", inputs)])

    def _add(self, _layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        return self.add("Add", inputs)

    def _activation(self, _layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        return inputs[0]

    def _dense(self, layer: Any, inputs: list[str]) -> str:  # noqa: ANN401
        kernel, bias = layer.get_weights()
        return self.add("Add", [self.add("MatMul", [*inputs, self.constant(kernel)]), self.constant(bias)])


def _window(strides: Any, size: Any, padding: str) -> list[bytes]:  # noqa: ANN401
    edges = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
    return [
        attribute("strides", list(strides)),
        attribute("kernel_shape", list(size)),
        attribute("auto_pad", edges),
    ]


def content(model: Any) -> bytes:  # noqa: ANN401 - a keras.Model
    """The file of a Keras network that takes (N, height, width, channels)."""
    graph = _Graph()
    pictures, (result,) = model.inputs[0], model.outputs
    nodes = [onnx_writer.node("Transpose", ["picture"], "first", attribute("perm", [0, 3, 1, 2]))]
    graph.nodes += nodes
    names = {id(pictures): "first"}
    for layer in model.layers:
        if type(layer).__name__ != "InputLayer":
            (node,) = layer._inbound_nodes
            inputs = [names[id(each)] for each in node.input_tensors]
            names[id(node.output_tensors[0])] = graph.layer(layer, inputs)
    graph.nodes.append(onnx_writer.node("Identity", [names[id(result)]], "result"))
    taken = onnx_writer.value("picture", "float32", pictures.shape[1:])
    given = onnx_writer.value("result", "float32", result.shape[1:])
    return onnx_writer.model(graph.nodes, graph.constants, taken, given)


def write(folder: Path, weights: str = "random") -> None:
    """Write the model's folder: models/resnet50 with the ONNX file as its source."""
    spec = read_model(_ROOT / "models", "resnet50", weights=weights)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.onnx").write_bytes(content(sources.build(spec)))
    shutil.copy(spec.folder / "labels.csv", folder)
    toml = (spec.folder / "model.toml").read_text("utf-8")
    before, _, rest = toml.partition("[source]")
    (folder / "model.toml").write_text(before + _SOURCE + rest.partition("[input]\n")[2])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
