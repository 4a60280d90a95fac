"""A pipeline of real processes: a detector, a classifier of its boxes, and a web process that stops."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_detection import TOML as DETECTOR
from tests.support import ROOT, conversions, http
from tests.support.real_data import PHOTOS, YOLO, needs
from tests.support.redis_server import RedisServer
from tests.support.stack import START_S, Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), needs(YOLO, PHOTOS)]

PIPELINE = """task = "pipeline"

[pipeline.objects]
model = "yolo"

[pipeline.kind]
model = "photos10"
crop = "objects"
labels = ["dog", "cat"]
margin = 0.05
top = 1

[pipeline.scene]
model = "photos10"
"""


@pytest.fixture
def street(
    own_redis: RedisServer, tmp_path: Path, engines: Path
) -> Iterator[tuple[Stack, subprocess.Popen[bytes]]]:
    """A stack that serves the pipeline and, in the same process, the models of its steps; its web tier."""
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "photos10", models / "photos10")
    shutil.copytree(YOLO, models / "yolo")
    (models / "yolo" / "model.toml").write_text(DETECTOR)
    (models / "street").mkdir()
    (models / "street" / "model.toml").write_text(PIPELINE)
    made = Stack(tmp_path, own_redis.url, "street")
    made.environment |= {"MODELS_DIR": str(models), "MODELS": "street,yolo,photos10", "BATCH_SIZE": "2"}
    for step in ("yolo", "photos10"):
        made.environment |= conversions.convert(models, step, engines, precision="fp32")
    try:
        web = made.start_web()
        made.start("model_server", log="model_server")
        eventually(lambda: made.answers("/readyz?model=street"), within_s=2 * START_S)
        yield made, web
    finally:
        made.stop()


def _ask(stack: Stack, photo: str, **headers: str) -> httpx.Response:
    picture = {"image": (PHOTOS / photo).read_bytes()}
    return http.post(f"{stack.url}/predict?model=street", files=picture, headers=headers, timeout=60)


def _kinds(response: httpx.Response) -> dict[str, str]:
    """What was found -> what the later step calls it."""
    found = response.json()["steps"]["objects"]["predictions"]
    return {
        each["label"]: each["steps"]["kind"]["predictions"][0]["label"] for each in found if "steps" in each
    }


def test_it_answers_and_a_web_process_that_stops_first_ends_what_is_polled(
    street: tuple[Stack, subprocess.Popen[bytes]],
) -> None:
    stack, web = street
    answered = _ask(stack, "cat_720p.jpg")
    assert answered.status_code == 200
    assert _kinds(answered) == {"cat": "cat"}
    assert _kinds(_ask(stack, "dog.jpg")) == {"dog": "dog"}
    assert answered.json()["steps"]["scene"]["predictions"][0]["label"] == "cat"

    accepted = _ask(stack, "cat_720p.jpg", Prefer="respond-async")
    assert accepted.status_code == 202
    web.send_signal(signal.SIGTERM)
    assert web.wait(30) == 0
    stack.start_web()
    polled = http.get(stack.url + accepted.json()["location"], timeout=10)
    assert polled.status_code == 200
    assert _kinds(polled) == {"cat": "cat"}
