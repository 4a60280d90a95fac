"""AVIF and HEIC, decoded in a process of their own, one for each picture.

Owns that process: what it is given, how long it may take, what comes back. decoder_process.py is its far
side, with bounds on memory and processor time. Why not here: a file of 2 KB can have a decoder of these work
for minutes on pixels that no header names, nothing stops a decoder on its way, and a fault in one ends its
process.
"""

import contextlib
import json
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

_WALL_S: Final = 30.0
"""The process bounds its own processor time; this is for one that gets none."""

_BYTES_PER_PIXEL: Final = 4
_MOST_METADATA: Final = 64 * 1024 * 1024
"""Of output besides the pixels: the colour profile and the EXIF data, which the upload had in it."""

_MOST_SAID: Final = 4096
"""Bytes of what a failing decoder writes that are read."""


class Failed(Exception):
    """No picture came back: the file is broken, or too much work."""


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
    return upload[4:8] == b"ftyp" and upload[8:12] in _BRANDS


def decode(upload: bytes, bounds: Bounds) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as stored, smaller where that will do, and its whole size. Raises Failed or TooLarge."""
    line, _, rest = _output(upload, bounds).partition(b"\n")
    head = json.loads(line)
    if "too_large" in head:
        width, height = head["too_large"]
        raise TooLarge((width, height))
    profile_end = head["profile"]
    exif_end = profile_end + head["exif"]
    image = Image.frombytes(head["mode"], tuple(head["size"]), memoryview(rest)[exif_end:])
    if profile_end:
        image.info["icc_profile"] = rest[:profile_end]
    if head["exif"]:
        image.info["exif"] = rest[profile_end:exif_end]
    width, height = head["whole"]
    return image, (width, height)


def _output(upload: bytes, bounds: Bounds) -> bytes:
    """What the process writes. Raises Failed: it failed, wrote too much or took too long."""
    command = [sys.executable, "-I", _SCRIPT, *(str(value) for value in astuple(bounds))]
    # Without our environment: a decoder that an upload has taken over finds no REDIS_URL in its own. Nor can
    # it fill this process's memory: what it writes is read up to a bound.
    with subprocess.Popen(  # noqa: S603 - our own script, and numbers
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}
    ) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise TypeError("its pipes are missing")
        killer = threading.Timer(_WALL_S, process.kill)
        writer = threading.Thread(target=_write, args=(process.stdin, upload), daemon=True)
        killer.start()
        writer.start()
        try:
            most = _BYTES_PER_PIXEL * bounds.max_pixels + _MOST_METADATA
            output = process.stdout.read(most + 1)
            if len(output) > most:
                raise Failed(f"its decoder wrote more than {most} bytes")
            said = process.stderr.read(_MOST_SAID).decode(errors="replace").strip().rpartition("\n")[2]
            status = process.wait()
        finally:
            killer.cancel()
            process.kill()
            writer.join()
    if status != 0 or not output:
        raise Failed(f"its decoder ended with {status}: {said[:200]}")
    return output


def _write(pipe: IO[bytes], upload: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # it ended before it had read everything
        pipe.write(upload)
