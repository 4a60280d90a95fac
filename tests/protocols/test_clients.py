"""Clients of other servers, unmodified, against the service's own processes: the answers of `POST /predict`.

Needs the environment that `make test-protocols` makes.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ROOT, http
from tests.support.redis_server import running_redis
from tests.support.stack import MODEL, Stack, shade, web_up

PYTHON = ROOT / "var" / "protocols" / "bin" / "python"
CLIENTS = ROOT / "tests" / "protocols" / "clients.py"

SHADES = [7, 0, 128, 250, 31]
SIDE = 8

pytestmark = [
    pytest.mark.protocols,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PYTHON.is_file(), reason="no var/protocols: `make test-protocols` makes it"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service, with a model that knows the shade of a picture."""
    folder = tmp_path_factory.mktemp("served")
    with running_redis() as server, web_up(Stack(folder, server.url)) as stack:
        stack.start_model_server()
        yield stack


def _ask(stack: Stack, client: str) -> dict[str, Any]:
    """What the client was told."""
    asked = {
        "url": stack.url,
        "model": MODEL,
        "pictures": [base64.b64encode(shade(value)).decode() for value in SHADES],
        "side": SIDE,
    }
    done = subprocess.run(
        [PYTHON, CLIENTS, client], input=json.dumps(asked), capture_output=True, text=True, check=False
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


def test_triton_s_client(served: Stack) -> None:
    told, predicted = _ask(served, "triton"), _predicted(served)
    assert told["ready"] == [True, True, True]
    assert told["metadata"]["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 1]}
    ]
    # As Triton's own image_client.py reads it.
    (input_,) = told["config"]["input"]
    assert (input_["format"], input_["dims"]) == ("FORMAT_NHWC", [SIDE, SIDE, 1])
    assert [each["name"] for each in told["index"]] == [MODEL]
    assert told["statistics"]["model_stats"][0]["name"] == MODEL
    for name in ("UINT8 binary", "UINT8 JSON", "BYTES binary", "BYTES JSON"):
        assert np.abs(np.array(told[name]) - predicted).max() <= 1e-6, name
    assert told["id"] == "mine"
    assert [row[0] for row in told["class_count"]] == [f"1.000000:{value}:{value}" for value in SHADES]
    assert {len(row) for row in told["class_count"]} == {3}
    (picture, unknown) = told["refused"]
    assert (picture[0], "not a picture" in picture[1]) == ("400", True)
    assert (unknown[0], "Unknown model 'other'" in unknown[1]) == ("404", True)


def test_triton_s_client_with_asyncio(served: Stack) -> None:
    told = _ask(served, "triton_aio")
    assert np.abs(np.array(told["probabilities"]) - _predicted(served)).max() <= 1e-6


def test_kserve_s_client(served: Stack) -> None:
    told = _ask(served, "kserve_v2")
    assert told["ready"] == [True, True, True]
    assert np.abs(np.array(told["probabilities"]) - _predicted(served)).max() <= 1e-6


def test_kserve_s_client_with_version_1(served: Stack) -> None:
    told, predicted = _ask(served, "kserve_v1"), _predicted(served)
    assert told["ready"] is True
    for name in ("files", "named", "pixels", "column"):
        assert np.abs(np.array(told[name]) - predicted).max() <= 1e-6, name
    assert "Unknown model 'other'" in told["refused"]
    assert "404" in told["refused"]
