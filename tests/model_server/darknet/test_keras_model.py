"""Darknet's networks in Keras, against OpenCV's own reading of the same files: an independent program."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.model_server.darknet import published
from tests.model_server.darknet.published import convolution, head
from tests.support import keras_fork
from tests.support.real_data import PHOTOS, YOLO, needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PHOTO = PHOTOS / "dog.jpg"
NET = "[net]\nwidth={0}\nheight={0}\nchannels=3\n"
LAST = "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"

PIECES = {
    "padding": "[convolutional]\nfilters=8\nsize=3\npadding=2\nactivation=leaky\n",
    "no padding": "[convolutional]\nfilters=8\nsize=3\nactivation=leaky\n",
    "even size": "[convolutional]\nfilters=8\nsize=2\nstride=2\nactivation=leaky\n",
    "stride and padding": "[convolutional]\nfilters=8\nsize=5\nstride=2\npad=1\nactivation=leaky\n",
    "stride 3": "[convolutional]\nfilters=8\nsize=3\nstride=3\npad=1\nactivation=leaky\n",
    "groups": convolution(12, 1) + "[convolutional]\nfilters=8\nsize=3\npad=1\ngroups=4\nactivation=leaky\n",
    "groups, normalised": convolution(12, 1)
    + "[convolutional]\nbatch_normalize=1\nfilters=24\nsize=3\nstride=2\npad=1\ngroups=2\nactivation=leaky\n",
    "depthwise": "[convolutional]\nfilters=3\nsize=5\npad=1\ngroups=3\nactivation=leaky\n",
    "depthwise, strided": "[convolutional]\nfilters=3\nsize=3\nstride=2\npad=1\ngroups=3\nactivation=leaky\n",
    "depthwise, two each": "[convolutional]\nfilters=6\nsize=3\npad=1\ngroups=3\nactivation=leaky\n",
    "pool 2/2": "[maxpool]\nsize=2\nstride=2\n",
    "pool 2/1": "[maxpool]\nsize=2\nstride=1\n",
    "pool 3/2": "[maxpool]\nsize=3\nstride=2\n",
    "pool 5/1": "[maxpool]\nsize=5\nstride=1\n",
    "pool 3/2 below zero": "[convolutional]\nfilters=8\nsize=1\nactivation=linear\n"
    "[maxpool]\nsize=3\nstride=2\n",
    "upsample": "[maxpool]\nsize=2\nstride=2\n[upsample]\nstride=2\n",
    "route": convolution(8, 3) + convolution(8, 1) + "[route]\nlayers=-1,0\n",
    "route, a group": convolution(8, 3) + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n",
    "shortcut": convolution(8, 3) + convolution(8, 3) + "[shortcut]\nfrom=-2\nactivation=linear\n",
    "shortcut, leaky": convolution(8, 3) + convolution(8, 3) + "[shortcut]\nfrom=-2\nactivation=leaky\n",
    "dropout": convolution(8, 3) + "[dropout]\nprobability=.5\n" + convolution(8, 1),
    **{
        name: f"[convolutional]\nfilters=8\nsize=3\npad=1\nactivation={name}\n"
        for name in ("linear", "leaky", "relu", "mish", "swish", "logistic")
    },
}

ANCHORS = "10,14,  23,27,  37,58"
SCALED = convolution(16, 3, 8) + head("0,1,2", ANCHORS, classes=4) + "scale_x_y=1.05\n"
NEW = SCALED.replace("=1.05", "=2.0\nnew_coords=1").replace("activation=linear", "activation=logistic")
AVERAGE = convolution(8, 3) + "[avgpool]\n" + LAST + "[softmax]\ngroups=1\n"
TO_6 = "[convolutional]\nfilters=2\nsize=1\nactivation={}\n"


def _pixels(side: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(7).uniform(0, 1, (2, side // 8 + 1, side // 8 + 1, 3)).astype(np.float32)
    return noise.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case of this file, run by both."""
    folder = tmp_path_factory.mktemp("cases")

    def add(name: str, text: str, pixels: NDArray[np.float32], *, gain: float = 1.2) -> Path:
        published.write(folder / name, text, gain=gain)
        np.save(folder / name / "pixels.npy", pixels)
        return folder / name

    # Small pictures: the cells of a layer are computed alike; of 320 x 320 YOLOv3 takes three times as long.
    add("yolov3-tiny", published.narrowed(published.yolov3_tiny()), _pixels(128))
    add("yolov3", published.narrowed(published.yolov3()), _pixels(96), gain=0.8)
    for name, text in (("scale_x_y", SCALED), ("new_coords", NEW)):
        add(name, NET.format(64) + text, _pixels(64), gain=3)
    for side in (32, 33):
        for name, text in PIECES.items():
            both_signs = _pixels(side) - 0.5
            add(f"{name.replace('/', ' by ')} of {side}", NET.format(side) + text + LAST, both_signs)
    add("classifier", NET.format(16) + AVERAGE, _pixels(16))
    add("cost", NET.format(16) + AVERAGE + "[cost]\ntype=sse\n", _pixels(16))
    for name in ("linear", "relu6"):
        wide = _pixels(32) * 200 - 100
        (add(f"to 6 {name}", NET.format(32) + TO_6.format(name), wide) / "ours only").touch()
    if YOLO.is_dir() and PHOTO.is_file():
        _add_photo(folder / "yolo-fastest-xl")
    done = keras_fork.run(["-m", "tests.model_server.darknet.both", str(folder)])
    assert done.returncode == 0, done.stderr
    return folder


def _add_photo(case: Path) -> None:
    case.mkdir()
    shutil.copy(YOLO / "yolo-fastest-1.1-xl.cfg", case / "network.cfg")
    shutil.copy(YOLO / "yolo-fastest-1.1-xl.weights", case / "network.weights")
    with Image.open(PHOTO) as photo:
        pixels = np.asarray(photo.resize((320, 320), Image.Resampling.BILINEAR), np.float32) / 255
    np.save(case / "pixels.npy", pixels[None])


def _outputs(case: Path, whose: str) -> list[NDArray[np.float32]]:
    with np.load(case / f"{whose}.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def _assert_same_detections(case: Path) -> None:
    theirs = np.concatenate([each.reshape(-1, each.shape[-1]) for each in _outputs(case, "theirs")])
    boxes, scores, objectness = _outputs(case, "ours")
    assert len(theirs) == len(boxes)
    assert np.ptp(objectness) > 0.05  # a network that says the same of everything would prove nothing
    np.testing.assert_allclose(boxes, theirs[:, :4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objectness, theirs[:, 4], atol=1e-5)
    told = theirs[:, 5:] > 0  # OpenCV leaves out the least probable
    assert told.sum() > 20
    np.testing.assert_allclose((scores * objectness[:, None])[told], theirs[:, 5:][told], atol=1e-5)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3", "scale_x_y", "new_coords"])
def test_a_detector_gives_what_opencv_gives(cases: Path, name: str) -> None:
    _assert_same_detections(cases / name)


@needs(YOLO, PHOTO)
def test_real_weights_give_what_opencv_gives(cases: Path) -> None:
    _assert_same_detections(cases / "yolo-fastest-xl")


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("piece", PIECES)
def test_each_kind_of_layer_gives_what_opencv_gives(cases: Path, piece: str, side: int) -> None:
    case = cases / f"{piece.replace('/', ' by ')} of {side}"
    (ours,), (theirs,) = _outputs(case, "ours"), _outputs(case, "theirs")
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours.reshape(-1, 6), theirs[0].reshape(6, -1).T, atol=2e-5)


POLICIES = """
import json, sys
from pathlib import Path
from model_server.engines.keras import tensorflow
from model_server.catalogue.model_spec import read_model
from model_server.engines.keras.network import KerasNetwork
network = KerasNetwork(read_model(Path(sys.argv[1]), "tiny"))
network.compute_in("bf16")
layers = [each for each in network.model.layers if each.weights or each.name == "detections"]
print(json.dumps([[each.name, each.compute_dtype] for each in layers]))
"""


def test_heads_and_boxes_stay_in_float32_where_the_rest_computes_in_16_bits(tmp_path: Path) -> None:
    published.write(tmp_path / "tiny", published.narrowed(published.yolov3_tiny()))
    (tmp_path / "tiny" / "labels.txt").write_text("\n".join(f"class {number}" for number in range(80)))
    (tmp_path / "tiny" / "model.toml").write_text(
        'task = "detection"\nlabels = "labels.txt"\ntop = 5\n'
        '[source]\nkind = "darknet"\ncfg = "network.cfg"\nweights = "network.weights"\n'
        '[input]\nwidth = 96\nheight = 64\nchannels = 3\nfit = "pad"\nnormalise = "unit"\n'
    )
    done = keras_fork.run(["-c", POLICIES, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    kinds = [dtype for _, dtype in told]
    assert len(kinds) == 14
    assert kinds.count("float32") == 3  # two heads, and what reads them
    assert told[-1] == ["detections", "float32"]


def test_relu6_ends_at_6(cases: Path) -> None:
    (linear,), (ended,) = (_outputs(cases / f"to 6 {name}", "ours") for name in ("linear", "relu6"))
    assert linear.max() > 6
    np.testing.assert_array_equal(ended, linear.clip(0, 6))


def test_a_classifier_ends_in_a_softmax_of_its_classes(cases: Path) -> None:
    (ours,), (theirs,) = _outputs(cases / "classifier", "ours"), _outputs(cases / "classifier", "theirs")
    assert ours.shape == (6,)
    assert ours.sum() == pytest.approx(1)
    np.testing.assert_allclose(ours, theirs.ravel(), atol=1e-5)
    np.testing.assert_array_equal(_outputs(cases / "cost", "ours")[0], ours)
