"""A Darknet detector as it is served, on real photos, against what an independent program answers."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from model_server.engines.openvino import runtime
from pictures.annotate import colour
from tests.support import conversions, http
from tests.support.real_data import PHOTOS, YOLO, needs
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    needs(YOLO, PHOTOS),
]

TOML = """task = "detection"
labels = "coco.names"
top = 100

[source]
kind = "darknet"
cfg = "yolo-fastest-1.1-xl.cfg"
weights = "yolo-fastest-1.1-xl.weights"

[input]
width = 320
height = 320
channels = 3
fit = "stretch"
normalise = "unit"

[detection]
confidence = 0.4
nms_iou = 0.4
"""

Box = list[int]


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    wide, high = (
        min(one[at] + one[at + 2], other[at] + other[at + 2]) - max(one[at], other[at]) for at in (0, 1)
    )
    shared = max(0, wide) * max(0, high)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


@pytest.fixture(params=["openvino fp32", "openvino bf16", "tensorflow fp32"])
def served(request: pytest.FixtureRequest, own_redis: RedisServer, tmp_path: Path, engines: Path) -> Any:  # noqa: ANN401
    """A stack that serves Yolo-Fastest-xl on an engine."""
    engine, precision = request.param.split()
    if engine == "openvino" and runtime.lacks(precision):
        pytest.skip(runtime.lacks(precision))
    folder = tmp_path / "models" / "yolo"
    folder.mkdir(parents=True)
    for each in YOLO.iterdir():
        shutil.copyfile(each, folder / each.name)
    (folder / "model.toml").write_text(TOML)
    stack = Stack(tmp_path, own_redis.url, "yolo")
    stack.environment |= {
        "MODELS_DIR": str(folder.parent),
        "ENGINE": engine,
        "PRECISION": precision,
        "BATCH_SIZE": "1",
    }
    if engine == "openvino":
        stack.environment |= conversions.convert(folder.parent, "yolo", engines, precision=precision)
    try:
        stack.start_web()
        stack.start("model_server", log="model_server")
        eventually(lambda: bool(stack.ready_workers()), within_s=120)
        yield stack
    finally:
        stack.stop()


def _post(stack: Stack, photo: str, **headers: str) -> httpx.Response:
    return http.post(
        f"{stack.url}/predict",
        files={"image": (PHOTOS / photo).read_bytes()},
        headers=headers,
        timeout=30,
    )


def test_the_answer_is_the_independent_program_s(served: Stack) -> None:
    expected = json.loads((PHOTOS / "expected.json").read_text())["coco"]
    for photo, right in expected.items():
        found = _post(served, photo).json()["predictions"]
        assert found == sorted(found, key=lambda each: -each["probability"])
        assert sorted(each["label"] for each in found) == sorted(label for label, _, _ in right)
        for label, probability, box in right:
            near = max(
                ((_overlap(each["box"], box), each) for each in found if each["label"] == label),
                key=lambda pair: pair[0],
            )
            assert near[0] >= 0.9, (photo, near, box)
            assert near[1]["probability"] == pytest.approx(probability, abs=0.06)
            assert near[1]["class_id"].isdigit()
    _assert_drawn(served)
    _assert_page(served)
    _assert_nothing_is_an_answer(served)


def _assert_page(stack: Stack) -> None:
    """What a tutorial's page shows: the picture with its boxes, and their labels."""
    files = {"file": (PHOTOS / "dog.jpg").read_bytes()}
    with http.client(base_url=stack.url, timeout=30) as client:
        page = client.post("/upload", files=files).text
        assert client.post("/run", files=files).text == "result : dog"
    (inlined,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(inlined) == _post(stack, "dog.jpg", Accept="image/png").content
    assert {"dog", "bicycle"} <= set(re.findall(r'<span class="label">([^<]+)</span>', page))


def _assert_drawn(served: Stack) -> None:
    found = _post(served, "dog.jpg").json()["predictions"]
    drawn = _post(served, "dog.jpg", Accept="image/png")
    assert drawn.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(drawn.content)) as image:
        assert image.size == (768, 576)
        for each in found:
            x, y, width, height = each["box"]
            # Where no other box's line is.
            assert image.getpixel((x + width * 3 // 4, y + height - 2)) == colour(each["label"])


def _assert_nothing_is_an_answer(served: Stack) -> None:
    blank = io.BytesIO()
    Image.new("RGB", (300, 200), (128, 128, 128)).save(blank, "PNG")
    answer = http.post(f"{served.url}/predict", files={"image": blank.getvalue()}, timeout=30)
    assert (answer.status_code, answer.json()["predictions"]) == (200, [])
