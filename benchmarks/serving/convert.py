"""`python -m benchmarks.serving.convert frozen TO`, then `openvino FROM TO`: the network for OpenVINO.

Owns the two steps, each run by the environment that has its packages: Keras' ResNet50 with random, seeded
weights and its normalisation as a graph of uint8; and that graph as OpenVINO's. Serves nothing.
"""

import os
import sys
from pathlib import Path


def frozen_graph(target: Path) -> None:
    """Write the graph. Run by the project's environment."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import keras  # noqa: PLC0415 - the other step's environment has neither
    import tensorflow as tf  # noqa: PLC0415
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415
        convert_variables_to_constants_v2,
    )

    keras.utils.set_random_seed(20180129)
    network = keras.applications.ResNet50(weights=None)
    signature = tf.TensorSpec((None, 224, 224, 3), tf.uint8)

    def run(batch: object) -> object:
        floats = tf.cast(batch, tf.float32)
        return network(keras.applications.resnet50.preprocess_input(floats), training=False)

    traced = tf.function(run, input_signature=[signature], autograph=False).get_concrete_function()
    # As constants: OpenVINO without TensorFlow finds no variables of a SavedModel of Keras 3.
    frozen = convert_variables_to_constants_v2(traced)
    tf.io.write_graph(frozen.graph.as_graph_def(), str(target.parent), target.name, as_text=False)


def openvino(source: str, target: str) -> None:
    """Write OpenVINO's file. Run by the environment of requirements-engine.txt."""
    import openvino as ov  # noqa: PLC0415

    network = ov.convert_model(source)
    network.reshape([-1, 224, 224, 3])
    ov.save_model(network, target, compress_to_fp16=False)


if __name__ == "__main__":
    if sys.argv[1] == "frozen":
        frozen_graph(Path(sys.argv[2]))
    else:
        openvino(sys.argv[2], sys.argv[3])
