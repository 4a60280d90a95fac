"""A process that decodes one AVIF or HEIC picture and ends: the far side of confined.py.

Owns the limits that it sets itself before it reads a byte. Run as a script, with an interpreter that has
Pillow and pillow-heif; imports nothing else of the project, so that it starts in a tenth of a second.

Reads the upload from standard input. Writes a line of JSON, then the colour profile, the EXIF data and the
pixels; a picture that is too large gets only the line, and a broken one ends the process.
"""

import io
import json
import resource
import sys
from typing import BinaryIO, Final

import pillow_heif
from PIL import AvifImagePlugin, Image

FORMATS: Final = ("AVIF", "HEIF")

_BASE_BYTES: Final = 1024 * 1024 * 1024
"""Of address space: the interpreter, the libraries, and the arenas that their threads reserve."""

_BYTES_PER_PIXEL: Final = 24
"""Planes of 10 bits (6), the file's pixels (4), their copy (4), Pillow's (4), smaller copies."""

_BASE_CPU_S: Final = 2
_PIXELS_PER_CPU_S: Final = 4_000_000
"""Under half of what a core decodes of dense HEIC: 48 megapixels in 5 s."""


def main(max_pixels: int, max_side: int, shortest: int, longest: int) -> None:
    """Decode standard input to standard output."""
    most_bytes = _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    most_cpu_s = 2 * _BASE_CPU_S + max_pixels // _PIXELS_PER_CPU_S
    _limit_cpu(_BASE_CPU_S, most_cpu_s)
    Image.MAX_IMAGE_PIXELS = None
    # One thread: as many pictures are decoded at once as there are cores.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels or max(width, height) > max_side:
        _write_line(sys.stdout.buffer, {"too_large": [width, height]})
        return
    _limit_cpu(_BASE_CPU_S + width * height // _PIXELS_PER_CPU_S, most_cpu_s)
    image.load()
    if image.size != (width, height):
        raise ValueError("the picture has another size than its header says")
    _write(image, sys.stdout.buffer, shortest, longest)


def _write(image: Image.Image, out: BinaryIO, shortest: int, longest: int) -> None:
    profile = image.info.get("icc_profile") or b""
    exif = image.info.get("exif") or b""
    whole = image.size
    # As a JPEG's decoder does: by a whole number, and no smaller than is needed.
    factor = max(min(whole) // shortest if shortest else max(whole) // longest, 1)
    small = image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB") else image
    head = {"mode": small.mode, "size": small.size, "whole": whole, "profile": len(profile)}
    _write_line(out, head | {"exif": len(exif)})
    for part in (profile, exif, small.tobytes()):
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
