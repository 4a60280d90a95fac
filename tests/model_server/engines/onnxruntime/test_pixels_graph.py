"""The graph in front of ONNX Runtime's networks, run by OpenVINO: the numbers are those of NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_server.engines.normalisation import ChannelNumbers
from model_server.engines.onnxruntime import pixels_graph
from model_server.engines.openvino import runtime

HEIGHT, WIDTH = 4, 5
PICTURES = np.random.default_rng(2).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def run(folder: Path, graph: bytes, pixels: NDArray[Any]) -> NDArray[Any]:
    path = folder / "pixels.onnx"
    path.write_bytes(graph)
    (output,) = runtime.compile_for_cpu(runtime.read("onnx", path), "fp32")([pixels]).values()
    return np.asarray(output)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("is_bgr", [False, True])
@pytest.mark.parametrize("pixels", ["uint8", "float32"])
@pytest.mark.parametrize("takes", ["float32", "float16"])
def test_it_normalises_as_numpy_does(
    tmp_path: Path, layout: str, pixels: str, takes: str, *, is_bgr: bool
) -> None:
    normalise = ChannelNumbers(MEAN, STD, is_bgr)
    graph = pixels_graph.build((HEIGHT, WIDTH, 3), normalise, pixels=pixels, takes=takes, layout=layout)
    right = normalise.of_pixels(PICTURES)
    right = right.transpose(0, 3, 1, 2) if layout == "NCHW" else right
    found = run(tmp_path, graph, PICTURES.astype(pixels))
    assert found.dtype == takes
    np.testing.assert_allclose(found, right, atol=1e-6 if takes == "float32" else 2e-3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bytes_stay_bytes(tmp_path: Path, layout: str) -> None:
    normalise = ChannelNumbers((0.0,) * 3, (1.0,) * 3, is_bgr=True)
    graph = pixels_graph.build((HEIGHT, WIDTH, 3), normalise, pixels="uint8", takes="uint8", layout=layout)
    right = PICTURES[..., ::-1]
    found = run(tmp_path, graph, PICTURES)
    assert np.array_equal(found, right.transpose(0, 3, 1, 2) if layout == "NCHW" else right)


def test_a_single_channel_and_one_picture(tmp_path: Path) -> None:
    normalise = ChannelNumbers((127.5,), (127.5,), is_bgr=False)
    graph = pixels_graph.build((HEIGHT, WIDTH, 1), normalise, pixels="uint8", takes="float32", layout="NCHW")
    found = run(tmp_path, graph, PICTURES[:1, ..., :1])
    np.testing.assert_allclose(found[0, 0], PICTURES[0, ..., 0] / 127.5 - 1, atol=1e-6)
