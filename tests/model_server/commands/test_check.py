"""`python -m model_server check`: what it prints of a sound folder, and what it says of others."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model_server.catalogue.model_spec import Label, read_model
from model_server.commands import check
from model_server.commands.terminal import DONE, REFUSED
from model_server.engines.openvino import conversion
from settings import PROJECT
from tests.model_server.engines.openvino import test_importing as network


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of three classes; what a child process would do is done in this one."""
    monkeypatch.setattr(conversion, "_run_child", network._in_this_process)
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PRECISION", "fp32")
    network.write(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.slow
def test_a_sound_folder_is_told_with_its_predictions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = folder.parent / "picture.png"
    Image.fromarray(network.PICTURES[0]).save(picture)
    assert check.main([str(folder), "--picture", str(picture), "--top", "1"]) == DONE
    told = capsys.readouterr().out
    assert 'net: classification, 3 labels ("one", "two", "three")' in told
    assert "onnx: net.onnx" in told
    assert "5 x 4, 3 channels (rgb), fit stretch" in told
    assert "openvino fp32" in told
    right = network.expected(network.PICTURES[:1])[0]
    best = f"  {right.max():8.4f}  {('one', 'two', 'three')[right.argmax()]}  ({right.argmax()})"
    assert [line for line in told.splitlines() if line.startswith("  ")] == [best]
    assert told.splitlines()[-1].endswith("MODELS=net make serve")


def test_labels_with_commas_are_told_apart_and_one_channel_is_grey() -> None:
    spec = read_model(PROJECT / "models", "digits")
    labels = tuple(Label(str(at), name) for at, name in enumerate(("tench, Tinca tinca", "cock", "a", "b")))
    model, _, taken = check._described(replace(spec, labels=labels))
    assert model.endswith('4 labels ("tench, Tinca tinca", "cock", "a", ...)')
    assert "28 x 28, 1 channel (grey), fit ink" in taken
    (model, *_) = check._described(replace(spec, labels=labels[:1]))
    assert model.endswith('1 label ("tench, Tinca tinca")')


def test_more_predictions_than_there_are_labels_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([str(folder), "--top", "4"]) == REFUSED
    assert capsys.readouterr().err == "--top is 4; net gives at most 3.\n"


@pytest.mark.slow
def test_without_a_picture_a_drawn_one_is_tried(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(folder)]) == DONE
    told = capsys.readouterr().out
    assert "picture     drawn" in told
    assert len([line for line in told.splitlines() if line.startswith("  ")]) == 2  # model.toml's top


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.toml", network.TOML.replace('"stretch"', '"squeeze"'), "line 11, input.fit: "),
        ("model.toml", network.TOML.replace('"softmax"', '"none"'), "not probabilities"),
        ("labels.txt", "one\ntwo\n", "there are 2 labels"),
        ("net.onnx", "nothing", "OpenVINO can't read net.onnx"),
    ],
)
def test_what_is_wrong_is_said_and_is_the_status(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, content: str, words: str
) -> None:
    (folder / file).write_text(content)
    assert check.main([str(folder)]) == REFUSED
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("name", "words"), [("none.png", "No such file"), ("labels.txt", "not a picture")])
def test_a_picture_that_can_not_be_read_is_said_too(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert check.main([str(folder), "--picture", str(folder / name)]) == REFUSED
    assert words in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["models/other"]) == REFUSED
    assert "Available: " in capsys.readouterr().err


def test_a_path_that_is_not_there_is_looked_for_where_it_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets" / "cats").mkdir(parents=True)
    (tmp_path / "nets" / "cats" / "model.toml").touch()
    assert check.main([str(tmp_path / "nets" / "dogs")]) == REFUSED
    told = capsys.readouterr().err
    assert f"no file {tmp_path}/nets/dogs/model.toml. Available: cats." in told
