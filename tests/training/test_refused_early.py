"""What retraining refuses before TensorFlow is loaded: said later it would cost minutes, or hours."""

import sys
from pathlib import Path

import pytest

from tests.training.folders import fill
from training import publish, retrain
from training.publish import PublishError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return fill(tmp_path / "pictures", each=6)


@pytest.fixture(autouse=True)
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to the steps has not refused in time."""
    monkeypatch.setitem(sys.modules, "training.steps", None)


def _refused(pictures: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    models = pictures.parent / "models"
    command = [str(pictures), "--name", "pets", "--models", str(models), *options]
    assert retrain.main(command) == retrain.IMPOSSIBLE
    return capsys.readouterr().err


def test_what_can_be_done_comes_to_the_steps(pictures: Path) -> None:
    with pytest.raises(ImportError, match="steps"):
        retrain.main([str(pictures), "--name", "pets", "--models", str(pictures.parent / "models")])
    assert not (pictures.parent / "models").exists()


def test_a_model_that_is_there_already(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures.parent / "models" / "pets").mkdir(parents=True)
    assert "exists already: --replace" in _refused(pictures, capsys=capsys)


def test_a_place_that_can_t_be_written(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures.parent / "models").write_text("a file")
    assert "--models chooses another place" in _refused(pictures, capsys=capsys)


def test_a_model_that_could_not_be_replaced_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    publish.refuse_unwritable(tmp_path / "pets", replace=True)
    monkeypatch.setattr(publish, "_RENAME_EXCHANGE", 1 << 10)  # a flag that no file system knows
    with pytest.raises(PublishError, match=r"pets can't be replaced \(.*choose another --name"):
        publish.refuse_unwritable(tmp_path / "pets", replace=True)
    assert [each.name for each in tmp_path.iterdir()] == ["pets"]


@pytest.mark.parametrize("weights", ["gone.keras", "gone.h5", "imagenett"])
def test_weights_that_are_not_there(pictures: Path, capsys: pytest.CaptureFixture[str], weights: str) -> None:
    told = _refused(pictures, "--weights", weights, capsys=capsys)
    assert f"--weights {weights}: no such file. Use imagenet" in told


def test_a_keras_file_whose_pictures_nobody_describes(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures.parent / "net.keras").touch()
    told = _refused(pictures, "--weights", str(pictures.parent / "net.keras"), capsys=capsys)
    assert "set --normalise" in told


@pytest.mark.parametrize("kept", [0, 4])
def test_a_class_with_too_few_files(pictures: Path, capsys: pytest.CaptureFixture[str], kept: int) -> None:
    for each in sorted((pictures / "sea").iterdir())[kept:]:
        each.unlink()
    assert f"sea has {kept} files; a class needs at least 5" in _refused(pictures, capsys=capsys)


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").mkdir()
    assert "holds 0 folders" in _refused(tmp_path / "pictures", capsys=capsys)
