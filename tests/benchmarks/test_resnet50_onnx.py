"""Keras' layers of ResNet50 as an ONNX file give what Keras gives."""

from pathlib import Path

import numpy as np
import pytest

from model_server.engines.openvino import runtime
from tests.support import keras_fork

NETWORK = """
import sys
import keras
import numpy as np
from keras import layers
from benchmarks import resnet50_onnx

keras.utils.set_random_seed(3)
given = layers.Input((17, 15, 3))
padded = layers.ZeroPadding2D(((1, 2), (3, 0)))(given)
first = layers.Conv2D(6, 3, strides=2)(padded)
normal = layers.BatchNormalization(epsilon=1e-3)
first = layers.Activation("relu")(normal(first))
normal.set_weights([np.linspace(low, low + 1, 6) for low in (0.5, -1.0, -0.3, 0.2)])
pooled = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(first))
second = layers.Conv2D(6, 3, padding="same", activation="relu")(pooled)
joined = layers.Add()([pooled, second])
last = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(joined))
network = keras.Model(given, last)
pictures = np.random.default_rng(1).normal(0, 3, (5, 17, 15, 3)).astype("float32")
np.savez(sys.argv[1] + "/right.npz", pictures=pictures, outputs=network.predict(pictures, verbose=0))
open(sys.argv[1] + "/net.onnx", "wb").write(resnet50_onnx.content(network))
try:
    resnet50_onnx.content(keras.Sequential([given, layers.Flatten()]))
except NotImplementedError as error:
    print(error)
"""


@pytest.mark.slow
def test_every_kind_of_layer_computes_what_keras_computes(tmp_path: Path) -> None:
    done = keras_fork.run(["-c", NETWORK, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a layer Flatten"
    right = np.load(tmp_path / "right.npz")
    compiled = runtime.compile_for_cpu(runtime.read("onnx", tmp_path / "net.onnx"), "fp32")
    (outputs,) = compiled([right["pictures"]]).values()
    assert np.ptp(right["outputs"], axis=0).max() > 0.05
    np.testing.assert_allclose(outputs, right["outputs"], atol=1e-5)
