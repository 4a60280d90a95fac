"""A picture that was prepared for another input than its worker takes, made to fit.

Owns the last resort for a job whose own workers are all gone: its upload is no more, so what is left of it
is scaled. Not as good as preparing the upload anew, and its answer says so.
"""

import numpy as np
from numpy.typing import NDArray

from broker.messages import FRACTIONS, InputSpec
from pictures import fixed_point

NOTICE = "the picture was prepared for an earlier version of the model, and scaled for this one"

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow makes grey pictures."""


def keeps_places(tag: str, shape: tuple[int, int, int], spec: InputSpec) -> bool:
    """Whether a place in the scaled picture is the same place of the upload: the same fit, the same shape."""
    same_fit = _placing(tag) == _placing(spec.tag)
    return same_fit and shape[0] * spec.width == shape[1] * spec.height


def _placing(tag: str) -> list[str]:
    """What decides where a place lies: all but the size, and whether fractions are kept."""
    return tag.removesuffix(f"-{FRACTIONS}").split("-")[3:]


def refit(picture: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """A job's picture of 1 or 3 channels as `spec` wants it; with fractions it has 2 or 6 planes."""
    has_fractions = picture.shape[2] % 2 == 0
    pixels = fixed_point.joined(picture) if has_fractions else picture.astype(np.float32)
    if pixels.shape[2] == 3 and spec.channels == 1:
        pixels = pixels @ np.array(_LUMA, np.float32)[:, None]
    rows, columns = _weights(pixels.shape[0], spec.height), _weights(pixels.shape[1], spec.width)
    scaled = np.einsum("oh,hwc,pw->opc", rows, pixels, columns, optimize=True)
    coloured = np.broadcast_to(scaled, spec.network_shape)
    if spec.keeps_fractions:
        return fixed_point.split(coloured)
    return np.ascontiguousarray(np.clip(np.rint(coloured), 0, 255), np.uint8)


def _weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old): how much of each old pixel is in each new one; bilinear, over all that one shrinks from."""
    scale = old / new
    reach = max(1.0, scale)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres[:, None])
    weights = np.maximum(0.0, 1.0 - distance / reach)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
