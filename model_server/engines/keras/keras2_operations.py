"""Calls of TensorFlow's functions within a network of Keras 2, as layers of Keras 3.

Owns the table of those that preprocessing and published networks use. Runs no function by its name.
"""

from collections.abc import Callable
from typing import Any, Final

Config = dict[str, Any]

CLASSES: Final = ("TFOpLambda", "SlicingOpLambda")
"""The layers in which Keras 2 wraps a function: y = x * 2 in a functional network, say."""

_CONSTANT: Final = "_CONSTANT_VALUE"
"""In the place of a layer's name, where the first argument is a number."""


class UnsupportedOperationError(Exception):
    """No layer computes the function; the message names it."""


def layer(item: Config, nodes: list[Any]) -> Config:
    """The layer, with its inbound nodes. Raises UnsupportedOperationError."""
    function = item["config"]["function"]
    (node,) = nodes
    arguments = dict(node[0][3]) if len(node[0]) > 3 else {}
    try:
        written, tensors = _written(function, [tensor[:3] for tensor in node], arguments)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UnsupportedOperationError(f"it calls TensorFlow's function tf.{function}") from None
    name = item["name"].replace("/", "_")
    written["config"]["name"] = name
    return {**written, "name": name, "inbound_nodes": [tensors]}


def _written(function: str, tensors: list[Any], arguments: Config) -> tuple[Config, list[Any]]:
    """The layer and its inputs. Raises KeyError, TypeError or ValueError for a function without one."""
    if function in _ARITHMETIC:
        return _arithmetic(function, tensors[0], arguments["y"])
    if len(tensors) == 1:
        return _OF_ONE[function](arguments), [[*tensors[0], {}]]
    if function == "concat":
        return _class("Concatenate", axis=int(arguments["axis"])), [[*tensor, {}] for tensor in tensors]
    raise ValueError(function)


def _class(kind: str, **config: object) -> Config:
    return {"class_name": kind, "config": config}


def _arithmetic(function: str, x: list[Any], y: Any) -> tuple[Config, list[Any]]:  # noqa: ANN401
    of_tensors, of_x_and_number, of_number_and_y = _ARITHMETIC[function]
    y_is_tensor = isinstance(y, list) and bool(y) and isinstance(y[0], str)
    if x[0] == _CONSTANT:
        return _rescaling(*of_number_and_y(x[2])), [[*y, {}]]
    if y_is_tensor:
        if of_tensors is None:
            raise ValueError(function)
        return _class(of_tensors), [[*x, {}], [*y, {}]]
    numbers = y if isinstance(y, list) else [y]
    pairs = [of_x_and_number(float(number)) for number in numbers]
    if not isinstance(y, list):
        return _rescaling(*pairs[0]), [[*x, {}]]
    return _rescaling([scale for scale, _ in pairs], [offset for _, offset in pairs]), [[*x, {}]]


def _rescaling(scale: Any, offset: Any) -> Config:  # noqa: ANN401 - a number, or one for each channel
    return _class("Rescaling", scale=scale, offset=offset)


def _impossible(_number: float) -> tuple[float, float]:
    raise ValueError("not linear")


_Linear = Callable[[float], tuple[float, float]]
_ADD: Final[tuple[str | None, _Linear, _Linear]] = ("Add", lambda c: (1.0, c), lambda c: (1.0, c))
_SUBTRACT: Final[tuple[str | None, _Linear, _Linear]] = (
    "Subtract",
    lambda c: (1.0, -c),
    lambda c: (-1.0, c),
)
_MULTIPLY: Final[tuple[str | None, _Linear, _Linear]] = ("Multiply", lambda c: (c, 0.0), lambda c: (c, 0.0))
_DIVIDE: Final[tuple[str | None, _Linear, _Linear]] = (None, lambda c: (1.0 / c, 0.0), _impossible)

_ARITHMETIC: Final = {
    "math.add": _ADD,
    "__operators__.add": _ADD,
    "math.subtract": _SUBTRACT,
    "math.multiply": _MULTIPLY,
    "math.truediv": _DIVIDE,
    "math.divide": _DIVIDE,
}
"""Functions of two arguments: the layer for two tensors, then the scale and the offset where the second is a
number, and where the first is."""


def _pooling(kind: str) -> Callable[[Config], Config]:
    def pooling(arguments: Config) -> Config:
        if list(arguments["axis"]) not in ([1, 2], [-3, -2]):
            raise ValueError(arguments["axis"])
        return _class(kind, keepdims=bool(arguments.get("keepdims")))

    return pooling


def _flipped(arguments: Config) -> Config:
    """x[..., ::-1], with which preprocess_input makes BGR."""
    *others, last = arguments["slice_spec"]
    is_whole = all(
        each == {"start": None, "stop": None, "step": None} or "start" not in each for each in others
    )
    if not others or not is_whole or last != {"start": None, "stop": None, "step": -1}:
        raise ValueError(arguments)
    return {"module": "keras.src.ops.numpy", **_class("Flip", axis=-1), "registered_name": "Flip"}


def _cast(arguments: Config) -> Config:
    if arguments["dtype"] != "float32":
        raise ValueError(arguments["dtype"])
    return _rescaling(1.0, 0.0)


def _reshape(arguments: Config) -> Config:
    batch, *sizes = arguments["shape"]
    if batch != -1 or min(sizes) < 1:
        raise ValueError(arguments["shape"])
    return _class("Reshape", target_shape=sizes)


def _resizing(arguments: Config) -> Config:
    if set(arguments) - {"size", "method"}:
        raise ValueError(arguments)
    height, width = arguments["size"]
    return _class("Resizing", height=height, width=width, interpolation=arguments.get("method", "bilinear"))


def _bias(arguments: Config) -> Config:
    if arguments.get("data_format") not in (None, "NHWC"):
        raise ValueError(arguments["data_format"])
    bias = arguments["bias"]
    return _rescaling([1.0] * len(bias), [float(number) for number in bias])


_OF_ONE: Final[dict[str, Callable[[Config], Config]]] = {
    "math.negative": lambda _: _rescaling(-1.0, 0.0),
    "nn.bias_add": _bias,
    "cast": _cast,
    "nn.relu": lambda _: _class("ReLU"),
    "nn.relu6": lambda _: _class("ReLU", max_value=6.0),
    "nn.leaky_relu": lambda arguments: _class("LeakyReLU", negative_slope=float(arguments.get("alpha", 0.2))),
    "nn.silu": lambda _: _class("Activation", activation="silu"),
    "nn.softmax": lambda arguments: _class("Softmax", axis=int(arguments.get("axis", -1))),
    "math.sigmoid": lambda _: _class("Activation", activation="sigmoid"),
    "math.tanh": lambda _: _class("Activation", activation="tanh"),
    "math.reduce_mean": _pooling("GlobalAveragePooling2D"),
    "math.reduce_max": _pooling("GlobalMaxPooling2D"),
    "reshape": _reshape,
    "image.resize": _resizing,
    "__operators__.getitem": _flipped,
}
