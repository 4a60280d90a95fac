"""What `/predict` answers where the task gives no classes: numbers, vectors, pictures, raw outputs."""

import base64
import html
import io
import json
import re
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.messages import Mask, TaskResult
from model_server.catalogue.model_spec import Label
from model_server.engines.engine import Outputs
from model_server.tasks import TASKS
from model_server.tasks.embedding import Embedding
from model_server.tasks.image import ImageTable
from model_server.tasks.keypoints import Keypoints
from model_server.tasks.multi_label import MultiLabel
from model_server.tasks.raw import RawTask
from model_server.tasks.segmentation import Segmentation
from pictures import rle
from tests.support.pictures import form, png
from tests.support.service import Service


def _answer(service: Service, *outputs: NDArray[np.float32]) -> dict[str, Any]:
    service.engine.network = lambda batch: tuple(np.stack([each] * len(batch)) for each in outputs)
    response = service.client.post("/predict", data=form(png(0)))
    assert response.status_code == 200
    answer = response.get_json()
    del answer["timings_ms"]
    return dict(answer)


@pytest.mark.parametrize(
    "changes", [{"task": TASKS["multi_label"], "options": MultiLabel(0.5, {"grey": 0.9}), "top": 3}]
)
def test_several_labels_apply_or_none(running: Service) -> None:
    answer = _answer(running, np.array([0.6, 0.8, 0.7], np.float32))
    assert [each["label"] for each in answer["predictions"]] == ["bright", "dark"]
    assert _answer(running, np.array([0.1, 0.8, 0.2], np.float32))["predictions"] == []


@pytest.mark.parametrize(
    "changes", [{"task": TASKS["regression"], "labels": (Label("0", "age"), Label("1", "height"))}]
)
def test_a_regression_s_numbers_come_by_label(running: Service) -> None:
    answer = _answer(running, np.array([34.5, -2.0], np.float32))
    assert (answer["predictions"], answer["values"]) == ([], {"age": 34.5, "height": -2.0})
    assert not {"embedding", "image", "outputs"} & set(answer)


@pytest.mark.parametrize("changes", [{"task": TASKS["embedding"], "options": Embedding(), "labels": ()}])
def test_an_embedding_has_length_1(running: Service) -> None:
    assert _answer(running, np.array([3, 0, -4], np.float32))["embedding"] == pytest.approx([0.6, 0, -0.8])


@pytest.mark.parametrize("changes", [{"task": TASKS["image"], "options": ImageTable("tf"), "labels": ()}])
def test_a_picture_that_was_made_is_a_png(running: Service) -> None:
    made = np.linspace(-1.1, 1.1, 3 * 9 * 10, dtype=np.float32).reshape(3, 9, 10)
    right = np.rint((made.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255)
    running.engine.network = lambda batch: (np.stack([made] * len(batch)),)
    response = running.client.post("/predict", data=form(png(0)), headers={"Accept": "image/png"})
    assert response.mimetype == "image/png"
    with Image.open(io.BytesIO(response.data)) as image:
        assert np.array_equal(np.asarray(image), right)
    in_json = _answer(running, made)["image"]
    assert isinstance(in_json, str)
    assert in_json.startswith("iVBORw0KGgo")


@pytest.mark.parametrize("changes", [{"task": TASKS["raw"], "labels": ()}])
def test_raw_outputs_come_by_number_where_their_file_names_none(running: Service) -> None:
    answer = _answer(running, np.array([[1, 2], [3, 4]], np.float32), np.array([5], np.float32))
    assert answer["outputs"] == {
        "0": {"shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]},
        "1": {"shape": [1], "data": [5.0]},
    }


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"task": TASKS["raw"], "labels": ()}])
def test_what_a_model_s_own_code_says_is_the_result_in_json_and_on_the_page(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"text": "<b>\u4e2d", "scores": [1, 2.5], "none": None}
    monkeypatch.setattr(RawTask, "read", lambda *_: TaskResult(result=result))
    answer = _answer(running, np.array([1], np.float32))
    assert (answer["predictions"], answer["result"]) == ([], result)
    assert "outputs" not in answer
    upload = form(png(0), field="file")
    page = running.client.post("/upload", data=upload, headers={"Accept": "text/html"})
    shown = re.search(r'<pre class="result">(.*?)</pre>', page.get_data(as_text=True), re.DOTALL)
    assert shown is not None
    assert "<b>" not in shown[1]
    assert "\u4e2d" in shown[1]
    assert json.loads(html.unescape(shown[1])) == result


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "embedding", "image", "raw"])
@pytest.mark.parametrize("changes", [{}])
def test_what_is_not_finite_costs_its_own_picture(running: Service, task: str) -> None:
    bad = np.full((9, 9), np.nan, np.float32) if task == "image" else np.array([1, np.inf, 2], np.float32)

    def network(batch: NDArray[np.uint8]) -> Outputs:
        return (np.stack([bad if picture.min() else np.ones_like(bad) for picture in batch]),)

    table = TASKS[task].table
    running.worker.spec.__dict__.update(task=TASKS[task], options=table() if table else None)
    running.engine.network = network
    both = {"image": [(io.BytesIO(png(value)), f"{value}.png") for value in (0, 255)]}
    answers = running.client.post("/predict", data=both).get_json()["results"]
    assert [each["success"] for each in answers] == [True, False]
    assert "not finite" in answers[1]["error"]["message"]


_HALVES = np.repeat(np.array([[0, 1]], np.float32), 8, axis=1).repeat(8, axis=0)
"""Class 0 on the left, class 1 on the right: 8 x 16."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rle", "png"])
@pytest.mark.parametrize("changes", [{"task": TASKS["segmentation"], "top": 3}])
def test_masks_are_run_lengths_or_pngs(running: Service, kind: Literal["rle", "png"]) -> None:
    running.worker.spec.__dict__["options"] = Segmentation(masks=kind, background=0)
    (thing,) = _answer(running, _HALVES)["predictions"]
    right = np.zeros((30, 40), np.bool_)
    right[:, 20:] = True
    assert (thing["label"], thing["area"], thing["box"]) == ("grey", 0.5, [20, 0, 20, 30])
    assert thing["mask"]["size"] == [30, 40]
    if kind == "rle":
        assert set(thing["mask"]) == {"size", "counts"}
        mask = rle.decode(Mask((30, 40), thing["mask"]["counts"]))
    else:
        assert set(thing["mask"]) == {"size", "form", "png"}
        with Image.open(io.BytesIO(base64.b64decode(thing["mask"]["png"]))) as image:
            mask = np.asarray(image.convert("L")) == 255
    assert np.array_equal(mask, right)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rle", "png"])
@pytest.mark.parametrize("changes", [{"task": TASKS["segmentation"], "top": 3}])
def test_masks_are_drawn_whatever_their_form(running: Service, kind: Literal["rle", "png"]) -> None:
    running.worker.spec.__dict__["options"] = Segmentation(masks=kind, background=0)
    running.engine.network = lambda batch: (np.stack([_HALVES] * len(batch)),)
    response = running.client.post("/predict", data=form(png(0)), headers={"Accept": "image/png"})
    with Image.open(io.BytesIO(response.data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert not pixels[300:, :230].any()
    assert pixels[300:, 250:].max(axis=2).min() > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"task": TASKS["keypoints"], "options": Keypoints(names=("a", "b"), skeleton=((0, 1),)), "top": 3}],
)
def test_points_come_with_how_they_are_drawn(running: Service) -> None:
    row = [*(1, 1, 1, 1), *(0.1, 0.9, 0), *(0.5, 1, 0.75), *(0.603, 1.5, 0.25)]  # box, scores, two points
    output = np.array(row, np.float32)[:, None]
    answer = _answer(running, output)
    (thing,) = answer["predictions"]
    assert (thing["label"], thing["box"]) == ("grey", [10, 8, 20, 14])
    assert thing["keypoints"] == [
        {"name": "a", "x": 10.0, "y": 15.0, "probability": 0.75},
        {"name": "b", "x": 12.1, "y": 22.5, "probability": 0.25},
    ]
    assert answer["skeleton"] == {"lines": [[0, 1]], "least": 0.5}
    assert "skeleton" not in _answer(running, output * 0)
