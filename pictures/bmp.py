"""BMPs of the kinds that browsers show and Pillow does not read: any bit masks, any header, any palette.

Owns these kinds, and run lengths, which Pillow unpacks pixel by pixel: 500 KB of them held a core for 5 s.
Pillow reads the others. Allocates no more than the pixels that the header names, which are judged first, and
believes no length in the file.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FILE_HEADER: Final = 14
_OS2_1: Final = 12
_INFO: Final = 40
"""Sizes of headers: that before all others, OS/2's first, Windows' usual one."""

_OS2_SHORT: Final = 16
"""OS/2's second may be cut off from here on; what it leaves out is zero."""

_RGB, _RUNS_8, _RUNS_4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6

_RUN_BITS: Final = {_RUNS_8: 8, _RUNS_4: 4}

_UPPER: Final = bytes(byte >> 4 for byte in range(256))
_LOWER: Final = bytes(byte & 15 for byte in range(256))

_LINE_END, _END, _MOVE = 0, 1, 2
"""What a second byte means after a zero; any other is the number of pixels that follow as they are."""

_DEFAULT_MASKS: Final = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


@dataclass(frozen=True, slots=True)
class Header:
    """What a BMP says of its pixels."""

    width: int
    height: int
    is_top_down: bool
    bits: int
    masks: tuple[int, int, int, int]
    """Red, green, blue, alpha; of 16 and 32 bits."""
    palette: bytes
    entry: int
    """Bytes of one colour in the palette: blue, green, red, and one that is not used."""
    pixels_at: int
    has_runs: bool = False
    """Whether the pixels are packed in runs."""


def header(bmp: bytes) -> Header | None:
    """The header of a BMP that can be read here, else None."""
    if len(bmp) < _FILE_HEADER + _OS2_1 or not bmp.startswith(b"BM"):
        return None
    pixels_at, size = struct.unpack_from("<II", bmp, 10)
    if size == _OS2_1:
        width, height, _, bits = struct.unpack_from("<HHHH", bmp, 18)
        compression, colours, entry = _RGB, 0, 3
    elif _OS2_SHORT <= size <= 1024:
        fields = bmp[18 : _FILE_HEADER + size].ljust(_INFO, b"\0")
        width, height, _, bits, compression, _, _, _, colours = struct.unpack_from("<iiHHIIiiI", fields)
        entry = 4
    else:
        return None
    if width <= 0 or not height:
        return None
    has_runs, has_masks = bits == _RUN_BITS.get(compression), compression in (_BITFIELDS, _ALPHA_BITFIELDS)
    if not has_runs and not (has_masks and bits in _DEFAULT_MASKS) and compression != _RGB:
        return None
    if bits not in (1, 2, 4, 8, 16, 24, 32):
        return None
    masks = _DEFAULT_MASKS.get(bits, (0, 0, 0, 0))
    table_at = _FILE_HEADER + size
    if has_masks:
        # After a short header; within a long one, where its fields for them are.
        count = 4 if compression == _ALPHA_BITFIELDS or size >= 56 else 3
        if len(bmp) < _FILE_HEADER + _INFO + 4 * count:
            return None
        read = struct.unpack_from(f"<{count}I", bmp, _FILE_HEADER + _INFO)
        masks = (read[0], read[1], read[2], read[3] if count == 4 else 0)
        table_at = max(table_at, _FILE_HEADER + _INFO + 4 * count)
    most = 1 << bits if bits <= 8 else 0
    palette = bmp[table_at : table_at + entry * min(colours or most, most)]
    return Header(width, abs(height), height < 0, bits, masks, palette, entry, pixels_at, has_runs)


def read(bmp: bytes, found: Header) -> Image.Image:
    """The picture. Raises ValueError where rows are missing."""
    if found.has_runs:
        pixels = np.frombuffer(_unpacked(bmp[found.pixels_at :], found), np.uint8)
        rows = pixels.reshape(found.height, found.width)
        return _by_palette(rows if found.is_top_down else rows[::-1], replace(found, bits=8))
    stride = (found.width * found.bits + 31) // 32 * 4
    data = np.frombuffer(bmp, np.uint8)[found.pixels_at : found.pixels_at + stride * found.height]
    if data.size < stride * found.height:
        raise ValueError("rows are missing")
    rows = data.reshape(found.height, stride)
    rows = rows if found.is_top_down else rows[::-1]
    if found.bits <= 8:
        return _by_palette(rows, found)
    if found.bits == 24:
        return Image.fromarray(rows[:, : 3 * found.width].reshape(found.height, found.width, 3)[..., ::-1])
    return _by_masks(rows, found)


def _unpacked(runs: bytes, found: Header) -> bytearray:
    """A byte a pixel; those that are passed over are 0. Raises ValueError where rows are missing."""
    pixels = bytearray(found.width * found.height)
    x = y = at = 0
    while at + 1 < len(runs):
        count, value = runs[at], runs[at + 1]
        at += 2
        if count:
            run = _pixels_of(bytes((value,)), found.bits) * count
        elif value == _LINE_END:
            x, y, run = 0, y + 1, b""
        elif value == _END:
            return pixels
        elif value == _MOVE:
            x, y, run = x + runs[at], y + runs[at + 1], b""
            at += 2
        else:
            count = value
            length = (count * found.bits + 7) // 8
            run = _pixels_of(runs[at : at + length], found.bits)
            at += length + length % 2
        if y >= found.height:
            return pixels
        if run and x < found.width:
            run = run[: min(count, found.width - x)]
            begin = y * found.width + x
            pixels[begin : begin + len(run)] = run
            x += len(run)
    if y < found.height - 1 or x < found.width:
        raise ValueError("rows are missing")
    return pixels


def _pixels_of(packed: bytes, bits: int) -> bytes:
    """A byte a pixel, of bytes with one or two."""
    if bits == 8:
        return packed
    pixels = bytearray(2 * len(packed))
    pixels[::2], pixels[1::2] = packed.translate(_UPPER), packed.translate(_LOWER)
    return bytes(pixels)


def _by_palette(rows: NDArray[np.uint8], found: Header) -> Image.Image:
    count = 8 // found.bits
    shifts = np.arange(8 - found.bits, -1, -found.bits, dtype=np.uint8)
    indices = rows if count == 1 else ((rows[..., None] >> shifts) & ((1 << found.bits) - 1))
    indices = indices.reshape(found.height, -1)[:, : found.width]
    entries = np.frombuffer(found.palette, np.uint8)
    entries = entries[: entries.size // found.entry * found.entry].reshape(-1, found.entry)
    colours = np.zeros((256, 3), np.uint8)  # an index beyond the palette is black
    colours[: len(entries)] = entries[:, 2::-1]
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(colours.tobytes())
    return image.convert("RGB")


def _by_masks(rows: NDArray[np.uint8], found: Header) -> Image.Image:
    width = found.bits // 8
    values = np.ascontiguousarray(rows[:, : width * found.width]).view(f"<u{width}")
    parts = [_channel(values, mask) for mask in found.masks if mask] if any(found.masks[:3]) else []
    by_mask = dict(zip((mask for mask in found.masks if mask), parts, strict=True))
    empty = np.zeros(values.shape, np.uint8)
    channels = [by_mask.get(mask, empty) for mask in found.masks[:3]]
    if found.masks[3] and by_mask[found.masks[3]].any():
        channels.append(by_mask[found.masks[3]])
    return Image.fromarray(np.stack(channels, axis=-1))


def _channel(values: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """The bits under a mask, as 0 to 255."""
    low = (mask & -mask).bit_length() - 1
    most = mask >> low
    part = (values & mask) >> low
    scaled: NDArray[np.uint8] = (part.astype(np.float32) * np.float32(255 / most)).round().astype(np.uint8)
    return scaled
