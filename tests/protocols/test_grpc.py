"""Clients of other servers over gRPC, unmodified, against the service's own processes.

Triton's needs the environment that `make test-protocols` makes; TensorFlow Serving's is in the project's own.
"""

import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ROOT, http
from tests.support.redis_server import running_redis
from tests.support.stack import MODEL, Stack, shade, web_up
from web.dialects import model_versions

PYTHON = ROOT / "var" / "protocols" / "bin" / "python"
CLIENTS = ROOT / "tests" / "protocols" / "rpc_clients.py"

SHADES = [7, 0, 128, 250, 31]
SIDE = 8

pytestmark = [pytest.mark.protocols, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service with gRPC, and a model that knows the shade of a picture."""
    folder = tmp_path_factory.mktemp("served")
    with running_redis() as server, web_up(Stack(folder, server.url)) as stack:
        stack.start_model_server()
        stack.start_grpc()
        yield stack


def _ask(stack: Stack, python: Path, client: str) -> dict[str, Any]:
    """What the client was told."""
    asked = {
        "address": f"127.0.0.1:{stack.grpc_port}",
        "model": MODEL,
        "pictures": [base64.b64encode(shade(value)).decode() for value in SHADES],
        "side": SIDE,
    }
    done = subprocess.run(
        [python, CLIENTS, client], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _predicted(stack: Stack) -> NDArray[np.float64]:
    """What /predict says of the pictures: a row of probabilities each, in the labels' order."""
    rows = []
    for value in SHADES:
        answer = http.post(f"{stack.url}/predict?top=256", files={"image": shade(value)}, timeout=60).json()
        by_label = {int(each["label"]): each["probability"] for each in answer["predictions"]}
        rows.append([by_label[label] for label in range(256)])
    return np.array(rows)


@pytest.mark.skipif(not PYTHON.is_file(), reason="no var/protocols: `make test-protocols` makes it")
def test_triton_s_client(served: Stack) -> None:
    told, predicted = _ask(served, PYTHON, "triton"), _predicted(served)
    assert told["ready"] == [True, True, True]
    assert told["metadata"]["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": ["-1", str(SIDE), str(SIDE), "1"]}
    ]
    config = told["config"]["config"]
    (input_,) = config["input"]
    assert (input_["data_type"], input_["format"]) == ("TYPE_UINT8", "FORMAT_NHWC")
    assert (input_["dims"], config["max_batch_size"]) == ([str(SIDE), str(SIDE), "1"], 64)
    assert config["dynamic_batching"] == {}
    assert [each["name"] for each in told["index"]["models"]] == [MODEL]
    assert told["statistics"]["model_stats"][0]["name"] == MODEL
    for name in ("UINT8", "BYTES"):
        assert np.abs(np.array(told[name]) - predicted).max() <= 1e-6, name
    assert told["id"] == "mine"
    assert [row[0] for row in told["class_count"]] == [f"1.000000:{value}:{value}" for value in SHADES]
    assert {len(row) for row in told["class_count"]} == {3}
    (picture, unknown) = told["refused"]
    assert (picture[0], "not a picture" in picture[1]) == ("StatusCode.INVALID_ARGUMENT", True)
    assert (unknown[0], "Unknown model 'other'" in unknown[1]) == ("StatusCode.NOT_FOUND", True)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None,
    reason="no tensorflow-serving-api, which `make lint` installs",
)
def test_tensorflow_serving_s_client(served: Stack) -> None:
    told, predicted = _ask(served, Path(sys.executable), "tf_serving"), _predicted(served)
    for name in ("files", "uint8", "float"):
        assert np.abs(np.array(told[name]) - predicted).max() <= 1e-6, name
    (model,) = http.get(f"{served.url}/models").json()["models"]
    number = model_versions.number(model["model_version"])
    assert (told["version"], told["versions"]) == (number, [[number, "AVAILABLE"]])
    assert (told["unpacked"], told["outputs"], told["input type"]) == (True, ["probabilities"], "string")
    assert (told["refused"][0], "Unknown model 'other'" in told["refused"][1]) == ("NOT_FOUND", True)
