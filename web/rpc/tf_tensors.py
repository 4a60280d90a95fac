"""TensorFlow's tensors: pictures out of them, and outputs into them.

Owns both ways. named_outputs.py owns which outputs a model has; nothing here imports TensorFlow.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError
from broker.messages import InputSpec
from web.dialects import json_pixels, tf_models
from web.dialects.named_outputs import OutputSignature
from web.rpc.protos import tensorflow_serving_pb2 as pb
from web.uploads.reader import Picture

_FIELDS: Final[dict[int, tuple[str, type[np.generic]]]] = {
    pb.DT_UINT8: ("int_val", np.uint8),
    pb.DT_INT32: ("int_val", np.int32),
    pb.DT_INT64: ("int64_val", np.int64),
    pb.DT_FLOAT: ("float_val", np.float32),
    pb.DT_DOUBLE: ("double_val", np.float64),
}
"""Of the types that pixels may have: the field with the values, and what they are."""

_ARRAYS: Final[dict[str, type[np.generic]]] = {"DT_FLOAT": np.float32, "DT_INT64": np.int64}
"""Of an output's type; others are bytes."""

_AXES: Final = 8

_PIXELS: Final = (
    "Pixels are whole numbers from 0 to 255, before any normalisation, as DT_UINT8, DT_INT32, DT_INT64, "
    "DT_FLOAT or DT_DOUBLE."
)


def pictures(tensor: pb.TensorProto, spec: InputSpec) -> list[Picture]:
    """The pictures of an input: encoded in DT_STRING, or pixels of the model's size. Raises ClientError."""
    shape = [dim.size for dim in tensor.tensor_shape.dim[:_AXES]]
    if tensor.dtype == pb.DT_STRING:
        tf_models.require_count(len(tensor.string_val))
        if shape not in ([], [len(tensor.string_val)], [len(tensor.string_val), 1]):
            raise ClientError(f"DT_STRING has the shape [n] here, with n strings; it is {shape}.")
        return [*tensor.string_val]
    json_pixels.require_size(spec)
    height, width, channels = spec.network_shape
    wanted = [[height, width, channels], *([[height, width]] if channels == 1 else [])]
    if shape[1:] not in wanted:
        raise ClientError(
            f"The input's shape is {shape}; pixels have [n, {height}, {width}, {channels}] here. Send "
            "encoded pictures as DT_STRING [n], and the service fits them."
        )
    tf_models.require_count(shape[0])
    values = _values(tensor, math.prod(shape))
    # Not `values < 0 or ...`, which NaN would pass.
    if not ((values >= 0) & (values <= 255) & (values == np.trunc(values))).all():
        raise ClientError(_PIXELS)
    return _of_pixels(values.astype(np.uint8), shape[0], (height, width, channels))


def _of_pixels(values: NDArray[np.uint8], count: int, shape: tuple[int, int, int]) -> list[Picture]:
    """So many pictures; the last value stands for those that are missing.

    Pictures of that value alone are one: a message of 100 bytes would take 64 times the model's size.
    """
    size = math.prod(shape)
    begun = -(-len(values) // size)
    filled = np.concatenate([values, np.full(begun * size - len(values), values[-1], np.uint8)])
    rest = np.full(shape, values[-1], np.uint8)
    return [*filled.reshape(begun, *shape), *([rest] * (count - begun))]


def _values(tensor: pb.TensorProto, count: int) -> NDArray[Any]:
    """The numbers of a tensor, given as bytes, or as values of which the last stands for the missing ones."""
    if tensor.dtype not in _FIELDS:
        raise ClientError(f"The input is of another type than pictures. {_PIXELS}")
    field, kind = _FIELDS[tensor.dtype]
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * np.dtype(kind).itemsize:
            raise ClientError(f"The input has {len(tensor.tensor_content)} bytes for {count} numbers.")
        return np.frombuffer(tensor.tensor_content, np.dtype(kind).newbyteorder("<"))
    values = getattr(tensor, field)
    if not 1 <= len(values) <= count:
        raise ClientError(f"The input has {len(values)} numbers, and {count} by its shape.")
    # Wider than `kind`, which a number may not fit.
    return np.array(values, np.float64 if field.endswith(("float_val", "double_val")) else np.int64)


def output(values: Sequence[Any], signature: OutputSignature | None) -> pb.TensorProto:
    """The output with these values, one a picture.

    Where the pictures have different numbers of boxes, the rows are filled up with zeros and empty strings.
    What no signature tells is a tensor of numbers where it can be one, else each picture's as JSON.
    """
    if signature is None:
        if (numbers := _as_numbers(values)) is not None:
            return _numbers(numbers, pb.DT_FLOAT)
        return _strings(np.array([msgspec.json.encode(each) for each in values], object))
    if signature.dtype in _ARRAYS:
        array = _filled(values, len(signature.shape), _ARRAYS[signature.dtype], 0)
        return _numbers(array, pb.DataType.Value(signature.dtype))
    return _strings(_filled([_bytes(each) for each in values], len(signature.shape), object, b""))


def described(name: str, signature: OutputSignature) -> pb.TensorInfo:
    """A tensor of a signature."""
    return pb.TensorInfo(
        name=f"{name}:0", dtype=pb.DataType.Value(signature.dtype), tensor_shape=_shape(signature.shape)
    )


def _as_numbers(values: Sequence[Any]) -> NDArray[np.float32] | None:
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    return array.astype(np.float32) if array.dtype.kind in "iuf" else None


def _bytes(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Texts as bytes, within lists as well; of `{"b64": bytes}` the bytes."""
    if isinstance(value, list):
        return [_bytes(each) for each in value]
    return value["b64"] if isinstance(value, dict) else str(value).encode()


def _filled(values: Sequence[Any], axes: int, kind: type, filler: object) -> NDArray[Any]:
    """An array with so many axes, as long along each as the longest of the lists."""
    sides = [0] * axes
    _measure(values, sides)
    array: NDArray[Any] = np.full(sides, filler, kind)
    _put(values, array)
    return array


def _measure(values: Sequence[Any], sides: list[int], axis: int = 0) -> None:
    sides[axis] = max(sides[axis], len(values))
    if axis + 1 < len(sides):
        for each in values:
            _measure(each or (), sides, axis + 1)


def _put(values: Sequence[Any], array: NDArray[Any]) -> None:
    if array.ndim == 1:
        for at, value in enumerate(values):
            array[at] = value
        return
    for row, each in zip(array, values, strict=False):
        _put(each or (), row)


def _numbers(array: NDArray[Any], dtype: pb.DataType) -> pb.TensorProto:
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return pb.TensorProto(dtype=dtype, tensor_shape=_shape(array.shape), tensor_content=content)


def _strings(array: NDArray[Any]) -> pb.TensorProto:
    return pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=_shape(array.shape), string_val=array.ravel())


def _shape(sides: Sequence[int]) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[{"size": side} for side in sides])
