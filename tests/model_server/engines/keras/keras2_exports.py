"""Networks saved by Keras 2, what Keras 2 computes for some pictures, and what we load from their files.

Run as `python -m tests.model_server.engines.keras.keras2_exports FOLDER`: a process of its own, for it loads
TensorFlow, once for the writing by tf_keras and for the reading by Keras 3.
"""

import json
import os
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, Final

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import h5py
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines.keras import sources
from tests.model_server.engines.keras.keras2_toml import TOML

SIDE: Final = 32

Network = Any


def _backbone(name: str) -> Network:
    """The layers of a MobileNet, a few of them."""
    picture = tf_keras.Input((SIDE, SIDE, 3))
    found = layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv1")(picture)
    found = layers.BatchNormalization(name="conv1_bn")(found)
    found = layers.ReLU(6.0, name="conv1_relu")(found)
    found = layers.DepthwiseConv2D(3, padding="same", name="conv_dw")(found)
    return tf_keras.Model(picture, layers.LeakyReLU(0.1)(found), name=name)


def teachable() -> Network:
    """As Teachable Machine makes it: Sequentials within a Sequential."""
    features = tf_keras.Sequential([_backbone("model1"), layers.GlobalAveragePooling2D()])
    head = [layers.Dense(6, activation="relu"), layers.Dense(3, activation="softmax", use_bias=False)]
    return tf_keras.Sequential([features, tf_keras.Sequential(head)])


def called() -> Network:
    """As the tutorial on transfer learning makes it: a network is called within another."""
    picture = tf_keras.Input((SIDE, SIDE, 3))
    found = layers.RandomFlip("horizontal")(picture)
    found = tf_keras.applications.mobilenet_v2.preprocess_input(found)
    found = _backbone("inner")(found, training=False)
    found = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(found))
    return tf_keras.Model(picture, layers.Dense(3, activation="softmax")(found))


def caffe() -> Network:
    """With the preprocessing of ResNet50 within the network."""
    picture = tf_keras.Input((SIDE, SIDE, 3))
    found = _backbone("inner")(tf_keras.applications.resnet50.preprocess_input(picture))
    return tf_keras.Model(picture, layers.Dense(3, activation="softmax")(tf.reduce_mean(found, [1, 2])))


def branches() -> Network:
    """Two outputs of one network, a layer that is called twice, names with a slash, arithmetic."""
    inside = tf_keras.Input((SIDE, SIDE, 3))
    found = layers.Conv2D(8, 3, strides=2, name="conv1/conv")(inside / 255.0)
    two = tf_keras.Model(inside, [found, layers.MaxPool2D()(found)])
    picture = tf_keras.Input((SIDE, SIDE, 3))
    first, second = two(picture)
    found = layers.GlobalAveragePooling2D()(first) + layers.GlobalMaxPooling2D()(second)
    twice = layers.Dense(8, activation=tf.nn.relu)
    found = twice(1.0 - twice(found) * [0.5] * 8)
    return tf_keras.Model(picture, layers.Dense(3, activation="softmax", name="head/dense")(found))


def sequential() -> Network:
    """Layers that prepare the pictures, in a Sequential without an input layer of its own."""
    first = layers.Resizing(16, 16, input_shape=(SIDE, SIDE, 3))
    rest = [
        layers.Normalization(mean=[120.0, 110, 100], variance=[900.0, 800, 700]),
        layers.RandomRotation(0.1),
    ]
    rest += [
        layers.Conv2D(4, 3, activation="swish"),
        layers.BatchNormalization(),
        layers.SeparableConv2D(4, 3),
    ]
    rest += [
        layers.LayerNormalization(axis=[1, 2, 3]),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
    return tf_keras.Sequential([first, *rest])


def lambda_layer() -> Network:
    """With Python code in its file."""
    head = [layers.Flatten(input_shape=(SIDE, SIDE, 3)), layers.Lambda(lambda x: x / 255.0)]
    return tf_keras.Sequential([*head, layers.Dense(3, activation="softmax")])


@tf_keras.utils.register_keras_serializable(package="mine")
class Dense(layers.Dense):  # type: ignore[misc] # tf_keras has no types
    """A custom layer with the name of one of Keras'."""

    def call(self, inputs: Any) -> Any:  # noqa: ANN401
        return 1 - super().call(inputs)


def custom() -> Network:
    """With a class of its author's."""
    return tf_keras.Sequential([layers.Flatten(input_shape=(SIDE, SIDE, 3)), Dense(3, activation="sigmoid")])


def hard() -> Network:
    """With the activation that Keras 3 defines otherwise."""
    dense = layers.Dense(3, activation="hard_sigmoid")
    return tf_keras.Sequential([layers.Flatten(input_shape=(SIDE, SIDE, 3)), dense])


def function() -> Network:
    """With a function of TensorFlow that no layer computes."""
    picture = tf_keras.Input((SIDE, SIDE, 3))
    found = tf.math.l2_normalize(layers.Flatten()(picture), axis=1)
    return tf_keras.Model(picture, layers.Dense(3, activation="softmax")(found))


SAVED: Final = {
    teachable: ("h5", "keras"),
    called: ("h5", "keras"),
    caffe: ("h5",),  # Keras 2 itself can't write it as .keras
    branches: ("h5", "keras"),
    sequential: ("h5", "keras"),
    lambda_layer: ("h5", "keras"),
    custom: ("h5", "keras"),
    hard: ("h5",),
    function: ("h5",),
}


def main(folder: Path) -> None:
    """Write a model folder for each network and format, load it, and write what both libraries compute."""
    pictures = np.random.default_rng(1).integers(0, 256, (6, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    pictures = pictures.repeat(8, axis=1).repeat(8, axis=2)
    np.save(folder / "pictures.npy", pictures)
    numbers = pictures.astype(np.float32)
    for make, formats in SAVED.items():
        tf_keras.utils.set_random_seed(3)
        network = make()
        _settle(network, numbers)
        network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        np.save(folder / f"{make.__name__}.npy", network(numbers, training=False).numpy())
        for suffix in formats:
            path = folder / f"{make.__name__}-{suffix}" / f"net.{suffix}"
            path.parent.mkdir()
            network.save(path)
            _load(path, numbers)
        if make in (function, custom):
            _export(network, folder / f"{make.__name__}-saved")
    for layout in ("windows", "2-12"):
        path = folder / f"called-{layout}" / "net.keras"
        path.parent.mkdir()
        _as_earlier(folder / "called-keras" / "net.keras", path, layout)
        _load(path, numbers)


def _settle(network: Network, numbers: Any) -> None:  # noqa: ANN401
    """Set the statistics of normalising layers to those of the pictures, so that answers differ."""
    found = [each for each in network._flatten_layers() if isinstance(each, layers.BatchNormalization)]
    for each in found:
        each.momentum = 0.0
        each.gamma.assign(np.linspace(2, 6, each.gamma.shape[0]))
    network(numbers, training=True)
    for each in found:
        each.momentum = 0.99


def _load(path: Path, numbers: Any) -> None:  # noqa: ANN401
    content = path.read_bytes()
    source = f'kind = "keras_file"\nfile = "{path.name}"'
    answer: dict[str, object] = {}
    try:
        network = sources.build(_spec(path.parent, source))
    except ModelUnavailable as error:
        answer["error"] = error.message
    else:
        np.save(path.parent / "outputs.npy", network(numbers, training=False).numpy())
    answer["unchanged"] = path.read_bytes() == content
    (path.parent / "answer.json").write_text(json.dumps(answer))


def _spec(folder: Path, source: str) -> Any:  # noqa: ANN401
    (folder / "model.toml").write_text(TOML.format(source=source))
    (folder / "labels.txt").write_text("a\nb\nc\n")
    return read_model(folder.parent, folder.name)


def _export(network: Network, folder: Path) -> None:
    """As the refusals advise, both ways."""
    network.export(str(folder / "exported"))
    tf.saved_model.save(network, str(folder / "saved"))
    (folder / "labels.txt").write_text("a\nb\nc\n")


def _as_earlier(path: Path, copy: Path, layout: str) -> None:
    """A file of Keras 2.15 with its weights where 2.12 put them, or with the groups' names of Windows."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as written:
        for name in ("metadata.json", "config.json"):
            written.writestr(name, archive.read(name))
        weights = copy.with_name("weights.h5")
        weights.write_bytes(archive.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            if layout == "windows":
                _to_backslashes(file)
            else:
                _to_dependencies(file)
        written.write(weights, "model.weights.h5")
        weights.unlink()


def _to_backslashes(file: Any) -> None:  # noqa: ANN401
    paths: list[str] = []
    file.visit(lambda path: paths.append(path) if path.endswith("/vars") else None)
    for path in paths:
        file.move(path, path.removesuffix("/vars").replace("/", "\\") + "/vars")
    del file["layers"]


def _to_dependencies(group: Any) -> None:  # noqa: ANN401
    """Keras 2.12 counts each layer with weights twice, and names the group otherwise."""
    if "layers" not in group:
        return
    children = group["layers"]
    for name in sorted(children, reverse=True):
        _to_dependencies(children[name])
        match = re.fullmatch(r"(batch_normalization|conv2d|dense)_(\d+)", name)
        if match:
            children.move(name, f"{match[1]}_{2 * int(match[2])}")
    group.move("layers", "_layer_checkpoint_dependencies")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
