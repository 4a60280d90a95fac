"""Tensors as the protocol sends them: numbers in JSON, or bytes after the JSON (the binary tensor extension).

Owns both forms, both ways, for the data types that pictures and answers have. Knows no model and no Flask.
Sources: kserve/open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md.
"""

import contextlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from numpy.typing import NDArray

from broker.errors import ClientError
from web.dialects import json_pixels

HEADER: Final = "Inference-Header-Content-Length"
"""Bytes of JSON at the beginning of a body with bytes after it."""

BYTES: Final = "BYTES"
UINT8: Final = "UINT8"

_TYPES: Final = {"UINT8": "<u1", "INT64": "<i8", "FP32": "<f4"}
"""Of the tensors that are answered."""

_TENSORS: Final = 16
"""Inputs or outputs of a request."""

_AXES: Final = 8
"""Of a shape."""

_LARGEST: Final = 2**31 - 1
_LONGEST_US: Final = 10**15

_HEADER_DIGITS: Final = 9

_SIZE: Final = struct.Struct("<I")
"""Before each element of BYTES in binary."""


class InputParameters(Struct, frozen=True):
    """Of an input; others are ignored."""

    binary_data_size: Annotated[int, Meta(ge=0, le=_LARGEST)] | UnsetType = UNSET


class OutputParameters(Struct, frozen=True):
    """Of an output that is wanted; others are ignored."""

    binary_data: bool | UnsetType = UNSET
    classification: Annotated[int, Meta(ge=0, le=_LARGEST)] = 0
    """So many best classes in its place; 0: the output itself."""


class RequestParameters(Struct, frozen=True):
    """Of a request; others are ignored."""

    binary_data_output: bool = False
    timeout: Annotated[int, Meta(ge=0, le=_LONGEST_US)] = 0
    """Microseconds; 0: the service's own."""
    priority: int | str = ""
    """`low`, `normal` or `high`. Numbers are levels of Triton's, which models without levels ignore there."""


class InputTensor(Struct, frozen=True):
    """An input as a request's JSON has it."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=_LARGEST)]], Meta(max_length=_AXES)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Raw | UnsetType = UNSET
    """As it stands: what it is comes with the data type."""


class WantedOutput(Struct, frozen=True):
    """An output that a request names."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(Struct, frozen=True):
    """The JSON of a request."""

    inputs: Annotated[list[InputTensor], Meta(max_length=_TENSORS)]
    id: str = ""
    parameters: RequestParameters = RequestParameters()
    outputs: Annotated[list[WantedOutput], Meta(max_length=_TENSORS)] = []


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
        is_number = header.isascii() and header.isdigit() and len(header) <= _HEADER_DIGITS
        if not is_number or int(header) > len(body):
            raise ClientError(
                f"{HEADER} is {header[:20]!r}: it is the number of bytes of JSON, of {len(body)} in all."
            )
        size = int(header)
        if size == 0:
            return None, body
    try:
        return msgspec.json.decode(body[:size], type=InferRequest), body[size:]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if isinstance(error, msgspec.ValidationError) else "it is not valid JSON"
        raise ClientError(f"The request's JSON is not accepted: {said[:200]}.") from None


def request_of(fields: Mapping[str, Any]) -> InferRequest:
    """A request from its fields, as gRPC's messages have them. Raises ClientError."""
    try:
        return msgspec.convert(fields, InferRequest)
    except msgspec.ValidationError as error:
        raise ClientError(f"The request is not accepted: {str(error)[:200]}.") from None


def elements(tensor: InputTensor, binary: bytes) -> list[bytes | str]:
    """The elements of an input of BYTES; those of JSON are text. Raises ClientError."""
    count = math.prod(tensor.shape)
    found = _split(binary, count) if tensor.data is UNSET else _texts(bytes(tensor.data), count)
    if len(found) != count:
        raise ClientError(
            f"{tensor.name[:40]!r} does not have the {count} elements of its shape {tensor.shape}, which are "
            "strings in JSON."
        )
    return found


def pixels(tensor: InputTensor, binary: bytes) -> NDArray[np.uint8]:
    """The values of an input of UINT8, in its shape. Raises ClientError."""
    count = math.prod(tensor.shape)
    if tensor.data is UNSET:
        values = np.frombuffer(binary, np.uint8) if len(binary) == count else None
    else:
        values = json_pixels.flat(bytes(tensor.data), count)
    if values is None:
        raise ClientError(
            f"{tensor.name[:40]!r} does not have the {count} whole numbers of its shape {tensor.shape}, from "
            "0 to 255 and in binary of one byte each."
        )
    return values.reshape(tensor.shape)


def binary_of(tensor: InputTensor, rest: bytes) -> bytes:
    """The bytes of the only input after the JSON. Raises ClientError."""
    size, name = tensor.parameters.binary_data_size, tensor.name[:40]
    if tensor.data is not UNSET:
        if size is not UNSET or rest:
            raise ClientError(f"{name!r} has data in the JSON, and bytes after it: send one of them.")
        return b""
    if size is UNSET:
        raise ClientError(f"{name!r} has no data, and no binary_data_size for bytes after the JSON.")
    if size != len(rest):
        raise ClientError(f"{name!r} has a binary_data_size of {size}, and {len(rest)} bytes follow.")
    return rest


def encode(answer: InferReply, outputs: Sequence[tuple[Tensor, bool]]) -> tuple[bytes, int | None]:
    """The body of an answer with its outputs, each in binary or not; and the value of HEADER if it has."""
    told: list[OutputTensor] = []
    blobs: list[bytes] = []
    for tensor, is_binary in outputs:
        common = OutputTensor(name=tensor.name, datatype=tensor.datatype, shape=[*tensor.values.shape])
        if is_binary:
            blobs.append(packed(tensor.values))
            common = msgspec.structs.replace(common, parameters={"binary_data_size": len(blobs[-1])})
        else:
            common = msgspec.structs.replace(common, data=_listed(tensor.values))
        told.append(common)
    json = msgspec.json.encode(msgspec.structs.replace(answer, outputs=told))
    return b"".join((json, *blobs)), len(json) if blobs else None


def _split(data: bytes, count: int) -> list[bytes | str]:
    """The elements of BYTES in binary, each with its length before it; at most one more than `count`."""
    found: list[bytes | str] = []
    at = 0
    while at < len(data) and len(found) <= count:
        if at + _SIZE.size > len(data):
            raise ClientError("The elements of BYTES end within a length.")
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        if at + size > len(data):
            left = len(data) - at
            raise ClientError(f"An element of BYTES has {size} bytes by its length, and {left} are left.")
        found.append(data[at : at + size])
        at += size
    return found


def _texts(json: bytes, count: int) -> list[bytes | str]:
    """The strings of [n] or [n][1]; none where it is something else. Base64 has no brackets."""
    if json.count(b"[") > count + 1:
        return []
    with contextlib.suppress(msgspec.DecodeError):
        return [*msgspec.json.decode(json, type=list[str])]
    with contextlib.suppress(msgspec.DecodeError):
        return [text for row in msgspec.json.decode(json, type=list[list[str]]) for text in row]
    return []


def packed(values: NDArray[Any]) -> bytes:
    """An array's values side by side, each of BYTES with its length before it."""
    if values.dtype == object:
        return b"".join(_SIZE.pack(len(element)) + element for element in values.ravel())
    return values.tobytes()


def _listed(values: NDArray[Any]) -> list[Any]:
    return [str(each, "utf-8") if isinstance(each, bytes) else each for each in values.ravel().tolist()]
