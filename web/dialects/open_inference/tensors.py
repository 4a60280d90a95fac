"""Tensors as the protocol sends them: numbers in JSON, or bytes after the JSON (the binary tensor extension).

Owns both forms, both ways, for the data types that pictures and answers have. Knows no model and no Flask.
Sources: kserve/open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from broker.errors import ClientError

HEADER: Final = "Inference-Header-Content-Length"
"""Bytes of JSON at the beginning of a body with bytes after it."""

BYTES: Final = "BYTES"
UINT8: Final = "UINT8"

_TYPES: Final = {"UINT8": "<u1", "INT64": "<i8", "FP32": "<f4"}
"""Of the tensors that are answered."""

_MOST: Final = 255
"""Of UINT8."""

_SIZE: Final = struct.Struct("<I")
"""Before each element of BYTES in binary."""


class InputTensor(Struct, frozen=True):
    """An input as a request's JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = UNSET


class WantedOutput(Struct, frozen=True):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] = []


class OutputTensor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An output as an answer's JSON has it."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | UnsetType = UNSET
    data: Any = UNSET


class InferReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputTensor]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array: uint8, int64 or float32; of objects (bytes) for BYTES."""

    name: str
    values: NDArray[Any]

    @property
    def datatype(self) -> str:
        """As the protocol spells it."""
        if self.values.dtype == object:
            return BYTES
        return next(name for name, kind in _TYPES.items() if self.values.dtype == np.dtype(kind))


def read_request(body: bytes, header: str | None) -> tuple[InferRequest | None, bytes]:
    """The JSON of a request, and the bytes after it; None for a raw one, which is a single input's bytes.

    `header` is the value of HEADER. Raises ClientError.
    """
    size = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit()) or int(header) > len(body):
            raise ClientError(
                f"{HEADER} is {header[:20]!r}: it is the number of bytes of JSON, of {len(body)} in all."
            )
        size = int(header)
        if size == 0:
            return None, body
    try:
        return msgspec.json.decode(body[:size], type=InferRequest), body[size:]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, msgspec.ValidationError) else "it is not valid JSON"
        raise ClientError(f"The request's JSON is not accepted: {said[:200]}.") from None


def elements(tensor: InputTensor, binary: bytes) -> list[bytes | str]:
    """The elements of an input of BYTES; those of JSON are text. Raises ClientError."""
    count = _count(tensor)
    if tensor.data is UNSET:
        found: list[bytes | str] = [*_split(binary)]
    else:
        found = _flat(tensor.data, count)
        if not all(isinstance(each, str) for each in found):
            raise ClientError(f"The data of {tensor.name!r} are not all strings, as BYTES in JSON are.")
    if len(found) != count:
        raise ClientError(f"{tensor.name!r} has {len(found)} elements; its shape {tensor.shape} has {count}.")
    return found


def pixels(tensor: InputTensor, binary: bytes) -> NDArray[np.uint8]:
    """The values of an input of UINT8, in its shape. Raises ClientError."""
    count = _count(tensor)
    if tensor.data is UNSET:
        if len(binary) != count:
            raise ClientError(
                f"{tensor.name!r} has {len(binary)} bytes; its shape {tensor.shape} has {count} of UINT8."
            )
        return np.frombuffer(binary, np.uint8).reshape(tensor.shape)
    try:
        flat = np.array(_flat(tensor.data, count))
    except (ValueError, OverflowError):
        flat = np.array([])
    is_whole = flat.shape == (count,) and flat.dtype.kind in "iu"
    if not is_whole or (flat.size and (flat.min() < 0 or flat.max() > _MOST)):
        raise ClientError(
            f"The data of {tensor.name!r} are not {count} whole numbers from 0 to 255, as its shape has."
        )
    return flat.astype(np.uint8).reshape(tensor.shape)


def binary_of(tensor: InputTensor, rest: bytes) -> bytes:
    """The bytes of the only input after the JSON. Raises ClientError."""
    size = tensor.parameters.get("binary_data_size")
    if tensor.data is not UNSET:
        if size is not None or rest:
            raise ClientError(f"{tensor.name!r} has data in the JSON, and bytes after it: send one of them.")
        return b""
    if not isinstance(size, int) or isinstance(size, bool):
        raise ClientError(f"{tensor.name!r} has no data, and no binary_data_size for bytes after the JSON.")
    if size != len(rest):
        raise ClientError(f"{tensor.name!r} has a binary_data_size of {size}, and {len(rest)} bytes follow.")
    return rest


def encode(answer: InferReply, outputs: Sequence[tuple[Tensor, bool]]) -> tuple[bytes, int | None]:
    """The body of an answer with its outputs, each in binary or not; and the value of HEADER if it has."""
    told: list[OutputTensor] = []
    blobs: list[bytes] = []
    for tensor, is_binary in outputs:
        common = OutputTensor(name=tensor.name, datatype=tensor.datatype, shape=[*tensor.values.shape])
        if is_binary:
            blobs.append(_packed(tensor.values))
            common = msgspec.structs.replace(common, parameters={"binary_data_size": len(blobs[-1])})
        else:
            common = msgspec.structs.replace(common, data=_listed(tensor.values))
        told.append(common)
    json = msgspec.json.encode(msgspec.structs.replace(answer, outputs=told))
    return b"".join((json, *blobs)), len(json) if blobs else None


def _count(tensor: InputTensor) -> int:
    if any(side < 0 for side in tensor.shape):
        raise ClientError(f"The shape of {tensor.name!r} is {tensor.shape}: no side can be negative.")
    return math.prod(tensor.shape)


def _split(data: bytes) -> list[bytes]:
    """The elements of BYTES in binary, each with its length before it."""
    found, at = [], 0
    while at < len(data):
        if at + _SIZE.size > len(data):
            raise ClientError("The elements of BYTES end within a length.")
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        if at + size > len(data):
            raise ClientError(
                f"An element of BYTES has {size} bytes by its length, and {len(data) - at} are left."
            )
        found.append(data[at : at + size])
        at += size
    return found


def _flat(data: Any, at_most: int) -> list[Any]:  # noqa: ANN401 - any JSON
    """JSON's numbers or strings, nested or flat, in one list; longer than `at_most` it is cut short."""
    if not isinstance(data, list):
        return [data]
    flat: list[Any] = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(row, list) for row in flat):
            return []
        flat = [value for row in flat for value in row]
        if len(flat) > at_most:
            break
    return flat


def _packed(values: NDArray[Any]) -> bytes:
    if values.dtype == object:
        return b"".join(_SIZE.pack(len(element)) + element for element in values.ravel())
    return values.tobytes()


def _listed(values: NDArray[Any]) -> list[Any]:
    return [str(each, "utf-8") if isinstance(each, bytes) else each for each in values.ravel().tolist()]
