"""A detector's model.toml: what it gives, and what is refused with its line."""

import re
from pathlib import Path

import pytest

from broker.messages import Decode, Library
from model_server.catalogue.detection_layout import MOST_DETECTIONS, Detection
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_model
from model_server.engines.check.detection import TOLERANCES
from settings import PROJECT

TOML = """task = "detection"
labels = "coco.names"
top = 100

[source]
kind = "darknet"
cfg = "a.cfg"
weights = "a.weights"

[input]
width = 320
height = 320
channels = 3
fit = "stretch"
normalise = "unit"
"""


def _read(folder: Path, text: str) -> ModelSpec:
    model = folder / "yolo"
    model.mkdir(exist_ok=True)
    (model / "coco.names").write_text("person\nbicycle\ntraffic light\n")
    (model / "model.toml").write_text(text)
    return read_model(folder, "yolo")


def test_a_darknet_detector_needs_no_table_of_its_own(tmp_path: Path) -> None:
    spec = _read(tmp_path, TOML)
    assert [label.label for label in spec.labels] == ["person", "bicycle", "traffic light"]
    assert spec.options == Detection(objectness=2, format="cxcywh")
    assert spec.weights == "a.weights"
    assert (spec.input.library, spec.input.decode) == (Library.OPENCV, Decode.EXACT)
    card = spec.card()
    assert (card.task, card.classes, card.top, card.top_max) == ("detection", 3, 100, MOST_DETECTIONS)


def test_thresholds_are_taken(tmp_path: Path) -> None:
    spec = _read(tmp_path, TOML + "[detection]\nconfidence = 0.25\nnms_iou = 1\n")
    assert spec.options == Detection(confidence=0.25, nms_iou=1, objectness=2, format="cxcywh")


def test_another_source_tells_how_its_outputs_are_laid_out(tmp_path: Path) -> None:
    source = '[source]\nkind = "keras_file"\nfile = "a.keras"\n'
    text = TOML[: TOML.index("[source]")] + source + TOML[TOML.index("[input]") :]
    text += '[detection]\nboxes = "where"\nscores = 3\nformat = "yxyx"\nunits = "pixels"\n'
    told = _read(tmp_path, text).options
    assert told == Detection(boxes="where", scores=3, format="yxyx", units="pixels")
    assert told.outputs == ("where", 3)
    assert Detection(layout="ultralytics").outputs == (0,)


REFUSED = {
    TOML.replace("stretch", "ink").replace(
        "channels = 3", "channels = 1"
    ): r"line 14, input\.fit: A detector",
    TOML
    + '[output]\nactivation = "softmax"\n': r"line 17, output\.activation: activation is for probabilities",
    TOML.replace('"detection"', '"classification"')
    + "[detection]\n": r"line 16, detection: \[detection\] is for task",
    TOML + "[detection]\nconfidence = 1.5\n": r"line 17, detection\.confidence: .*a number from 0 to 1",
    TOML + '[detection]\nconfidence = "high"\n': r"line 17, detection\.confidence: .*a number from 0 to 1",
    TOML + '[detection]\nformat = "xyxy"\nunits = "pixels"\n': r"line 18, detection\.units: The layout of",
    TOML
    + '[detection]\nboxes = "a"\n': r"line 17, detection\.boxes: The layout of Darknet's outputs is known",
    TOML + "[detection]\nboxes = -1\n": r"line 17, detection\.boxes",
    TOML + "[detection]\nnms = 1\n": r"line 17, detection\.nms: .*unknown field `nms`",
    TOML.replace("a.cfg", "../a.cfg"): r"source\.cfg: '\.\./a\.cfg' is outside this folder",
    TOML.replace("a.weights", "/a.weights"): r"source\.weights: '/a\.weights' is outside",
    TOML.replace('cfg = "a.cfg"\n', ""): r"required field `cfg`",
    TOML.replace('"unit"', '"none"'): r"line 15, input\.normalise: Darknet's networks take 0\.\.1",
    TOML.replace("width = 320", "width = 300"): r"line 11, input\.width: width must be a multiple of 32",
    TOML.replace("height = 320", "height = 300"): r"line 12, input\.height: height must be a multiple of 32",
    TOML + "[detection]\nnms = 2\n": r"docs/detection\.md describes \[detection\]",
    TOML.replace("top = 100", "top = 1001"): r"line 3, top: .*at most 1000\. Write 1000",
    TOML.replace('"detection"', '"segmenting"'): r"line 1, task: .*classification, detection",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_does_not_fit_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(CatalogueError, match=REFUSED[text]):
        _read(tmp_path, text)


def test_the_examples_of_the_page_are_taken(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "detection.md").read_text("utf-8")
    examples = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for at, text in enumerate(examples):
        (tmp_path / str(at)).mkdir()
        (tmp_path / str(at) / re.findall(r'labels = "(.+?)"', text)[0]).write_text("a\nb\n")
        (tmp_path / str(at) / "model.toml").write_text(text)
        assert read_model(tmp_path, str(at)).options is not None


def test_the_page_says_what_is_allowed_to_differ() -> None:
    page = (PROJECT / "docs" / "detection.md").read_text("utf-8")
    rows = re.findall(r"^\| .+? \| ([\d.]+) \| ([\d.]+) \| ", page, re.MULTILINE)
    exact, half = TOLERANCES["fp32"], TOLERANCES["bf16"]
    assert [(float(one), float(two)) for one, two in rows] == [
        (exact.peak, half.peak),
        (exact.log, half.log),
        (exact.box, half.box),
    ]
