"""Python clients of other servers, unmodified, against the service's own processes: the answers of /predict.

Needs the environment that `make test-protocols` makes.
"""

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.protocols import digits
from tests.protocols.digits import DIGITS, MODEL, TOLERANCE
from tests.support import ROOT
from tests.support.stack import Stack
from web.dialects import model_versions

PYTHON = ROOT / "var" / "protocols" / "bin" / "python"
HERE = ROOT / "tests" / "protocols"

pytestmark = [
    pytest.mark.protocols,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PYTHON.is_file(), reason="no var/protocols: `make test-protocols` makes it"),
]


def _run(*words: str | Path, sent: str = "") -> str:
    """What a program of this folder prints."""
    done = subprocess.run([PYTHON, *words], input=sent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _ask(stack: Stack, client: str) -> dict[str, Any]:
    """What the client was told."""
    pixels = digits.fitted()
    asked = {
        "url": stack.url,
        "model": MODEL,
        "pictures": [str(base64.b64encode(each), "ascii") for each in digits.encoded()],
        "pixels": str(base64.b64encode(pixels.tobytes()), "ascii"),
        "shape": pixels.shape,
    }
    told: dict[str, Any] = json.loads(
        _run(HERE / "clients.py", client, sent=json.dumps(asked)).splitlines()[-1]
    )
    return told


def _off(probabilities: dict[str, Any], predicted: NDArray[np.float64], *, count: int) -> dict[str, float]:
    """How far the answers are from /predict's, where that is too far."""
    assert len(probabilities) == count
    off = {name: float(np.abs(np.array(rows) - predicted).max()) for name, rows in probabilities.items()}
    return {name: most for name, most in off.items() if not most <= TOLERANCE}


@pytest.fixture(scope="module", params=["triton", "triton_aio"])
def triton(request: pytest.FixtureRequest, served: Stack) -> dict[str, Any]:
    """What one of Triton's clients was told."""
    return _ask(served, request.param) | {"client": request.param}


@pytest.fixture(scope="module")
def kserve(served: Stack) -> dict[str, Any]:
    """What KServe's client was told, by version of the protocol."""
    return _ask(served, "kserve")


def test_triton_s_client(triton: dict[str, Any], predicted: NDArray[np.float64]) -> None:
    count = {"triton": 13, "triton_aio": 9}[triton["client"]]
    assert _off(triton["probabilities"], predicted, count=count) == {}
    assert triton["ids"] == ["mine"] * 4
    assert (triton["ready"], triton["unknown"]) == ([True, True, True], [False])
    assert "binary_tensor_data" in triton["server"][0]["extensions"]
    (metadata,), (config,), (index,) = triton["metadata"], triton["config"], triton["index"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
    assert (config["input"][0]["format"], config["input"][0]["dims"]) == ("FORMAT_NHWC", [28, 28, 1])
    assert [each["name"] for each in index] == [MODEL]
    for statistics in triton["statistics"]:
        (of_model,) = statistics["model_stats"]
        assert of_model["name"] == MODEL
        assert of_model["version"] == str(model_versions.number(metadata["versions"][0]))


def test_the_best_classes_for_triton_s_client(triton: dict[str, Any], predicted: NDArray[np.float64]) -> None:
    assert set(triton["class_count"]) == {"BYTES binary", "BYTES JSON"}
    for rows in triton["class_count"].values():
        for row, probabilities in zip(rows, predicted, strict=True):
            assert [one.split(":")[1:] for one in row] == [[str(at)] * 2 for at in _best(probabilities)]
            values = np.array([float(one.split(":")[0]) for one in row])
            assert np.abs(values - probabilities[_best(probabilities)]).max() <= TOLERANCE


def test_what_is_refused_to_triton_s_client(triton: dict[str, Any]) -> None:
    refused = triton["refused"]
    assert {name: status for name, (status, _) in refused.items()} == {
        "picture": "400",
        "model": "404",
        "version": "404",
        "load": "400",
    }
    assert "not a picture" in refused["picture"][1]
    assert "Unknown model 'other'" in refused["model"][1]


def _best(probabilities: NDArray[np.float64]) -> list[int]:
    return [int(at) for at in np.argsort(-probabilities)[:3]]


def test_kserve_s_client(kserve: dict[str, Any], predicted: NDArray[np.float64]) -> None:
    told = kserve["v2"]
    assert _off(told["probabilities"], predicted, count=8) == {}
    assert (told["ready"], told["unknown"], told["id"]) == ([True, True, True], False, "mine")
    assert "Unknown model 'other'" in told["refused"]["model"]
    assert "not a picture" in told["refused"]["picture"]


def test_kserve_s_client_with_version_1(kserve: dict[str, Any], predicted: NDArray[np.float64]) -> None:
    told = kserve["v1"]
    assert _off(told["probabilities"], predicted, count=6) == {}
    assert told["ready"] is True
    assert "Unknown model 'other'" in told["refused"]["model"]
    assert "404" in told["refused"]["readiness"]
    assert "not a picture" in told["refused"]["picture"]
    assert "400" in told["refused"]["explain"]


def test_triton_s_example_of_classification(
    served: Stack, predicted: NDArray[np.float64], tmp_path: Path
) -> None:
    """It fits pictures itself, by the metadata: these are fitted already, and it leaves them as they are."""
    for number, pixels in enumerate(digits.fitted()):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{number}.png")
    printed = _run(
        HERE / "image_client.py", "-m", MODEL, "-c", "3", "-u", served.url.removeprefix("http://"), tmp_path
    )
    assert printed.endswith("PASS\n")
    rows = re.findall(r"^    ([\d.]+) \((\d+)\) = (\d+)$", printed, re.MULTILINE)
    assert len(rows) == 3 * len(DIGITS)
    for number, (value, index, label) in enumerate(rows):
        probabilities = predicted[number // 3]
        assert int(index) == int(label) == _best(probabilities)[number % 3]
        assert abs(float(value) - probabilities[int(index)]) <= TOLERANCE
