"""Reads a Darknet .weights file into the parameters of each convolution.

Owns the file's header and order. A file whose length does not match the cfg is refused before it is read, and
the message names the layer at which it ends.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_server.darknet.cfg import DarknetError
from model_server.darknet.layers import Convolution, Layer, Network

_EPSILON: Final = 1e-6
"""Added to a variance before its root is taken, as OpenCV does. Darknet adds it to the root, and its
best-known fork adds 1e-5 to the variance."""

_HEAD: Final = struct.Struct("<iii")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One convolution's parameters in float32, with its batch normalisation folded in.

    `weights` is (height, width, channels of a group, filters), `bias` (filters,).
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def read(path: Path, network: Network) -> dict[int, Kernel]:
    """Each convolution's kernel by its layer's number. Raises DarknetError, OSError."""
    with path.open("rb") as file:
        start = _header(path, file.read(20))
    _require_length(path, start, network)
    numbers = np.memmap(path, "<f4", "r", offset=start)
    kernels: dict[int, Kernel] = {}
    at = 0
    for number, layer, kind in _convolutions(network):
        count = count_of(layer, kind)
        kernels[number] = _kernel(path, layer, kind, numbers[at : at + count])
        at += count
    return kernels


def count_of(layer: Layer, kind: Convolution) -> int:
    """How many numbers this convolution has in the file."""
    return kind.filters * ((4 if kind.normalised else 1) + layer.takes[2] // kind.groups * kind.size**2)


def _convolutions(network: Network) -> Iterator[tuple[int, Layer, Convolution]]:
    for number, layer in enumerate(network.layers):
        if isinstance(layer.kind, Convolution):
            yield number, layer, layer.kind


def _header(path: Path, head: bytes) -> int:
    """The header's length: three numbers of a version, then the count of training images, 4 or 8 bytes."""
    if len(head) < _HEAD.size + 4:
        raise DarknetError(f"{path.name} is too short to be a Darknet weights file ({len(head)} bytes)")
    major, minor, _ = _HEAD.unpack_from(head)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise DarknetError(f"{path.name} is not a Darknet weights file (version {major}.{minor})")
    return _HEAD.size + (8 if major * 10 + minor >= 2 else 4)


def _require_length(path: Path, start: int, network: Network) -> None:
    size = path.stat().st_size
    end, last = start, ""
    for _, layer, kind in _convolutions(network):
        end += 4 * count_of(layer, kind)
        if end > size:
            raise DarknetError(
                f"{path.name} is too short for this cfg: it has {size} bytes, but {layer.name} ends at byte "
                f"{end}"
            )
        last = layer.name
    if not last:
        raise DarknetError("no layer of the cfg has weights")
    if end < size:
        raise DarknetError(
            f"{path.name} is too long for this cfg: it has {size} bytes, but {last}, the last layer with "
            f"weights, ends at byte {end}"
        )


def _kernel(path: Path, layer: Layer, kind: Convolution, numbers: NDArray[np.float32]) -> Kernel:
    """The kernel of biases; scales, means and variances of the normalisation; and weights, in file order."""
    if not np.isfinite(numbers).all():
        raise DarknetError(f"{path.name}: the weights of {layer.name} are not finite")
    rows = 4 if kind.normalised else 1
    vectors = numbers[: rows * kind.filters].astype(np.float64).reshape(rows, kind.filters)
    shape = (kind.filters, layer.takes[2] // kind.groups, kind.size, kind.size)
    weights = numbers[rows * kind.filters :].reshape(shape)
    bias = vectors[0]
    if kind.normalised:
        scales, means, variances = vectors[1:]
        if variances.min() < 0:
            raise DarknetError(f"{path.name}: {layer.name} has a variance below 0")
        factors = scales / np.sqrt(variances + _EPSILON)
        weights = weights * factors[:, None, None, None]
        bias = bias - means * factors
    return Kernel(np.ascontiguousarray(weights.transpose(2, 3, 1, 0), np.float32), bias.astype(np.float32))
