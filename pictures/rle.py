"""Masks as COCO's compressed run lengths, and back.

Owns the format, which is that of cocoapi's maskApi.c (rleEncode, rleToString, rleFrString) and thereby of
pycocotools. Pixels are counted column by column. Knows no Pillow: the model server writes masks, the web tier
reads them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.messages import Box, Mask

Numbers = NDArray[np.int64]

LONGEST: Final = 2048
"""Pixels of a mask's longer side, at most: that of a larger photo has its shape, and fewer pixels."""

_LONG: Final = 0.9
"""Of the runs that have this share of the longest one's length, the one in the middle counts."""

_DIGITS: Final = 7
"""Characters of 5 bits for a count, at most: 2048 x 2048 pixels need 23 bits and a sign."""


def size_of(original_size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the masks of a photo of that (width, height)."""
    shrink = min(1.0, LONGEST / max(original_size))
    width, height = (max(1, round(side * shrink)) for side in original_size)
    return width, height


def runs(part: NDArray[np.bool_], left: int, top: int, height: int) -> tuple[Numbers, Numbers]:
    """The runs of a mask that is False outside of `part`: where each begins, and where it has ended.

    `part` is (columns, rows), its first pixel at `left`, `top` of a mask of that height.
    """
    columns, rows = part.shape
    framed = np.zeros((columns, rows + 2), np.bool_)
    framed[:, 1:-1] = part
    flat = framed.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    places = (left + changes // (rows + 2)) * height + top + changes % (rows + 2)
    begins, ends = places[0::2], places[1::2]
    # A run that reaches the lower edge goes on at the top of the next column.
    is_apart = begins[1:] != ends[:-1]
    return begins[np.append(True, is_apart)[: len(begins)]], ends[np.append(is_apart, True)[: len(ends)]]


def of_runs(begins: Numbers, ends: Numbers, size: tuple[int, int]) -> str:
    """COCO's string for the runs of a mask of that (width, height)."""
    bounds = np.zeros(2 * len(begins) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = begins, ends, size[0] * size[1]
    counts = np.diff(bounds)
    return _written(counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts)


def decode(mask: Mask) -> NDArray[np.bool_]:
    """The mask as (height, width). Raises ValueError if its counts do not fill its size."""
    height, width = mask.size
    if not (0 < height <= LONGEST and 0 < width <= LONGEST):  # whose numbers would be gigabytes
        raise ValueError(f"a mask of {width} x {height} pixels is none of this service's")
    counts = _read(mask.counts)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"the run lengths of a mask do not fill {width} x {height} pixels")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def placed(mask: Mask, part: Box, photo: tuple[int, int]) -> Mask:
    """The mask of a part of a photo, as one of the photo, whose (width, height) `photo` is.

    Raises ValueError if the counts do not fill the mask's size.
    """
    size = size_of(photo)
    # In the pixels of the photo's mask, which are the photo's own up to LONGEST.
    left, right = _span(part[0], part[2], photo[0], size[0])
    top, bottom = _span(part[1], part[3], photo[1], size[1])
    columns, rows = (
        (2 * np.arange(count) + 1) * sampled // (2 * count)  # the nearest pixel
        for count, sampled in ((right - left, mask.size[1]), (bottom - top, mask.size[0]))
    )
    inner = np.ascontiguousarray(decode(mask).T[np.ix_(columns, rows)])
    begins, ends = runs(inner, left, top, size[1])
    return Mask((size[1], size[0]), of_runs(begins, ends, size), mask.form)


def _span(start: int, length: int, whole: int, side: int) -> tuple[int, int]:
    """From where to where a part of a photo goes on its mask, where `whole` pixels are `side`."""
    begins = min(round(start * side / whole), side - 1)
    return begins, max(begins + 1, min(round((start + length) * side / whole), side))


def inside(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """A place (x, y) inside of a mask, which is not empty: the middle of one of its longest runs."""
    height = mask.shape[0] + 1  # a run ends with its column
    begins, ends = runs(np.ascontiguousarray(mask.T), 0, 0, height)
    lengths = ends - begins
    long = np.flatnonzero(lengths >= _LONG * lengths.max())
    longest = long[len(long) // 2]
    x, y = divmod(int(begins[longest] + ends[longest] - 1) // 2, height)
    return x + 0.5, y + 0.5


def _written(counts: Numbers) -> str:
    """A count is written as its difference to the last but one, in digits of 5 bits, the lowest first.

    The sixth bit says that another follows; the fifth of the last is the sign.
    """
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    digits = np.zeros((len(rest), _DIGITS), np.uint8)
    is_written = np.zeros((len(rest), _DIGITS), np.bool_)
    open_ = np.ones(len(rest), np.bool_)
    for at in range(_DIGITS):
        if not open_.any():
            break
        is_written[:, at] = open_
        low = rest & 0x1F
        rest >>= 5
        open_ = open_ & (rest != np.where(low & 0x10, -1, 0))
        digits[:, at] = low | np.where(open_, 0x20, 0)
    return (digits[is_written] + 48).astype(np.uint8).tobytes().decode("ascii")


def _read(text: str) -> Numbers:
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    is_last = digits & 0x20 == 0
    starts = np.flatnonzero(np.append(True, is_last[:-1])) if len(digits) else np.zeros(0, np.int64)
    places = np.arange(len(digits)) - np.repeat(starts, np.diff(np.append(starts, len(digits))))
    if not len(digits) or not is_last[-1] or places.max() >= _DIGITS:
        raise ValueError("the run lengths of a mask end in the middle of a number")
    counts = np.add.reduceat((digits & 0x1F) << (5 * places), starts)
    is_negative = digits[is_last] & 0x10 != 0
    counts -= np.where(is_negative, 1 << 5 * (places[is_last] + 1), 0)
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts
