"""What a picture's header says of its size, in each format, against what decoding finds."""

import io
import struct

import pytest
from PIL import Image

from pictures import declared_size
from pictures.decode import decode

FORMATS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("ICO", {"sizes": [(70, 50)]}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {}),
    ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),  # in the extended form
    ("TIFF", {}),
    ("TIFF", {"big_tiff": True}),
    ("AVIF", {}),
]


def _file(format_: str, options: dict[str, object], size: tuple[int, int] = (70, 50)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize(("format_", "options"), FORMATS, ids=lambda value: str(value)[:24])
def test_the_header_says_the_size_that_decoding_finds(format_: str, options: dict[str, object]) -> None:
    upload = _file(format_, options)
    assert declared_size.of(upload) == decode(upload, max_pixels=10_000).size == (70, 50)


def test_big_endian_tiff() -> None:
    entries = struct.pack(">HHIHHHHII", 256, 3, 1, 70, 0, 257, 4, 1, 50)
    assert declared_size.of(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (70, 50)


def test_of_several_images_in_a_heif_file_the_largest_counts() -> None:
    boxes = b"".join(
        b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", *size) for size in [(8, 8), (70, 50), (9, 9)]
    )
    assert declared_size.of(b"\0\0\0\x18ftypheic" + b"\0" * 12 + boxes) == (70, 50)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "ICO", "WEBP"])
def test_what_is_cut_short_has_no_pixels_or_says_its_size(format_: str) -> None:
    """It is refused when it is decoded, which costs nothing."""
    upload = _file(format_, {})
    for length in (0, 3, 8, 13, 17, 23, 29):
        size = declared_size.of(upload[:length])
        assert size is not None
        assert size[0] * size[1] in (0, 70 * 50) or length > 23


@pytest.mark.parametrize(
    "upload", [b"II*\0\x08\0\0\0", b"II\0*" + b"\0" * 40, b"\0\0\0\x18ftypavif" + b"\0" * 20]
)
def test_a_confined_format_that_does_not_tell_is_unknown(upload: bytes) -> None:
    assert declared_size.of(upload) is None
