"""What a model's folder may say, and what is said of one that is wrong."""

from pathlib import Path

import pytest

from broker.messages import Fit
from model_server.catalogue import CatalogueError, KerasApplication, KerasFile, read_model

MODELS = Path(__file__).resolve().parents[2] / "models"

TOML = """
task = "classification"
labels = "labels.csv"
top = 2
[source]
kind = "keras_file"
file = "net.keras"
[input]
width = 4
height = 3
channels = 3
fit = "pad"
normalise = "unit"
"""
LABELS = "index,class_id,label\n0,a,cat\n1,b,dog\n"


def _folder(tmp_path: Path, toml: str = TOML, labels: str = LABELS) -> Path:
    folder = tmp_path / "net"
    folder.mkdir(exist_ok=True)
    (folder / "model.toml").write_text(toml)
    (folder / "labels.csv").write_text(labels)
    return tmp_path


def test_the_bundled_models_are_sound() -> None:
    resnet50 = read_model(MODELS, "resnet50")
    assert resnet50.source == KerasApplication("ResNet50")
    assert resnet50.input.shape == (224, 224, 3)
    assert len(resnet50.labels) == 1000
    assert (resnet50.labels[285].class_id, resnet50.labels[285].label) == ("n02124075", "Egyptian_cat")
    digits = read_model(MODELS, "digits")
    assert digits.source == KerasFile("digits.keras")
    assert [label.label for label in digits.labels] == list("0123456789")
    assert digits.input.fit is Fit.INK


def test_weights_can_be_replaced_and_the_card_says_so() -> None:
    spec = read_model(MODELS, "resnet50", weights="random")
    assert spec.weights == "random"
    assert spec.card().weights == "random"
    assert read_model(MODELS, "resnet50", weights="/a/b/mine.h5").weights == "mine.h5"
    assert spec.version != read_model(MODELS, "resnet50").version


def test_the_version_changes_with_the_folder(tmp_path: Path) -> None:
    models = _folder(tmp_path)
    first = read_model(models, "net").version
    assert first == read_model(models, "net").version
    (models / "net" / "net.keras").write_bytes(b"weights")
    assert read_model(models, "net").version != first


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('task = "classification"', 'task = "guessing"', "guessing"),
        ("top = 2", "top = 0", "at least 1"),
        ("width = 4", "width = -4", "line 9, input.width"),
        ("width = 4", "width = 4097", "a whole number from 1 to 4096"),
        ("channels = 3", "channels = 2", "channels"),
        ('fit = "pad"', 'fit = "squeeze"', "squeeze"),
        ('fit = "pad"', 'fit = "ink"', "channels must be 1"),
        ('kind = "keras_file"', 'kind = "pickle"', "pickle"),
        ('normalise = "unit"', 'normalise = "unit"\nflip = true', "flip"),
        ('labels = "labels.csv"', 'labels = "../../etc/passwd"', "outside this folder"),
        ('labels = "labels.csv"', 'labels = "none.csv"', "no file 'none.csv'"),
        ("top = 2", "top = two", "line"),
    ],
)
def test_a_wrong_model_toml_is_named_with_what_is_wrong(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in TOML
    with pytest.raises(CatalogueError, match=r"model\.toml") as refusal:
        read_model(_folder(tmp_path, TOML.replace(old, new)), "net")
    assert words in str(refusal.value)


def test_a_wrong_value_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="squeeze") as refusal:
        read_model(_folder(tmp_path, TOML.replace('"pad"', '"squeeze"')), "net")
    assert "net/model.toml, line 12, input.fit: " in str(refusal.value)
    assert "Allowed: stretch, crop, pad, ink." in str(refusal.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("", "columns"),
        ("index,label\n0,cat\n", "columns"),
        ("index,class_id,label\n0,a,cat\n2,b,dog\n", "line 3"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, labels: str, words: str) -> None:
    with pytest.raises(CatalogueError, match=words):
        read_model(_folder(tmp_path, labels=labels), "net")


@pytest.mark.parametrize("name", ["other", "../net", "Net"])
def test_an_unknown_model_is_named_with_those_that_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogueError, match="There are: net"):
        read_model(_folder(tmp_path), name)
