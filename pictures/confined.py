"""AVIF and HEIC, decoded in a process of their own, one for each picture.

Owns that process: what it is given, how long it may take, what comes back. decoder_process.py is its far
side, with bounds on memory and processor time. Why not here: a file of 2 KB can have a decoder of these work
for minutes on pixels that no header names, nothing stops a decoder on its way, and a fault in one ends its
process.
"""

import json
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

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
    command = [sys.executable, "-I", _SCRIPT, *(str(value) for value in astuple(bounds))]
    try:
        # Without our environment: a decoder that an upload has taken over finds no REDIS_URL in its own.
        ended = subprocess.run(  # noqa: S603 - our own script, and numbers
            command, input=upload, capture_output=True, timeout=_WALL_S, check=False, env={}
        )
    except subprocess.TimeoutExpired:
        raise Failed("it took too long") from None
    line, _, rest = ended.stdout.partition(b"\n")
    if ended.returncode != 0 or not line:
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Failed(f"its decoder ended with {ended.returncode}: {said[:200]}")
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
