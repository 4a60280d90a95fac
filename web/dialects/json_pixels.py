"""Numbers in JSON as the pixels of a picture.

Owns which numbers are pixels, and how many arrays a body may have. Which shape a model takes is the job
client's to say.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError
from broker.messages import InputSpec

_AROUND: Final = 16
"""Arrays and objects around each picture, and in fields that are ignored."""


def most_brackets(spec: InputSpec, pictures: int) -> int:
    """How many arrays and objects a body with so many pictures may have.

    Before it is read: 20 MB of empty arrays took 10 s, in which no other thread ran.
    """
    height, width, _ = spec.network_shape
    return pictures * (_AROUND + height * (1 + width))


def pixels(rows: list[Any]) -> NDArray[np.uint8]:
    """Nested lists of pixel values, from 0 to 255, as an array; rows of grey values get their one channel.

    Raises ClientError.
    """
    try:
        values = np.array(rows)
    except (ValueError, OverflowError):
        values = np.array(None)  # rows of different lengths, or too deep
    if values.dtype.kind not in "iuf":
        raise ClientError(
            "A picture in numbers is an array [height][width][channels], its rows of the same length."
        )
    if not ((values >= 0) & (values <= 255) & (values == np.trunc(values))).all():
        raise ClientError(
            "Pixels are whole numbers from 0 to 255, before any normalisation: the service does that itself."
        )
    if values.ndim == 2:
        values = values[:, :, np.newaxis]
    return values.astype(np.uint8)
