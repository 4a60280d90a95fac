"""What a model's folder may say, and what is said of one that is wrong."""

import tomllib
from pathlib import Path

import pytest

from broker.messages import Fit
from model_server.catalogue.model_spec import (
    CatalogueError,
    KerasApplication,
    KerasFile,
    Label,
    Source,
    read_model,
    read_spec,
)
from model_server.catalogue.model_toml import (
    FrozenGraph,
    Normalisation,
    Onnx,
    Paddle,
    SavedModel,
    TFLite,
    TorchExport,
    TorchNetwork,
    TorchScript,
)
from tests.support import ROOT

MODELS = ROOT / "models"

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
    densenet121 = read_model(MODELS, "densenet121")
    assert densenet121.source == KerasApplication("DenseNet121")
    assert densenet121.labels == resnet50.labels
    assert (densenet121.input.fit, densenet121.input.resize) == (Fit.CROP, 255)
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


def test_weights_from_elsewhere_are_in_the_version_by_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    versions = {str(path): read_model(MODELS, "resnet50", weights=str(path)).version for path in (one, other)}
    assert versions[str(one)] == versions[str(other)]
    assert versions[str(one)] != read_model(MODELS, "resnet50").version
    one.write_bytes(b"WEIGHTS")
    assert read_model(MODELS, "resnet50", weights=str(one)).version != versions[str(other)]
    assert read_model(MODELS, "densenet121", weights=str(other)).version != versions[str(other)]


@pytest.mark.parametrize("name", ["Net", "my net", "../net"])
def test_a_name_that_is_none_is_not_called_missing(tmp_path: Path, name: str) -> None:
    models = _folder(tmp_path)
    (models / "Net").mkdir()
    (models / "Net" / "model.toml").touch()
    with pytest.raises(CatalogueError, match="can't be a model's name: the folder's name may only have a-z"):
        read_model(models, name)
    with pytest.raises(CatalogueError, match=r"Available: net\."):
        read_model(models, "none")


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


def test_an_unknown_model_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="Available: net"):
        read_model(_folder(tmp_path), "other")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('kind = "onnx"\nfile = "net.onnx"', Onnx("net.onnx")),
        ('kind = "tflite"\nfile = "net.tflite"', TFLite("net.tflite")),
        ('kind = "frozen_graph"\nfile = "net.pb"', FrozenGraph("net.pb")),
        ('kind = "saved_model"\nfolder = "net"', SavedModel("net")),
        ('kind = "paddle"\nfile = "net.pdmodel"', Paddle("net.pdmodel")),
        ('kind = "torchscript"\nfile = "net.pt"', TorchScript("net.pt")),
        ('kind = "torch_export"\nfile = "net.pt2"', TorchExport("net.pt2")),
        (
            'kind = "torch_network"\nweights = "net.pth"\nlibrary = "timm"\nname = "resnet18"',
            TorchNetwork("timm", "resnet18", "net.pth"),
        ),
    ],
)
def test_each_kind_of_source(tmp_path: Path, source: str, expected: Source) -> None:
    toml = TOML.replace('kind = "keras_file"\nfile = "net.keras"', source)
    spec = read_model(_folder(tmp_path, toml), "net")
    assert spec.source == expected
    assert spec.is_imported
    assert spec.is_torch == ("torch" in source)
    assert spec.weights == source.split('"')[3]


def test_the_optional_fields(tmp_path: Path) -> None:
    toml = TOML.replace('fit = "pad"', 'fit = "crop"\nresize = 9\norder = "bgr"')
    toml = toml.replace('"unit"', "{ mean = [1, 2, 3], std = [4, 5, 6] }")
    spec = read_model(_folder(tmp_path, toml + '[output]\nactivation = "sigmoid"\n'), "net")
    assert (spec.input.resize, spec.order, spec.activation) == (9, "bgr", "sigmoid")
    assert spec.normalise == Normalisation((1, 2, 3), (4, 5, 6))
    plain = read_model(_folder(tmp_path), "net")
    assert (plain.input.resize, plain.order, plain.activation) == (0, "rgb", "none")


@pytest.mark.parametrize(
    ("old", "new", "where", "allowed"),
    [
        ('"keras_file"', '"pickle"', "line 6, source.kind", "keras_file, onnx, tflite, frozen_graph"),
        ('kind = "keras_file"', 'kind = "saved_model"', "line 7, source.file", "'saved_model' with folder"),
        ('kind = "keras_file"\n', "", "line 5, source.kind", "keras_application, keras_file"),
        ('"net.keras"', '"../x.keras"', "line 7, source.file", "outside this folder"),
        ("width = 4\n", "", "line 8, input.width", "a whole number from 1 to 4096"),
        ('"unit"', '"half"', "line 13, input.normalise", "or a table of mean, std"),
        ('"unit"', "{ mean = [1, 2, 3] }", "line 13, input.normalise.std", "each a number above 0"),
        ('"unit"', "{ mean = [1], std = [1, 1, 1] }", "line 13, input.normalise.mean", "3 channels"),
        ('"unit"', "{ mean = [0, 0, 0], std = [1, 0, 1] }", "line 13, input.normalise.std", "above 0"),
        (
            '"unit"',
            "{ mean = [0.5, 0.5, 0.5], std = [0.2, 0.2, 1] }",
            "line 13, input.normalise.std",
            "by 255",
        ),
        ('"unit"', "{ mean = [nan, 0, 0], std = [1, 1, 1] }", "line 13, input.normalise.mean", "a number"),
        ('"unit"', '"unit"\norder = "grb"', "line 14, input.order", "rgb"),
        ('"unit"', '"caffe"\norder = "bgr"', "line 14, input.order", "BGR already"),
        ('"pad"', '"pad"\nresize = 8', "line 13, input.resize", 'fit must be "crop"'),
        ('"pad"', '"crop"\nresize = 3', "line 13, input.resize", "at least the width and the height"),
        ('"unit"', '"unit"\n[output]\nactivation = "relu"', "line 15, output.activation", "softmax"),
        ("top = 2", "top = 3", "line 4, top", "the model has 2 labels. Write 2 or less."),
        ("top = 2", "top = 2\nbottom = 1", "line 5, bottom", "A model.toml is a table of task"),
    ],
)
def test_a_refusal_names_the_line_the_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, where: str, allowed: str
) -> None:
    assert old in TOML
    with pytest.raises(CatalogueError) as refusal:
        read_model(_folder(tmp_path, TOML.replace(old, new)), "net")
    assert f"net/model.toml, {where}: " in str(refusal.value)
    assert allowed in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("top = 2", "top = two", 4),
        ('"unit"', "", 13),
        ('"pad"', "“pad”", 12),
        ('"pad"', '"pad', 12),
        ('"unit"', '"unit', 13),
        ('"pad"', "'pad", 12),
        ('"net.keras"', '"nets\\mine.keras"', 7),
        ("top = 2", "top: 2", 4),
        ("top = 2", "top = 2 3", 4),
        ("[source]", "[source", 5),
        ("[source]", "[]", 5),
        ('"unit"', "{ mean = [1, 2", 13),
        ('"unit"', "{ mean = [1, 2, 3]", 13),
        ("height = 3", "width = 3", 10),
        ("[input]", "[source]", 8),
        ("top = 2", "= 2", 4),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line_and_what_tomllib_says(
    tmp_path: Path, old: str, new: str, line: int
) -> None:
    assert old in TOML
    toml = TOML.replace(old, new)
    with pytest.raises(tomllib.TOMLDecodeError) as said:
        tomllib.loads(toml)
    with pytest.raises(CatalogueError) as refusal:
        read_model(_folder(tmp_path, toml), "net")
    assert f"net/model.toml, line {line}: this is not valid TOML: {said.value}. A line is" in str(
        refusal.value
    )
    assert "straight quotes" in str(refusal.value)


def test_a_model_toml_of_another_coding_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = _folder(tmp_path) / "net" / "model.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    assert read_model(tmp_path, "net").top == 2
    path.write_bytes(TOML.replace("net.keras", "Büro.keras").encode("latin-1"))
    with pytest.raises(CatalogueError, match="can't be read as UTF-8"):
        read_model(tmp_path, "net")


@pytest.mark.parametrize(
    "source",
    [
        "",
        'kind = "paddle"\nfile = "."',
        'kind = "paddle"\nfile = "param.tar"',
        'kind = "paddle"\nfile = "inference_topology.pkl"',
        'kind = "onnx"\nfile = "inference_topology.pkl"',
        'kind = "saved_model"\nfolder = "."',
        'kind = "paddle"\nfile = "old"',
    ],
)
def test_a_network_of_paddle_0_11_is_refused_with_what_to_do(tmp_path: Path, source: str) -> None:
    old = 'kind = "keras_file"\nfile = "net.keras"'
    folder = _folder(tmp_path, TOML.replace(old, source))
    place = folder / "net" / "old" if '"old"' in source else folder / "net"
    place.mkdir(exist_ok=True)
    (place / "param.tar").write_bytes(b"")
    (place / "inference_topology.pkl").write_bytes(b"cos\nsystem\n(S'touch read'\ntR.")
    if not source:
        (folder / "net" / "model.toml").unlink()
    with pytest.raises(CatalogueError, match=r"PaddlePaddle 0\.11 .*param\.tar.*docs/tutorials\.md"):
        read_model(folder, "net")


def test_what_is_left_of_paddle_0_11_hinders_no_converted_network(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for name in ("param.tar", "inference_topology.pkl"):
        (folder / "net" / name).write_bytes(b"")
    assert read_model(folder, "net").source == KerasFile("net.keras")


def test_a_class_has_its_place_among_the_labels(tmp_path: Path) -> None:
    labels = "index,class_id,label\n0,a,crane\n1,b,crane\n2,c,cat\n3,c,cat\n4,d,cat\n"
    spec = read_model(_folder(tmp_path, labels=labels), "net")
    named = [("a", "crane"), ("b", "crane"), ("c", "cat"), ("d", "cat")]
    assert [spec.indices[name] for name in named] == [0, 1, 2, 4]


def test_labels_a_line_each_have_their_index_for_an_id(tmp_path: Path) -> None:
    for name in ("labels.txt", "coco.names"):
        folder = _folder(tmp_path, TOML.replace("labels.csv", name))
        (folder / "net" / name).write_bytes(b"\xef\xbb\xbfa cat\r\ndog, a good one\r\n\r\n")
        assert read_model(folder, "net").labels == (Label("0", "a cat"), Label("1", "dog, a good one"))


@pytest.mark.parametrize(
    ("text", "words"), [("", "a line for each"), ("a\n\nb\n", "line 2: this line is empty")]
)
def test_wrong_lines_of_labels_are_refused(tmp_path: Path, text: str, words: str) -> None:
    folder = _folder(tmp_path, TOML.replace("labels.csv", "labels.txt"))
    (folder / "net" / "labels.txt").write_text(text)
    with pytest.raises(CatalogueError, match=words):
        read_model(folder, "net")


def test_any_keras_application_has_a_variable_for_its_weights(tmp_path: Path) -> None:
    given = {"DENSENET121_WEIGHTS": "random", "RESNET50_WEIGHTS": "imagenet"}
    assert read_spec(MODELS, "densenet121", given).weights == "random"
    assert read_spec(MODELS, "resnet50", given).weights == "imagenet"
    assert read_spec(MODELS, "digits", given).weights == "digits.keras"
    file = tmp_path / "mine.h5"
    file.touch()
    assert read_spec(MODELS, "densenet121", {"DENSENET121_WEIGHTS": str(file)}).weights == "mine.h5"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DENSENET121_WEIGHTS", "imagenett", "='imagenett' is not imagenet, random or the path of a file"),
        ("DIGITS_WEIGHTS", "random", "digits has its weights in its own file"),
    ],
)
def test_bad_weights_are_refused_with_their_variable(variable: str, value: str, words: str) -> None:
    model = variable.removesuffix("_WEIGHTS").lower()
    with pytest.raises(CatalogueError, match=f"^{variable}=.*") as refusal:
        read_spec(MODELS, model, {variable: value})
    assert words in str(refusal.value)
