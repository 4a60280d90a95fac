"""Which graphs end in probabilities, of OpenVINO's operations and of Keras' layers."""

import json
from typing import Any

import numpy as np
import pytest

from model_server.engines.check import final_operation
from model_server.engines.openvino import runtime
from tests.support import keras_fork

NODES = runtime.operations()


def _logits() -> Any:  # noqa: ANN401
    picture = NODES.parameter([-1, 4], np.float32)
    return NODES.matmul(picture, np.ones((4, 3), np.float32), transpose_a=False, transpose_b=False)


def _moved(node: Any) -> Any:  # noqa: ANN401
    cast = NODES.convert(NODES.convert(node, "f16"), "f32")
    flat = NODES.reshape(cast, NODES.constant(np.array([-1, 3, 1])), special_zero=False)
    turned = NODES.transpose(NODES.unsqueeze(flat, NODES.constant(np.array([3]))), np.array([0, 2, 3, 1]))
    bounds = [NODES.constant(np.float32(each)) for each in (0, 1, 0, 1)]
    rounded = NODES.fake_quantize(turned, *bounds, levels=256)
    return NODES.result(NODES.squeeze(rounded, NODES.constant(np.array([1, 2]))))


@pytest.mark.parametrize(
    ("node", "ends_in"),
    [
        (_logits(), "logits"),
        (NODES.add(_logits(), NODES.constant(np.ones(3, np.float32))), "logits"),
        (_moved(_logits()), "logits"),
        (NODES.softmax(_logits(), 1), "probabilities"),
        (_moved(NODES.sigmoid(_logits())), "independent"),
        (NODES.concat([NODES.sigmoid(_logits()), NODES.sigmoid(_logits())], 1), "independent"),
        (NODES.concat([NODES.sigmoid(_logits()), NODES.softmax(_logits(), 1)], 1), "unknown"),
        (NODES.concat([NODES.sigmoid(_logits()), _logits()], 1), "unknown"),
        (NODES.multiply(_logits(), NODES.sigmoid(_logits())), "unknown"),
        (NODES.parameter([-1, 3], np.float32), "unknown"),
    ],
)
def test_a_graph_is_judged_by_its_last_operation(node: Any, ends_in: str) -> None:  # noqa: ANN401
    assert final_operation.of_graph(node) == ends_in


_KERAS = """
import json
import keras
from keras import layers
from model_server.engines.check import final_operation

def network(*last):
    return keras.Sequential([layers.Input((4,)), *last])

def heads(*activations):
    given = layers.Input((4,))
    found = layers.Concatenate()([layers.Dense(1, activation=each)(given) for each in activations])
    return keras.Model(given, found)

given = layers.Input((4,))
networks = {
    "dense": network(layers.Dense(3)),
    "softmax": network(layers.Dense(3, activation="softmax")),
    "sigmoid": network(layers.Dense(3, activation="sigmoid")),
    "activation": network(layers.Dense(3), layers.Activation("sigmoid")),
    "linear": network(layers.Dense(3), layers.Activation("linear"), layers.Reshape((3,))),
    "layer": network(layers.Dense(3), layers.Softmax()),
    "as_function": network(layers.Dense(3, activation=layers.Softmax())),
    "operation": keras.Model(given, keras.ops.sigmoid(layers.Dense(3)(given))),
    "moved": network(layers.Dense(3, activation="softmax"), layers.Reshape((3, 1)), layers.Flatten()),
    "nested": keras.Model(given, network(layers.Dense(3, activation="sigmoid"))(given)),
    "nested_logits": network(network(layers.Dense(3))),
    "relu": network(layers.Dense(3, activation="relu")),
    "custom": network(layers.Dense(3, activation=lambda numbers: numbers)),
    "heads": heads("sigmoid", "sigmoid"),
    "other_heads": heads("sigmoid", None),
    "none": keras.Model(given, given),
}
print(json.dumps({name: final_operation.of_keras(each.outputs[0]) for name, each in networks.items()}))
"""


@pytest.mark.slow
def test_a_keras_network_is_judged_by_its_last_layer() -> None:
    done = keras_fork.run(["-c", _KERAS])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        **dict.fromkeys(("dense", "linear", "nested_logits"), "logits"),
        **dict.fromkeys(("softmax", "layer", "as_function", "moved"), "probabilities"),
        **dict.fromkeys(("sigmoid", "activation", "operation", "nested", "heads"), "independent"),
        **dict.fromkeys(("relu", "custom", "other_heads", "none"), "unknown"),
    }
