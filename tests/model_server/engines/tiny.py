"""A network of OpenVINO's own operations, so that tests need neither Keras nor a conversion."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import KerasFile, Label, ModelSpec
from model_server.engines.check.agreement import Reference
from model_server.engines.openvino import runtime, store
from model_server.tasks import TASKS
from tests.support.fakes import SPEC

# After openvino_runtime, which blocks its telemetry.
from openvino import Model, opset13  # isort: skip

WEIGHTS = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)


def spec(folder: Path) -> ModelSpec:
    """A model of 2 x 2 grey pictures and three classes; its file of weights says `weights`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.keras").write_bytes(b"weights")
    labels = tuple(Label(str(each), name) for each, name in enumerate(("dark", "grey", "bright")))
    source = KerasFile("tiny.keras")
    return ModelSpec("tiny", folder, TASKS["classification"], source, SPEC, "unit", labels, top=2)


def expected(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network gives, by NumPy."""
    logits = batch.reshape(len(batch), 4).astype(np.float32) / 255 @ WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return result


def write(folder: Path, *, wrong: float = 0.0) -> None:
    """Put the network and its reference into an entry's folder; `wrong` spoils the network."""
    picture = opset13.parameter([-1, 2, 2, 1], np.uint8, name="picture")
    flat = opset13.reshape(opset13.convert(picture, "f32"), np.array([-1, 4]), special_zero=False)
    weights = (WEIGHTS + wrong * np.array([1, 0, 0], np.float32)) / np.float32(255)
    logits = opset13.matmul(flat, weights, transpose_a=False, transpose_b=False)
    graph = Model([opset13.softmax(logits, 1)], [picture], "tiny")
    runtime.save_model(graph, folder / "network.xml", compress_to_fp16=False)
    pictures = np.random.default_rng(3).integers(0, 256, (10, 2, 2, 1), dtype=np.uint8)
    store.write_reference(folder, Reference(pictures, (expected(pictures),)))
