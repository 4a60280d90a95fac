"""Ultralytics' YOLOv8 and torchvision's LRASPP: boxes, masks, points and classes are those of their own code.

Needs the environment that `make test-importers` makes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.messages import Mask, Prediction
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.commands import new
from model_server.commands.terminal import DONE
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.tasks.task import ReadOptions
from pictures import fit, rle
from tests.importers.exporting import Export
from tests.importers.joined import PYTHON
from tests.importers.test_importers import _scenes

pytestmark = [
    pytest.mark.importers,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("converts_here"),
    pytest.mark.skipif(not PYTHON.is_file(), reason="no var/importers: `make test-importers` makes it"),
]

TASKS = {"yolov8n": "detection", "yolov8n-seg": "segmentation", "yolov8n-pose": "keypoints"}

LRASPP = """task = "segmentation"
labels = "labels.txt"
top = 21
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 160
height = 160
channels = 3
fit = "stretch"
decode = "exact"
normalise = "torch"
[segmentation]
least_area = 0
"""

Floats = NDArray[np.float64]
Found = list[tuple[Path, tuple[Prediction, ...]]]


def _few_scenes(folder: Path) -> None:
    """Two drawn pictures, and two photos where they are at hand: more take their time."""
    _scenes(folder, ("dog", "drawn0", "drawn1", "grace_hopper"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, export: Export) -> Path:
    """A folder with Ultralytics' networks and what they find in its photos."""
    folder = tmp_path_factory.mktemp("yolo")
    _few_scenes(folder / "photos")
    export("yolo", folder)
    return folder


def _answers(spec: ModelSpec, folder: Path, cache: Path) -> Found:
    """What a model answers to each of the photos in the folder."""
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(2, cache))
    answers = []
    for path in sorted((folder / "photos").iterdir()):
        prepared = fit.prepare(path.read_bytes(), spec.input, max_pixels=50_000_000)
        outputs = tuple(output[0] for output in engine.predict(prepared.pixels[None]))
        result = spec.task.read(outputs, spec, ReadOptions(prepared.original_size, spec.top))
        answers.append((path, result.predictions))
    return answers


def _pairs(predictions: tuple[Prediction, ...], theirs: Floats) -> Iterator[tuple[Prediction, int]]:
    """Each prediction with the row of the box that is the same; no box may be left over on either side."""
    # They keep what lies beyond the picture's edges, with sides of 0.
    left = [at for at, box in enumerate(theirs) if (box[2:4] - box[:2]).min() > 0.01]
    assert len(predictions) == len(left)
    for prediction in predictions:
        x, y, width, height = prediction.box or (0, 0, 0, 0)
        corners = np.array([x, y, x + width, y + height])
        is_class = [at for at in left if int(theirs[at, 5]) == int(prediction.class_id)]
        best = min(is_class, key=lambda at: np.abs(theirs[at, :4] - corners).max())
        yield prediction, best
        left.remove(best)


def _same_boxes(predictions: tuple[Prediction, ...], theirs: Floats) -> list[tuple[Prediction, int]]:
    """The pairs, of which the boxes agree but for the rounding to whole pixels."""
    pairs = list(_pairs(predictions, theirs))
    for prediction, at in pairs:
        x, y, width, height = prediction.box or (0, 0, 0, 0)
        # A thin box is at least a pixel wide.
        np.testing.assert_allclose([x, y, x + width, y + height], theirs[at, :4], atol=1.01)
        if min(width, height) > 1:
            np.testing.assert_allclose([x, y, x + width, y + height], theirs[at, :4], atol=0.55)
        assert prediction.probability == pytest.approx(theirs[at, 4], abs=1e-3)
    return pairs


Made = Callable[[str], Found]


@pytest.fixture
def made(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make a model of one of Ultralytics' files with `new`; return its answers."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PRECISION", "fp32")  # of random weights bfloat16 leaves too little
    monkeypatch.setenv("BATCH_SIZE", "2")  # each size up to it is warmed up

    def made(name: str) -> Found:
        assert new.main([str(exported / f"{name}.onnx")]) == DONE
        spec = replace(read_model(tmp_path / "models", name), top=300)
        assert (spec.normalise, spec.input.border, spec.input.library) == ("unit", 114, "opencv")
        assert spec.task.name == TASKS[name]
        assert len(spec.labels) == (1 if spec.task.name == "keypoints" else 80)
        return _answers(spec, exported, tmp_path / "cache")

    return made


def test_boxes_of_a_new_yolov8_are_ultralytics_own(exported: Path, made: Made) -> None:
    right = np.load(exported / "yolov8n.npz")
    count = sum(len(_same_boxes(found, right[f"{path.name} boxes"])) for path, found in made("yolov8n"))
    print(f"{count} boxes")  # noqa: T201
    assert count


def test_masks_of_a_new_yolov8_are_ultralytics_own(exported: Path, made: Made) -> None:
    right = np.load(exported / "yolov8n-seg.npz")
    overlaps = []
    for path, found in made("yolov8n-seg"):
        masks = right[f"{path.name} masks"]  # once: each look inflates them all
        for prediction, at in _same_boxes(found, right[f"{path.name} boxes"]):
            assert isinstance(prediction.mask, Mask)
            mine = rle.decode(prediction.mask)
            assert mine.shape == masks[at].shape
            overlaps.append((mine & masks[at]).sum() / (mine | masks[at]).sum())
    print(f"{len(overlaps)} masks, the least overlap {min(overlaps):.5f}")  # noqa: T201
    assert min(overlaps) >= 0.99


def test_points_of_a_new_yolov8_are_ultralytics_own(exported: Path, made: Made) -> None:
    right = np.load(exported / "yolov8n-pose.npz")
    most = 0.0
    for path, found in made("yolov8n-pose"):
        points = right[f"{path.name} points"]
        for prediction, at in _same_boxes(found, right[f"{path.name} boxes"]):
            mine = np.array([(each.x, each.y) for each in prediction.keypoints or ()])
            most = max(most, float(np.abs(mine - points[at, :, :2]).max()))
            likely = [each.probability for each in prediction.keypoints or ()]
            np.testing.assert_allclose(likely, points[at, :, 2], atol=1e-3)
    print(f"points differ by {most:.3f} pixels at most")  # noqa: T201
    assert most < 1


def test_lraspp_classes_are_torchvision_s_own(tmp_path: Path, export: Export) -> None:
    _few_scenes(tmp_path / "photos")
    export("lraspp", tmp_path)
    right = np.load(tmp_path / "lraspp.npz")
    shares = []
    model = tmp_path / "models" / "net"
    model.mkdir(parents=True)
    (tmp_path / "lraspp.onnx").rename(model / "net.onnx")
    (model / "labels.txt").write_text("".join(f"{number}\n" for number in range(21)))
    (model / "model.toml").write_text(LRASPP)
    for path, found in _answers(read_model(model.parent, "net"), tmp_path, tmp_path / "cache"):
        classes = np.full(right[path.name].shape, -1)
        for prediction in found:
            assert prediction.mask is not None
            classes[rle.decode(prediction.mask)] = int(prediction.class_id)
            assert prediction.area == pytest.approx((classes == int(prediction.class_id)).mean())
        assert classes.min() == 0  # every pixel has its class
        with Image.open(path) as image:
            assert classes.shape == image.size[::-1]
        shares.append((classes == right[path.name]).mean())
    print(f"the same class in {min(shares):.5f} of the pixels, at least")  # noqa: T201
    assert min(shares) >= 0.999
