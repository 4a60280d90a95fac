"""`python -m model_server check` of a pipeline: its steps, and what their models can't do."""

from pathlib import Path

import pytest

from model_server.commands import check, quantise
from model_server.commands.terminal import DONE, IMPOSSIBLE, REFUSED
from tests.model_server.catalogue.test_detection_toml import TOML as DETECTOR
from tests.model_server.catalogue.test_pipeline_toml import TOML

CLASSIFIER = """task = "classification"
labels = "labels.txt"

[source]
kind = "onnx"
file = "a.onnx"

[input]
width = 8
height = 8
channels = 3
fit = "crop"
normalise = "unit"
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A pipeline with the models of its steps."""
    for name, text, labels in (
        ("street", TOML, ""),
        ("yolo", DETECTOR, "person\ndog\n"),
        ("dogs", CLASSIFIER, "a\nb\nc\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.toml").write_text(text)
        (folder / "coco.names").write_text(labels)
        (folder / "labels.txt").write_text(labels)
    return tmp_path


def test_the_steps_are_told_with_what_they_are_asked_about(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([str(models / "street")]) == DONE
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        "model       street: a pipeline of 2 steps",
        "step        objects: yolo (detection), asked about the whole picture",
        "step        kind: dogs (classification), asked about the boxes of objects labelled dog "
        "of 0.5 or more, 8 at most",
    ]
    assert told[3].endswith(f"MODELS_DIR={models} MODELS=street,yolo,dogs make serve")


def test_a_model_may_be_served_elsewhere(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "dogs").rename(models / "dgos")
    assert check.main([str(models / "street")]) == DONE
    told = capsys.readouterr().out
    assert f"kind: dogs (NOT in {models}; did you mean dgos? Another host must serve it)" in told
    assert "MODELS=street,yolo make serve" in told


@pytest.mark.parametrize("option", ["--picture", "--golden", "--top"])
def test_what_needs_a_network_is_refused(
    models: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert check.main([str(models / "street"), option, "3"]) == REFUSED
    assert f"{option} is for a model with a network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('labels = ["dog"]', 'labels = ["dgo"]', "yolo has no label 'dgo'; did you mean 'dog'?"),
        ("top = 3", "top = 4", "top is 4, and dogs gives at most 3"),
        ('model = "yolo"', 'model = "dogs"', "whose model dogs is a classifier: it gives no boxes"),
        ('model = "dogs"', 'model = "street"', "street is a pipeline itself"),
    ],
)
def test_what_a_step_s_model_can_t_do_is_refused(
    models: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    toml = models / "street" / "model.toml"
    toml.write_text(toml.read_text().replace(old, new))
    assert check.main([str(models / "street")]) == REFUSED
    assert said in capsys.readouterr().err


def test_a_pipeline_is_not_quantised(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(models))
    assert quantise.main(["street", "--pictures", str(models)]) == IMPOSSIBLE
    assert "quantise its steps' models" in capsys.readouterr().err
