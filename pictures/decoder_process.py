"""A process that decodes one AVIF, HEIC or TIFF picture and ends: the far side of confined.py.

Owns the limits that it sets itself before it reads a byte, and the kinds of TIFF that Pillow does not know.
Run as a script, with an interpreter that has Pillow and pillow-heif; imports nothing else of the project, so
that it starts in a tenth of a second.

Reads the upload from standard input. Writes a line of JSON, then the colour profile, the EXIF data and the
pixels; a picture that is too large or in a fax coding gets only the line, and a broken one ends the process.
"""

import io
import json
import resource
import sys
from typing import BinaryIO, Final

from PIL import Image

FORMATS: Final = ("AVIF", "HEIF")

_FAX: Final = ("group3", "group4", "tiff_ccitt")
"""Pillow's names of TIFF's compressions 3, 4 and 2 (ITU-T T.4 and T.6). For each broken row of one libtiff
writes a line: 622 bytes made 123 MB of them in 23 s."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""TIFF's tags. The second says what zero looks like: 0 is white, 1 is black."""

_UNSIGNED: Final = 1
_GREY_AND_MORE: Final = 2
"""Channels of grey with alpha, or with one that says nothing."""

_BASE_BYTES: Final = 1024 * 1024 * 1024
"""Of address space: the interpreter, the libraries, and the arenas that their threads reserve."""

_BYTES_PER_PIXEL: Final = 24
"""Planes of 10 bits (6), the file's pixels (4), their copy (4), Pillow's (4), smaller copies."""

_BASE_CPU_S: Final = 2
_PIXELS_PER_CPU_S: Final = 4_000_000
"""Under half of what a core decodes of dense HEIC: 48 megapixels in 5 s."""

_TIFF_PIXELS_PER_CPU_S: Final = 10_000_000
"""Half of what a core decodes of the slowest TIFF (CMYK in Deflate), but for LZMA's 5 million."""


def main(max_pixels: int, max_side: int, shortest: int, longest: int) -> None:
    """Decode standard input to standard output."""
    most_bytes = _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    most_cpu_s = 2 * _BASE_CPU_S + max_pixels // _PIXELS_PER_CPU_S
    _limit_cpu(_BASE_CPU_S, most_cpu_s)
    Image.MAX_IMAGE_PIXELS = None
    upload = sys.stdin.buffer.read()
    is_tiff = upload[:2] in (b"II", b"MM")
    image = (_open_tiff if is_tiff else _open)(io.BytesIO(upload))
    width, height = image.size
    if width * height > max_pixels or max(width, height) > max_side:
        _write_line(sys.stdout.buffer, {"too_large": [width, height]})
        return
    if is_tiff and (coding := image.info.get("compression")) in _FAX:
        _write_line(sys.stdout.buffer, {"fax": coding})
        return
    is_quick = is_tiff and image.info.get("compression") != "lzma"
    pace = _TIFF_PIXELS_PER_CPU_S if is_quick else _PIXELS_PER_CPU_S
    _limit_cpu(_BASE_CPU_S + width * height // pace, most_cpu_s)
    image.load()
    if image.size != (width, height):
        raise ValueError("the picture has another size than its header says")
    if is_tiff:
        _write(*_plain_tiff(image), sys.stdout.buffer)
    else:
        # As a JPEG's decoder does: by a whole number, and no smaller than is needed.
        factor = max(min(image.size) // shortest if shortest else max(image.size) // longest, 1)
        small = image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB") else image
        _write(small, {"whole": image.size}, sys.stdout.buffer)


def _open(file: io.BytesIO) -> Image.Image:
    import pillow_heif  # noqa: PLC0415 - 60 ms that a TIFF does not wait for
    from PIL import AvifImagePlugin  # noqa: PLC0415

    # One thread: as many pictures are decoded at once as there are cores.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return Image.open(file, formats=FORMATS)


def _open_tiff(file: io.BytesIO) -> Image.Image:
    from PIL import TiffImagePlugin as Tiff  # noqa: PLC0415

    for order in (Tiff.II, Tiff.MM):
        for photometric in (0, 1):
            Tiff.OPEN_INFO.setdefault((order, photometric, (1,), 1, (12,), ()), ("I;16", "I;12"))
        for extra, modes in ((0, ("L", "LX")), (1, ("La", "La")), (2, ("LA", "LA"))):
            Tiff.OPEN_INFO.setdefault((order, 0, (1,), 1, (8, 8), (extra,)), modes)
    Tiff.OPEN_INFO.setdefault((Tiff.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
    Tiff.OPEN_INFO.setdefault((Tiff.II, 0, (1,), 1, (32,), ()), ("I", "I;32N"))
    return Image.open(file, formats=("TIFF",))


def _plain_tiff(image: Image.Image) -> tuple[Image.Image, dict[str, object]]:
    """The picture without a palette, and what is to be known of its values."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, white_is_zero = tags.get(_BITS, (1,)), tags.get(_PHOTOMETRIC, 0) == 0
    about = {"bits": bits[0], "is_unsigned": tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED}
    if image.mode in ("P", "PA"):
        image = image.convert("RGB" if image.mode == "P" else "RGBA")
    elif white_is_zero and len(bits) == _GREY_AND_MORE and image.mode in ("L", "LA", "La"):
        grey = image.convert("LA") if image.mode == "La" else image
        upside_down = list(range(255, -1, -1))
        image = grey.point(upside_down if grey.mode == "L" else upside_down + list(range(256)))
        white_is_zero = False
    # Pillow inverts those of one channel of up to 8 bits itself.
    return image, {"whole": image.size, "white_is_zero": white_is_zero and image.mode[0] in "IF", **about}


def _write(image: Image.Image, about: dict[str, object], out: BinaryIO) -> None:
    profile = image.info.get("icc_profile") or b""
    exif = image.info.get("exif") or b""
    head = {"mode": image.mode, "size": image.size, "profile": len(profile), "exif": len(exif)}
    _write_line(out, head | about)
    for part in (profile, exif, image.tobytes()):
        out.write(part)


def _limit_cpu(seconds: int, most: int) -> None:
    """Take so many more seconds of processor time, and `most` in all: no code in here can raise that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, most), most))


def _write_line(out: BinaryIO, line: dict[str, object]) -> None:
    out.write(json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
