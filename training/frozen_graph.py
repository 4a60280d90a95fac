"""A Keras network as TensorFlow's frozen graph, which the tools of TensorFlow 1 made and many still read.

Owns the writing of the .pb and of the labels.txt that goes with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def write(folder: Path, name: str, network: Any, classes: Sequence[str]) -> None:  # noqa: ANN401 - a keras.Model
    """Write NAME.pb, weights as constants, from `input` to `final_result`, and labels.txt, a class a line.

    It takes what the Keras network takes: normalised float32 (N, height, width, channels).
    """
    signature = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="input")

    def run(pictures: Any) -> Any:  # noqa: ANN401
        return tf.identity(network(pictures, training=False), name="final_result")

    function = tf.function(run, input_signature=[signature], autograph=False).get_concrete_function()
    graph = convert_variables_to_constants_v2(function).graph.as_graph_def()
    (folder / f"{name}.pb").write_bytes(graph.SerializeToString(deterministic=True))
    (folder / "labels.txt").write_text("".join(f"{each}\n" for each in classes), "utf-8")
