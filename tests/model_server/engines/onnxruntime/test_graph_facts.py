"""What an ONNX file's bytes say of its graph, and that bytes of anything else say nothing."""

from pathlib import Path

import numpy as np
import pytest

from model_server.engines.onnxruntime import graph_facts
from model_server.engines.onnxruntime.graph_facts import GraphFacts
from tests.model_server.engines import onnx_file


def facts(folder: Path, *last: tuple[str, list[str]], kind: str = "float32") -> GraphFacts:
    """Of a graph of one product and what follows it; each node gives `n` and its number."""
    nodes = [onnx_file.node("MatMul", ["picture", "weights"], "n0")]
    nodes += [onnx_file.node(each, inputs, f"n{at}") for at, (each, inputs) in enumerate(last, 1)]
    content = onnx_file.model(
        nodes,
        [onnx_file.value("picture", ("n", 3))],
        [onnx_file.value(f"n{len(last)}", ("n", 3))],
        [onnx_file.constant("weights", np.zeros((3, 3), kind))],
    )
    (folder / "net.onnx").write_bytes(content + onnx_file.metadata({"stride": "32"}))
    return graph_facts.read(folder / "net.onnx")


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        ([], "logits"),
        ([("Softmax", ["n0"])], "probabilities"),
        ([("Sigmoid", ["n0"]), ("Reshape", ["n1", "shape"]), ("Cast", ["n2"])], "independent"),
        ([("Flatten", ["n0"])], "logits"),
        ([("Relu", ["n0"])], "unknown"),
        ([("Sigmoid", ["n0"]), ("Sigmoid", ["n0"]), ("Concat", ["n1", "n2"])], "independent"),
        ([("Sigmoid", ["n0"]), ("Concat", ["n1", "n0"])], "unknown"),
    ],
)
def test_how_it_ends(tmp_path: Path, last: list[tuple[str, list[str]]], ending: str) -> None:
    assert facts(tmp_path, *last).ending(f"n{len(last)}") == ending


@pytest.mark.parametrize(("kind", "precision"), [("float32", "fp32"), ("float16", "fp16")])
def test_what_its_weights_are_stored_in(tmp_path: Path, kind: str, precision: str) -> None:
    assert facts(tmp_path, kind=kind).own_precision == precision


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x3a\xff\xff\x7f", b"\x3a\x02\x0a\x05"])
def test_of_other_bytes_nothing_is_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    assert graph_facts.read(tmp_path / "net.onnx").ending("n0") == "unknown"
    assert graph_facts.read(tmp_path / "none").own_precision == "fp32"
