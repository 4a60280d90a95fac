"""From any of Pillow's modes to L or RGB, in sRGB: depth, transparency and colour profiles.

Owns what a stored value looks like to a person. Bounds what a colour profile may cost; one that can't be used
is passed over, as browsers do. Knows no upload but a PNG whose 16-bit colour key needs both bytes.
"""

import io
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, ImageFile

MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
"""The largest profiles, of printing presses, have 3 MB; cameras' have 500 bytes."""

_SAME: Final = 3
"""Of 255: a profile that moves no colour further than this is taken for sRGB's own. Writers round it."""

_TAG: Final = struct.Struct(">4sII")
"""A tag of a colour profile: its name, where it begins and how long it is (ICC.1:2022, 7.3)."""

_TAGS_AT: Final = 128
_MOST_TAGS: Final = 100
"""lcms refuses a profile with more."""

_ELEMENTS: Final = b"mpet"
"""The type of a tag that lists curves, matrices and tables. 100,000 entries may share one element: a PNG of
607 bytes had lcms combine them for over a minute. Any other type is bounded by its bytes: the slowest of 4 MB
takes 0.1 s."""

_SPACES: Final = {"L": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
"""The kind of profile that suits a mode."""

_BAND_PIXELS: Final = 1024 * 1024
"""Pixels that are scaled at once: copies of all, four bytes each, took 1 GB for 64 megapixels."""

_WIDEST: Final = 32
"""Bits of a value."""

_DEEP_RGB: Final = "RGB;16B"
_DEEP_RGB_LOW: Final = "RGB;16L"
"""Pillow's way to read the upper bytes of a PNG's 16-bit values, and one that reads the lower."""

_GREY_BITS: Final = {"L;2": 2, "L;4": 4, "L": 8}

_Convert = Callable[[Image.Image], Image.Image]


def colour_key(image: ImageFile.ImageFile, png: bytes) -> Image.Image | None:
    """Settle a PNG's colour key before its pixels are decoded: in `image`, or as the alpha that is returned.

    Pillow has the key as it is stored, and the pixels scaled from 2 or 4 bits, or cut from 16.
    """
    key, raw = image.info.get("transparency"), image.tile[0].args if image.tile else None
    if isinstance(key, int) and raw in _GREY_BITS:
        most = (1 << _GREY_BITS[raw]) - 1
        image.info["transparency"] = (key & most) * 255 // most
    elif isinstance(key, tuple) and raw == _DEEP_RGB:
        del image.info["transparency"]
        # One after the other: each takes 4 bytes a pixel.
        upper = _matches(_read_as(_DEEP_RGB, png), [part >> 8 for part in key])
        lower = _matches(_read_as(_DEEP_RGB_LOW, png), [part & 255 for part in key])
        return ImageChops.invert(ImageChops.darker(upper, lower))
    elif isinstance(key, tuple):
        image.info["transparency"] = tuple(part & 255 for part in key)
    return None


def _matches(image: Image.Image, key: Sequence[int]) -> Image.Image:
    """255 where all of a pixel's values are the key's, else 0."""
    return reduce(
        ImageChops.darker,
        (
            image.getchannel(number).point([255 * (value == part) for value in range(256)])
            for number, part in enumerate(key)
        ),
    )


def _read_as(raw_mode: str, png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png), formats=("PNG",))
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()
    return image


def as_people_see(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, in sRGB, its transparency laid on white paper."""
    profile = image.info.get("icc_profile")
    is_grey = image.mode in ("L", "LA", "La")
    image = _plain_mode(image)
    if profile and is_grey and image.mode == "RGBA":
        # A profile of grey suits no colour; without transparency the picture would have stayed grey.
        grey = _as_srgb(image.getchannel("R"), profile)
        image = Image.merge("RGBA", (grey, grey, grey, image.getchannel("A")))
    elif profile:
        image = _as_srgb(image, profile)
    if image.mode == "RGBA":
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _plain_mode(image: Image.Image) -> Image.Image:
    """In mode L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I") or image.mode == "F":
        grey, key = _scaled_to_8_bits(image), image.info.get("transparency")
        if not isinstance(key, int):
            return grey
        opaque = (np.asarray(image) != key).view(np.uint8)
        opaque *= 255
        return Image.merge("RGBA", (grey, grey, grey, Image.fromarray(opaque)))
    if image.mode in ("LAB", "HSV", "YCbCr"):
        return image.convert("RGB")
    if image.mode == "La":  # the one step that Pillow does not take itself
        image = image.convert("LA")
    if image.mode != "RGBA" and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _SPACES else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: 9 to 16 by their upper 8; wider values or real ones by their range."""
    raw = np.asarray(image)
    if image.mode == "I" and image.info.get("bits") == _WIDEST and image.info.get("is_unsigned"):
        raw = raw.view(np.uint32)  # Pillow has no mode for them
    grey: NDArray[np.uint8]
    if raw.dtype.itemsize == np.uint16().itemsize:
        grey = (raw >> max(image.info.get("bits", 16) - 8, 0)).astype(np.uint8)
    elif raw.dtype.kind in "iu" and raw.min() >= 0 and 255 < raw.max() <= 65535:
        grey = (raw >> 8).astype(np.uint8)
    else:
        grey = _by_range(raw)
    return Image.fromarray(255 - grey if image.info.get("white_is_zero") else grey)


def _by_range(raw: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The least value as 0 and the greatest as 255; whole ones that are in that range already stay."""
    rows = max(_BAND_PIXELS // raw.shape[1], 1)
    bands = [slice(top, top + rows) for top in range(0, len(raw), rows)]

    def values(band: slice) -> NDArray[np.float32]:
        return np.nan_to_num(raw[band].astype(np.float32))

    low = min(float(values(band).min()) for band in bands)
    high = max(float(values(band).max()) for band in bands)
    if low >= 0 and high <= 255 and raw.dtype.kind != "f":
        return raw.astype(np.uint8)
    grey = np.empty(raw.shape, np.uint8)
    for band in bands:
        grey[band] = ((values(band) - low) * (255 / (high - low or 1.0))).round()
    return grey


def _as_srgb(image: Image.Image, profile: object) -> Image.Image:
    """The image with its colours in sRGB; as it is where they are already, or the profile can't be used."""
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE_BYTES:
        return image
    try:
        convert = _conversion(profile, image.mode)
        return image if convert is None else convert(image)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, SyntaxError):
        return image


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> _Convert | None:
    """What takes a mode's values to sRGB; None where they stay as they are. Cached: it takes milliseconds."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(_without_elements(profile)))
    if source.profile.xcolor_space != _SPACES[mode]:
        return None
    made = "RGBA" if mode == "RGBA" else "RGB"
    transform = ImageCms.ImageCmsTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        made,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform.apply
    sample = _greys() if mode == "L" else _cube().convert(mode)
    moved = transform.apply(sample)
    change = ImageChops.difference(moved.convert("RGB"), sample.convert("RGB")).getextrema()
    if np.max(change) <= _SAME:
        return None
    if mode == "L":
        table = list(moved.getchannel("G").tobytes())
        return lambda image: image.point(table)
    return transform.apply_in_place


def _without_elements(profile: bytes) -> bytes:
    """The profile without its lists of elements: they repeat, in floating point, what its other tags say.

    Raises ValueError where it has more tags than lcms takes.
    """
    count = int.from_bytes(profile[_TAGS_AT : _TAGS_AT + 4])
    if count > _MOST_TAGS:
        raise ValueError("too many tags")
    bounded = bytearray(profile)
    for at in range(_TAGS_AT + 4, _TAGS_AT + 4 + count * _TAG.size, _TAG.size):
        if at + _TAG.size > len(profile):
            break
        name, begin, _ = _TAG.unpack_from(profile, at)
        if profile[begin : begin + 4] == _ELEMENTS or name[:3] in (b"D2B", b"B2D"):
            bounded[at : at + 4] = at.to_bytes(4)  # a name that nothing asks for; lcms takes none twice
    return bytes(bounded)


def _greys() -> Image.Image:
    return Image.frombytes("L", (256, 1), bytes(range(256)))


def _cube() -> Image.Image:
    """Colours from all over the cube of RGB: 9 x 9 x 9 of them."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))
