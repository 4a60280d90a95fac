"""`python -m model_server new`: what it tells of each kind of network, and that its folder can be served."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.commands import check, new
from model_server.commands.terminal import DONE, IMPOSSIBLE, REFUSED
from model_server.engines.openvino import conversion, importing
from model_server.engines.torch.sources import INSTALL
from settings import PROJECT
from tests.model_server.engines import onnx_file
from tests.support import keras_fork

pytestmark = pytest.mark.slow  # together they wait for seconds

SIDE = 8
NUMBERS = 3 * SIDE * SIDE
CHANCE = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models; what a child process would do is done in this one."""

    def in_this_process(spec: ModelSpec, width: str, into: Path) -> None:
        importing.write(spec, into, half=width == "half", in_int8=width == "int8")

    monkeypatch.setattr(conversion, "_run_child", in_this_process)
    for name, value in {"MODELS_DIR": "models", "CACHE_DIR": "cache"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PRECISION", "fp32")
    return tmp_path / "models"


def _onnx(folder: Path, shape: tuple[int, ...], ending: str = "") -> Path:
    """A network that multiplies its picture by a matrix, reshapes, and perhaps ends in an activation."""
    numbers = int(np.prod(shape))
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "numbers"),
        onnx_file.node("Reshape", ["numbers", "to"], "last"),
        onnx_file.node(ending or "Identity", ["last"], "out"),
    ]
    constants = [
        onnx_file.constant("flat", np.array((-1, NUMBERS), np.int64)),
        onnx_file.constant("to", np.array((-1, *shape), np.int64)),
        onnx_file.constant("weights", CHANCE.normal(0, 0.02, (NUMBERS, numbers)).astype(np.float32)),
    ]
    picture = onnx_file.value("picture", ("n", 3, SIDE, SIDE))
    path = folder / "My Net.onnx"
    path.write_bytes(onnx_file.model(nodes, [picture], [onnx_file.value("out", ("n", *shape))], constants))
    return path


@pytest.mark.parametrize(
    ("shape", "ending", "fields"),
    [
        ((7,), "Softmax", {"task": "classification", "activation": "none", "labels": 7}),
        ((7,), "", {"task": "classification", "activation": "softmax", "labels": 7}),
        ((1000,), "Softmax", {"task": "classification", "activation": "none", "labels": 1000}),
        ((1,), "Sigmoid", {"task": "classification", "activation": "none", "labels": 2}),
        ((4,), "Sigmoid", {"task": "multi_label", "activation": "none", "labels": 4}),
        ((1,), "", {"task": "regression", "activation": "none", "labels": 1}),
        ((96,), "Abs", {"task": "embedding", "labels": 0}),
        ((3, 20, 24), "Sigmoid", {"task": "image", "labels": 0}),
        ((9, 50), "Sigmoid", {"task": "detection", "labels": 5, "normalise": "unit"}),
        ((56, 300), "Sigmoid", {"task": "keypoints", "labels": 1, "normalise": "unit"}),
        ((5, 16, 16), "", {"task": "segmentation", "labels": 5}),
        ((8, 8, 21), "", {"task": "segmentation", "labels": 21}),
        ((512, 8, 8), "", {"task": "raw", "labels": 0}),
        ((2, 3, 4, 5), "", {"task": "raw", "labels": 0}),
    ],
)  # fmt: skip
def test_a_network_becomes_a_model_that_can_be_served(
    tmp_path: Path, models: Path, shape: tuple[int, ...], ending: str, fields: dict[str, Any]
) -> None:
    assert new.main([str(_onnx(tmp_path, shape, ending))]) == DONE
    spec = read_model(models, "my-net")
    assert (spec.input.width, spec.input.height, spec.input.channels) == (SIDE, SIDE, 3)
    assert {
        "task": spec.task.name,
        "activation": spec.activation,
        "labels": len(spec.labels),
        "normalise": spec.normalise,
    } == {"activation": "none", "normalise": "torch", **fields}
    text = (models / "my-net" / "model.toml").read_text()
    assert "  # guessed: " in next(line for line in text.splitlines() if line.startswith("task = "))


def _two_outputs(folder: Path, rows: int, maps: tuple[int, ...], metadata: dict[str, str]) -> Path:
    """Rows for boxes, and prototypes of masks if there are `maps`, as Ultralytics' files have them."""
    shapes = {"rows": (rows, 4 * rows + 4), **({"maps": maps} if maps else {})}
    nodes = [onnx_file.node("Reshape", ["picture", "flat"], "row")]
    constants = [onnx_file.constant("flat", np.array((-1, NUMBERS), np.int64))]
    for name, shape in shapes.items():
        weights = CHANCE.normal(0, 0.02, (NUMBERS, int(np.prod(shape)))).astype(np.float32)
        constants += [
            onnx_file.constant(f"to {name}", np.array((-1, *shape), np.int64)),
            onnx_file.constant(f"of {name}", weights),
        ]
        nodes += [
            onnx_file.node("MatMul", ["row", f"of {name}"], f"{name} flat"),
            onnx_file.node("Reshape", [f"{name} flat", f"to {name}"], f"{name} last"),
            onnx_file.node("Sigmoid", [f"{name} last"], name),
        ]
    outputs = [onnx_file.value(name, ("n", *shape)) for name, shape in shapes.items()]
    content = onnx_file.model(nodes, [onnx_file.value("picture", ("n", 3, SIDE, SIDE))], outputs, constants)
    path = folder / "yolo.onnx"
    path.write_bytes(content + onnx_file.metadata(metadata))
    return path


@pytest.mark.parametrize(
    ("rows", "labels", "served"),
    [
        (4 + 10, 7, "detection"),  # not one point each
        (4 + 1 + 3 * 5, 1, "keypoints"),
        (4 + 1 + 3 * 1, 1, "detection"),
    ],
)
def test_rows_are_poses_only_of_several_points_and_few_classes(
    tmp_path: Path, models: Path, rows: int, labels: int, served: str
) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"class{number}\n" for number in range(labels)))
    new.main([str(_two_outputs(tmp_path, rows, (), {})), str(tmp_path / "labels.txt")])
    assert f'task = "{served}"' in (models / "yolo" / "model.toml").read_text()


@pytest.mark.usefixtures("models")
def test_labels_that_are_not_as_many_as_the_file_says_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow\n")
    metadata = {"task": "detect", "names": "{0: 'cat', 1: 'dog'}", "stride": "32"}
    path = _two_outputs(tmp_path, 4 + 2, (), metadata)
    assert new.main([str(path), str(tmp_path / "labels.txt")]) != DONE
    assert "3 labels" in capsys.readouterr().err


def test_a_file_of_ultralytics_may_say_nonsense_of_its_points(tmp_path: Path, models: Path) -> None:
    metadata = {"task": "pose", "names": "{0: 'cat', 1: 'dog'}", "stride": "32", "kpt_shape": "[1e999, 3]"}
    assert new.main([str(_two_outputs(tmp_path, 4 + 2 + 3 * 5, (), metadata))]) == DONE
    assert read_model(models, "yolo").task.name == "raw"


@pytest.mark.parametrize(
    ("task", "rows", "maps", "kpt_shape", "served"),
    [
        ("detect", 4 + 2, (), "", "detection"),
        ("segment", 4 + 2 + 8, (8, 8, 8), "", "segmentation"),
        ("pose", 4 + 2 + 3 * 5, (), "[5, 3]", "keypoints"),
        ("pose", 4 + 2 + 2 * 6, (), "[6, 2]", "raw"),  # without a probability for each point
        ("obb", 4 + 2 + 1, (), "", "raw"),
        ("", 4 + 2 + 8, (8, 8, 8), "", "segmentation"),
    ],
)
def test_a_file_of_ultralytics_says_its_task_and_its_classes(
    tmp_path: Path, models: Path, task: str, rows: int, maps: tuple[int, ...], kpt_shape: str, served: str
) -> None:
    metadata = {"task": task, "names": "{0: 'cat', 1: 'dog'}", "stride": "32", "kpt_shape": kpt_shape}
    path = _two_outputs(tmp_path, rows, maps, {k: v for k, v in metadata.items() if v} if task else {})
    assert new.main([str(path)]) == DONE
    spec = read_model(models, "yolo")
    assert spec.task.name == served
    assert spec.normalise == "unit"
    text = (models / "yolo" / "model.toml").read_text()
    if task and served != "raw":
        assert f'task = "{served}"\n' in text  # no guess
    if served != "raw":
        named = ["cat", "dog"] if task else ["class 0", "class 1"]
        assert [label.label for label in spec.labels] == named
        assert (spec.input.fit, spec.input.border) == ("pad", 114)


def test_labels_tell_points_from_classes(tmp_path: Path, models: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("hand\n")
    path = _onnx(tmp_path, (4 + 1 + 3 * 2, 60), "Sigmoid")
    assert new.main([str(path), str(labels)]) == DONE
    assert read_model(models, "my-net").task.name == "keypoints"


def test_what_is_guessed_is_said_and_imagenet_has_its_labels(tmp_path: Path, models: Path) -> None:
    assert new.main([str(_onnx(tmp_path, (1000,), "Softmax")), "--name", "net"]) == DONE
    text = (models / "net" / "model.toml").read_text()
    assert "# guessed: the file does not say; usual for this kind of file" in text
    assert "# ImageNet has so many classes" in text
    assert read_model(models, "net").labels[1].label == "goldfish"


def test_labels_come_with_the_network(tmp_path: Path, models: Path) -> None:
    labels = tmp_path / "things.txt"
    labels.write_text("cup\nplate\n")
    assert new.main([str(_onnx(tmp_path, (2,))), str(labels)]) == DONE
    assert [each.label for each in read_model(models, "my-net").labels] == ["cup", "plate"]


def test_options_may_stand_between_the_files(tmp_path: Path, models: Path) -> None:
    labels = tmp_path / "things.txt"
    labels.write_text("cup\nplate\n")
    assert new.main([str(_onnx(tmp_path, (2,))), "--name", "two", str(labels)]) == DONE
    assert [each.label for each in read_model(models, "two").labels] == ["cup", "plate"]


def test_weights_beside_the_network_come_with_it(tmp_path: Path, models: Path) -> None:
    path = _onnx(tmp_path, (2,))
    path.with_name("My Net.onnx.data").write_bytes(b"weights")
    assert new.main([str(path)]) == DONE
    assert (models / "my-net" / "My Net.onnx.data").read_bytes() == b"weights"


def test_a_folder_that_can_not_be_served_yet_stays_to_be_corrected(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    assert new.main([str(_onnx(tmp_path, (7,))), str(labels)]) == REFUSED
    folder = models / "my-net"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"Correct {folder / 'labels.txt'} (the network needs 7 labels, not 3), then: "
        f".venv/bin/python -m model_server check {folder}"
    )
    assert (folder / "model.toml").is_file()


def test_what_the_labels_do_not_explain_is_corrected_in_model_toml(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "main", lambda _: REFUSED)
    assert new.main([str(_onnx(tmp_path, (7,)))]) == REFUSED
    toml = models / "my-net" / "model.toml"
    assert capsys.readouterr().err == (
        f"Correct {toml}, then: .venv/bin/python -m model_server check {toml.parent}\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.onnx"], "There is no file none.onnx"),
        (["NET", "--name", "Big"], "'Big' can't be a model's name"),
        (["broken.onnx"], "can't read broken.onnx"),
        (["weights.pth"], "It looks like a PyTorch file"),
        (["what.txt"], "is of no kind that is served"),
        (
            ["net.safetensors"],
            "has weights without a network (a.weight, b.weight, c.bias, d.bias, ..., fc.bias)",
        ),
        (["NET", "--network", "timm:resnet18"], "--network is for weights without a network"),
        (["net.cfg"], "There is no file net.weights: a Darknet network is"),
    ],
)
def test_what_is_no_network_writes_nothing(
    tmp_path: Path, models: Path, words: list[str], said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("broken.onnx", "weights.pth", "what.txt", "net.cfg"):
        Path(name).write_bytes(b"nothing")
    names = ("__metadata__", "a.weight", "b.weight", "c.bias", "d.bias", "e.bias", "fc.bias")
    header = json.dumps(dict.fromkeys(names)).encode()
    Path("net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    path = _onnx(tmp_path, (7,))
    assert new.main([str(path) if word == "NET" else word for word in words]) == IMPOSSIBLE
    assert said in capsys.readouterr().err
    assert not list(models.glob("*")) if models.exists() else True


def test_a_model_of_that_name_is_left_alone(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "my-net").mkdir(parents=True)
    assert new.main([str(_onnx(tmp_path, (7,)))]) == IMPOSSIBLE
    assert "is there already: choose another name" in capsys.readouterr().err
    assert not list((models / "my-net").iterdir())


_NEW = """
import sys
from model_server.commands import new
from model_server.engines.openvino import conversion
conversion._run_child = lambda spec, width, folder: conversion._convert(spec, folder, half=width == "half")
sys.exit(new.main(sys.argv[1:]))
"""
"""`new`, which loads TensorFlow for a file of Keras, and does what its child process would."""


def test_a_keras_file_says_its_size_and_its_last_layer(models: Path) -> None:
    done = keras_fork.run(["-c", _NEW, str(PROJECT / "models" / "digits" / "digits.keras")])
    assert done.returncode == DONE, done
    spec = read_model(models, "digits")
    assert (spec.input.shape, spec.task.name, len(spec.labels)) == ((28, 28, 1), "classification", 10)


def test_names_are_quoted_as_toml_wants_it(tmp_path: Path, models: Path) -> None:
    path = _onnx(tmp_path, (7,)).rename(tmp_path / 'a"b\\c.onnx')
    assert new.main([str(path), "--name", "net"]) == DONE
    assert read_model(models, "net").weights == 'a"b\\c.onnx'


def test_two_files_of_one_name_are_refused(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _onnx(tmp_path, (7,))
    (tmp_path / "other").mkdir()
    second = shutil.copy(first, tmp_path / "other")
    assert new.main([str(first), str(second)]) == IMPOSSIBLE
    assert "Two files have one name" in capsys.readouterr().err
    assert not models.exists()


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("it has 2 inputs", "it has 2 inputs."),
        ("It has none.", "It has none."),
        (f"Install it: {INSTALL}", f"Install it: {INSTALL}"),
    ],
)
def test_a_command_to_copy_has_no_full_stop_behind_it(reason: str, said: str) -> None:
    assert new._sentence(reason) == said
