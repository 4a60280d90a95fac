"""A small network, in each of TensorFlow's formats, and what TensorFlow gives for some pictures.

Run as `python -m tests.model_server.engines.tensorflow_exports FOLDER`: a process of its own, for it loads
TensorFlow. The network takes numbers (pixel - mean) / std, which are made here by NumPy; nothing of Batchwire
is used.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any, Final

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SHAPE: Final = (14, 18, 3)
MEAN: Final = (120.0, 110.0, 100.0)
STD: Final = (60.0, 50.0, 40.0)
CLASSES: Final = 7

Array = NDArray[Any]


def network() -> Any:  # noqa: ANN401 - a keras.Model
    """Convolutions, a pooling and an odd number of classes; random weights that tell pictures apart."""
    keras.utils.set_random_seed(3)
    picture = keras.Input(SHAPE, name="picture")
    found = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(picture)
    found = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(found)
    found = keras.layers.Flatten()(found)
    found = keras.layers.Dense(CLASSES, activation="softmax")(found)
    return keras.Model(picture, found)


def main(folder: Path) -> None:
    """Write every format, and what it gives."""
    pictures = np.random.default_rng(5).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    numbers = ((pictures - np.array(MEAN)) / STD).astype(np.float32)
    np.save(folder / "pictures.npy", pictures)
    model = network()
    model.save(folder / "net.keras")
    np.save(folder / "keras.npy", model(numbers, training=False).numpy())
    model.export(folder / "saved", verbose=False)
    np.save(folder / "saved_model.npy", _saved_model(folder / "saved", numbers))
    _freeze(model, folder / "net.pb")
    np.save(folder / "frozen_graph.npy", _frozen_graph(folder / "net.pb", numbers))
    convert = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "net.tflite").write_bytes(convert.convert())
    np.save(folder / "tflite.npy", _tflite(folder / "net.tflite", numbers))
    for kind in ("int8", "uint8"):
        path = folder / f"{kind}.tflite"
        path.write_bytes(_quantised(folder / "saved", numbers, getattr(tf, kind)))
        np.save(folder / f"{kind}.npy", _tflite(path, numbers))
    units = (pictures / 255).astype(np.float32)
    (folder / "dim.tflite").write_bytes(_quantised(folder / "saved", units * np.float32(0.75), tf.int8))
    np.save(folder / "dim.npy", _tflite(folder / "dim.tflite", units))
    (folder / "bytes.tflite").write_bytes(_quantised(folder / "saved", units * np.float32(0.9), tf.uint8))
    np.save(folder / "bytes.npy", _tflite(folder / "bytes.tflite", units * np.float32(0.9)))
    _decoding(folder)
    model.layers[-1].activation = keras.activations.linear
    model.save(folder / "logits.keras")
    np.save(folder / "logits.npy", model(numbers, training=False).numpy())
    model.layers[-1].activation = keras.activations.sigmoid
    model.save(folder / "sigmoid.keras")
    model.layers[-1].activation = keras.activations.linear
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel / 100, bias + 0.4])
    model.save(folder / "small.keras")
    np.save(folder / "small.npy", model(numbers, training=False).numpy())


def _saved_model(folder: Path, numbers: Array) -> Array:
    loaded = tf.saved_model.load(str(folder))  # it holds the variables
    return np.asarray(loaded.serve(tf.constant(numbers)))


def _freeze(model: Any, path: Path) -> None:  # noqa: ANN401
    signature = tf.TensorSpec((None, *SHAPE), tf.float32, name="picture")
    traced = tf.function(lambda batch: model(batch, training=False), input_signature=[signature])
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())


def _decoding(folder: Path) -> None:
    """A graph that decodes JPEGs, as TensorFlow 1's scripts leave it; and as our advice leaves it."""
    v1 = tf.compat.v1
    weights = np.random.default_rng(1).normal(0, 0.1, (int(np.prod(SHAPE)), CLASSES)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        decoded = tf.io.decode_jpeg(v1.placeholder(tf.string, ()), channels=3)
        batch = tf.expand_dims(tf.cast(decoded, tf.float32), 0, name="ExpandDims")
        resized = v1.image.resize_bilinear(batch, SHAPE[:2])
        tf.nn.softmax(tf.reshape(resized, (-1, len(weights))) / 255 @ weights, name="final_result")
    (folder / "decoding.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with tf.Graph().as_default() as advised:
        pixels = v1.placeholder(tf.float32, (None, *SHAPE))
        tf.import_graph_def(graph.as_graph_def(), input_map={"ExpandDims:0": pixels})
    used = v1.graph_util.extract_sub_graph(advised.as_graph_def(), ["import/final_result"])
    (folder / "pixels.pb").write_bytes(used.SerializeToString())


def _frozen_graph(path: Path, numbers: Array) -> Array:
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        last = definition.node[-1].name
        with tf.compat.v1.Session(graph=graph) as session:
            return np.asarray(session.run(f"{last}:0", {"picture:0": numbers}))


def _quantised(saved: Path, numbers: Array, kind: Any) -> bytes:  # noqa: ANN401
    """Weights, activations, input and output in 8 bits, calibrated on the pictures."""
    convert = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    convert.optimizations = [tf.lite.Optimize.DEFAULT]
    convert.representative_dataset = lambda: ([each[None]] for each in numbers)
    convert.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    convert.inference_input_type = convert.inference_output_type = kind
    return bytes(convert.convert())


def _tflite(path: Path, numbers: Array) -> Array:
    """By TensorFlow Lite's interpreter, one picture at a time, integers turned from and into numbers."""
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for each in numbers:
        interpreter.set_tensor(given["index"], _stored(each[None], given))
        interpreter.invoke()
        rows.append(_numbers(interpreter.get_tensor(gives["index"]), gives))
    return np.concatenate(rows)


def _stored(numbers: Array, details: dict[str, Any]) -> Array:
    step, zero = details["quantization"]
    if not step:
        return numbers
    bounds = np.iinfo(details["dtype"])
    return np.asarray(np.clip(np.rint(numbers / step + zero), bounds.min, bounds.max), details["dtype"])


def _numbers(stored: Array, details: dict[str, Any]) -> Array:
    step, zero = details["quantization"]
    return np.asarray((stored.astype(np.float32) - zero) * step if step else stored, np.float32)


if __name__ == "__main__":
    # TensorFlow warns that its interpreter moves to a package of its own.
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
