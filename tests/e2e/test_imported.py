"""A network of others as served: real photos, real processes, and the answers of an independent program."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.engines.openvino import runtime
from tests.support import http
from tests.support.real_data import MOBILENET, PHOTOS, needs
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

EXPECTED = PHOTOS / "expected.json"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    needs(MOBILENET, EXPECTED),
]

TOML = """task = "classification"
labels = "imagenet_labels.txt"
top = 5
[source]
kind = "tflite"
file = "tf2_mobilenet_v2_1.0_224_ptq.tflite"
[input]
width = 224
height = 224
channels = 3
fit = "stretch"
normalise = "none"  # the file takes bytes, and normalises them itself
"""


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The real model server, with a folder made of the network, behind the real web tier."""
    folder = tmp_path / "models" / "mobilenet"
    shutil.copytree(MOBILENET, folder)
    (folder / "model.toml").write_text(TOML)
    made = Stack(tmp_path, own_redis.url, "mobilenet")
    made.environment |= {
        "MODELS": "mobilenet",
        "MODELS_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "REQUEST_TIMEOUT_S": "60",
    }
    try:
        made.start_web()
        made.start("model_server", log="model_server")
        eventually(lambda: made.answers("/readyz?model=mobilenet"), within_s=120)
        yield made
    finally:
        made.stop()


def test_a_quantised_mobilenet_tells_what_is_on_the_photos(stack: Stack) -> None:
    expected: dict[str, str] = json.loads(EXPECTED.read_text("utf-8"))["imagenet"]
    assert len(expected) == 5
    photos = [("image", (name, (EXPECTED.parent / name).read_bytes())) for name in expected]
    answer = http.post(f"{stack.url}/predict", files=photos, timeout=90).json()
    told = [each["predictions"] for each in answer["results"]]
    assert [each[0]["label"] for each in told] == list(expected.values())
    assert all(0.3 < each[0]["probability"] <= 1 and len(each) == 5 for each in told)
    precision = "fp32" if runtime.saturates_int8() else "int8"
    assert {(each["engine"], each["precision"]) for each in answer["results"]} == {("openvino", precision)}
    labels = (MOBILENET / "imagenet_labels.txt").read_text("utf-8").splitlines()
    assert all(labels[int(each[0]["class_id"])] == each[0]["label"] for each in told)
