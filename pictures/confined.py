"""AVIF, HEIC and TIFF, decoded in a process of their own, one for each picture.

Owns that process: what it is given, how long it may take, what comes back. decoder_process.py is its far
side, with bounds on memory and processor time. Why not here: a file of 2 KB can have a decoder of these work
for minutes on pixels that no header names, nothing stops a decoder on its way, and a fault in one ends its
process. Of a TIFF the header alone, with 4.9 million strips, took 47 s and 1.25 GB.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Final

from PIL import Image

_SCRIPT: Final = str(Path(__file__).with_name("decoder_process.py"))

_BRANDS: Final = frozenset(
    (
        b"avif",
        b"avis",
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"hevc",
        b"hevx",
        b"hevm",
        b"hevs",
        b"mif1",
        b"msf1",
    )
)

_TIFF: Final = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
"""How they begin: in both orders of bytes, with a mistake that some make, and with offsets of 64 bits."""

_ENVIRONMENT: Final = {"LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER": "16"}
"""Of one JPEG within a TIFF: libtiff's own bound is 100, and 5 KB with 80 in each strip took 9 s."""

_WALL_S: Final = 30.0
"""The process bounds its own processor time; this is for one that gets none."""

_BYTES_PER_PIXEL: Final = 4
_MOST_METADATA: Final = 64 * 1024 * 1024
"""Of output besides the pixels: the colour profile and the EXIF data, which the upload had in it."""

_MOST_SAID: Final = 4096
"""Of what a failing decoder writes about it: the last bytes are kept."""

_NAMES: Final = ("white_is_zero", "bits", "is_unsigned")
"""What colours.py has to know of a TIFF's values, in the picture's `info`."""


class Failed(Exception):
    """No picture came back: the file is broken, or too much work."""


class FaxCoding(Exception):
    """It is a TIFF in the coding of a fax, which is not decoded."""


class TooLarge(Exception):
    """The picture has more pixels than are taken."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a picture may be, and how large it is needed (decode.Size)."""

    max_pixels: int
    max_side: int
    shortest: int
    longest: int


def is_for(upload: bytes) -> bool:
    """Whether the upload is decoded here, by its first bytes."""
    return upload.startswith(_TIFF) or (upload[4:8] == b"ftyp" and upload[8:12] in _BRANDS)


def decode(upload: bytes, bounds: Bounds) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as stored, smaller where that will do, and its whole size.

    Raises Failed, FaxCoding or TooLarge.
    """
    output = _output(upload, bounds)
    line_end = output.index(b"\n") + 1
    head = json.loads(output[:line_end])
    if "too_large" in head:
        width, height = head["too_large"]
        raise TooLarge((width, height))
    if "fax" in head:
        raise FaxCoding(head["fax"])
    rest = memoryview(output)[line_end:]
    profile_end = head["profile"]
    exif_end = profile_end + head["exif"]
    image = Image.frombytes(head["mode"], tuple(head["size"]), rest[exif_end:])
    if profile_end:
        image.info["icc_profile"] = bytes(rest[:profile_end])
    if head["exif"]:
        image.info["exif"] = bytes(rest[profile_end:exif_end])
    image.info.update({name: head[name] for name in _NAMES if name in head})
    width, height = head["whole"]
    return image, (width, height)


def _output(upload: bytes, bounds: Bounds) -> bytes:
    """What the process writes. Raises Failed: it failed, wrote too much or took too long."""
    command = [sys.executable, "-I", _SCRIPT, *(str(value) for value in astuple(bounds))]
    # Without our environment: a decoder that an upload has taken over finds no REDIS_URL in its own. Nor can
    # it fill this process's memory: what it writes is read up to a bound.
    with subprocess.Popen(  # noqa: S603 - our own script, and numbers
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT
    ) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise TypeError("its pipes are missing")
        killer = threading.Timer(_WALL_S, process.kill)
        writer = threading.Thread(target=_write, args=(process.stdin, upload), daemon=True)
        said = bytearray()
        listener = threading.Thread(target=_read_last, args=(process.stderr, said), daemon=True)
        for each in (killer, writer, listener):
            each.start()
        try:
            most = _BYTES_PER_PIXEL * bounds.max_pixels + _MOST_METADATA
            output = process.stdout.read(most + 1)
            if len(output) > most:
                raise Failed(f"its decoder wrote more than {most} bytes")
            status = process.wait()
        finally:
            killer.cancel()
            process.kill()
            writer.join()
            listener.join()
    if status != 0 or b"\n" not in output[:_MOST_SAID]:
        last_line = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise Failed(f"its decoder ended with {status}: {last_line[:200]}")
    return output


def _read_last(pipe: IO[bytes], said: bytearray) -> None:
    """Keep the last of what is written; a pipe that nobody reads would stop its writer."""
    while part := os.read(pipe.fileno(), 65_536):
        said += part
        del said[:-_MOST_SAID]


def _write(pipe: IO[bytes], upload: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # it ended before it had read everything
        pipe.write(upload)
