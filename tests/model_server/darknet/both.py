"""`python -m tests.model_server.darknet.both FOLDER`: run each case of a folder by Keras and by OpenCV.

A process of its own: Keras has one backend a process, and TensorFlow's threads would take signals that tests
send. A case is a folder with network.cfg, network.weights and pixels.npy; ours.npz and theirs.npz are put
beside them.
"""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# TensorFlow first: it names Keras' backend.
from model_server.engines.keras import tensorflow  # isort: skip # noqa: F401
import keras

from model_server.darknet import keras_model


def main(folder: Path) -> None:
    """Run every case."""
    for case in sorted(path.parent for path in folder.glob("*/pixels.npy")):
        pixels = np.load(case / "pixels.npy")
        paths = case / "network.cfg", case / "network.weights"
        np.savez(case / "ours.npz", *_by_keras(*paths, pixels))
        if not (case / "ours only").exists():
            np.savez(case / "theirs.npz", *_by_opencv(*paths, pixels))


def _by_keras(cfg: Path, weights: Path, pixels: Any) -> list[Any]:  # noqa: ANN401
    model = keras_model.build(cfg, weights, pixels.shape[1:3])
    return [np.asarray(each)[0] for each in keras.tree.flatten(model(pixels))]


def _by_opencv(cfg: Path, weights: Path, pixels: Any) -> list[Any]:  # noqa: ANN401
    network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    network.setInput(np.ascontiguousarray(pixels[:1].transpose(0, 3, 1, 2)))
    return [np.asarray(each) for each in network.forward(network.getUnconnectedOutLayersNames())]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
