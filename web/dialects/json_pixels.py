"""Numbers in JSON as the pixels of pictures.

Owns which numbers are pixels. Reads them as they stand in the text, as numbers side by side: nested lists of
20 MB took ten seconds to build, in which no other thread ran, and a long string among them 2 GB.
"""

from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from broker.errors import ClientError
from broker.messages import InputSpec

_MOST: Final = 255

_Byte = Annotated[int, Meta(ge=0, le=_MOST)]

_AROUND: Final = b"[] \t\r\n"


def flat(json: bytes, count: int) -> NDArray[np.uint8] | None:
    """The `count` whole numbers from 0 to 255 of an array, nested or not, as uint8; None: it has others.

    `json` is sound JSON. Numbers like 7.0 are whole, too.
    """
    if json.count(b",") != count - 1:
        return None
    numbers = b"[%b]" % json.translate(None, _AROUND)
    try:
        values = np.array(msgspec.json.decode(numbers, type=list[_Byte]), np.uint8)
    except msgspec.DecodeError:
        try:
            reals = np.array(msgspec.json.decode(numbers, type=list[float]))
        except msgspec.DecodeError:
            return None
        if not ((reals >= 0) & (reals <= _MOST) & (reals == np.trunc(reals))).all():
            return None
        values = reals.astype(np.uint8)
    return values if len(values) == count else None


def require_size(spec: InputSpec) -> None:
    """Raise ClientError for a pipeline: each of its models has a size of its own."""
    if not spec.has_size:
        raise ClientError("A pipeline takes encoded pictures, and no pixels: it has no size to fit them to.")


def picture(json: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    """An array [height][width][channels] of a model's pixels; rows of grey values may have no channel.

    Raises ClientError.
    """
    require_size(spec)
    height, width, channels = spec.network_shape
    nested = [1 + height + height * width, *([1 + height] if channels == 1 else [])]
    values = flat(json, height * width * channels) if json.count(b"[") in nested else None
    if values is None:
        raise ClientError(
            f"A picture in numbers is an array [{height}][{width}][{channels}] (height, width, channels) for "
            "this model, its rows of the same length, of whole numbers from 0 to 255, before any "
            "normalisation: the service does that itself. Or send the encoded picture; the service fits it."
        )
    return values.reshape(spec.network_shape)
