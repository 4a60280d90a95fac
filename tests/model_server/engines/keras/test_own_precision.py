"""Networks that were saved in mixed precision, or in 16 bits: served, and still checked."""

import json
from typing import Any

import pytest

from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_RUN = """
import json, os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
from pathlib import Path
import keras
import numpy as np
from keras import layers
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.keras.network import KerasNetwork
from model_server.engines.openvino import conversion
from model_server.engines.openvino.engine import OpenVINOEngine
from tests.model_server.engines.keras.keras2_toml import TOML

models = Path(sys.argv[1])
pictures = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
conversion._run_child = lambda spec, width, folder: conversion._convert(spec, folder, half=width == "half")

def write(policy):
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    adapted = layers.Normalization()
    adapted.adapt(pictures.astype(np.float32) / 127.5 - 1)
    stack = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 127.5, -1), adapted]
    for stride in (2, 2):
        stack += [layers.Conv2D(12, 3, strides=stride, kernel_initializer="he_normal"), layers.ReLU()]
        stack += [layers.BatchNormalization(), layers.SeparableConv2D(12, 3)]
    wide = keras.initializers.RandomNormal(stddev=20.0)
    last = layers.Dense(5, kernel_initializer=wide, activation="softmax")
    network = keras.Sequential([*stack, layers.GlobalAveragePooling2D(), last])
    folder = models / policy
    folder.mkdir()
    network.save(folder / "net.keras")
    (folder / "labels.txt").write_text("a\\nb\\nc\\nd\\ne\\n")
    (folder / "model.toml").write_text(TOML.format(source='kind = "keras_file"\\nfile = "net.keras"'))
    keras.config.set_dtype_policy("float32")
    return np.asarray(keras.ops.cast(network(pictures.astype(np.float32)), "float32"))

def served(policy, cache):
    try:
        engine = OpenVINOEngine(read_model(models, policy), "fp32", EngineOptions(8, models / cache))
    except ModelUnavailable as error:
        return error.message
    network = KerasNetwork(read_model(models, policy)).model
    kinds = {layer.compute_dtype for layer in network._flatten_layers()}
    return [float(np.abs(engine.predict(pictures)[0] - right).max()), *kinds]

answers = {}
plain = KerasNetwork.plain
for policy in ("mixed_bfloat16", "mixed_float16", "float16", "bfloat16"):
    right = write(policy)
    KerasNetwork.plain = plain
    answers[policy] = [float(np.ptp(right, axis=0).max()), served(policy, "sound")]
    KerasNetwork.plain = lambda self, batch: plain(self, np.ascontiguousarray(batch[..., ::-1]))
    answers[policy].append(served(policy, "reversed"))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = keras_fork.run(["-c", _RUN, str(tmp_path_factory.mktemp("models"))])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16", "bfloat16"])
def test_a_network_in_16_bits_of_its_own_is_served_in_fp32(answers: dict[str, Any], policy: str) -> None:
    span, (difference, *kinds), _ = answers[policy]
    assert span > 0.2  # it tells the pictures apart
    assert difference < 0.05 * span
    # The reference too: of bfloat16's own roundings, layer by layer, nothing could be said to a thousandth.
    assert kinds == ["float32"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16", "bfloat16"])
def test_channels_in_the_wrong_order_are_still_found(answers: dict[str, Any], policy: str) -> None:
    assert "does not compute what plain Keras does" in answers[policy][2]
