"""What is sent: pictures, their expected labels, and which request carries which.

Owns reading and drawing pictures, and the choice for each request number, which depends on nothing else: the
same seed sends the same. Raises TrafficError, in words for the user.
"""

import csv
import io
import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from loadtest.faults import ledger
from loadtest.sending.messages import Traffic

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})

_LEDGER: Final = b'{"format":'
"""How a ledger begins."""

# Multiples of these modulo 1 fill 0..1 evenly, so a share of requests is met within a few requests (five at
# most in the first million), and never in step with the pictures' turn (Weyl's equidistribution).
_MODELS_TURN: Final = 5**0.5 / 2 - 0.5
_POLLED_TURN: Final = 2**0.5 - 1


class TrafficError(ValueError):
    """What was asked for can't be sent; the text says why."""


@dataclass(frozen=True, slots=True)
class RequestChoice:
    """What one request carries."""

    picture: str
    model: str
    polled: bool


class Requests:
    """Pictures by name, and the choice for every request number."""

    def __init__(self, traffic: Traffic) -> None:
        self.pictures = read_pictures(traffic)
        self.expected = read_labels(traffic, list(self.pictures))
        self._names = list(self.pictures)
        self._models = [name for name, _ in traffic.models]
        self._ends = list(accumulate(weight for _, weight in traffic.models))[:-1]
        self._polled = traffic.polled

    def choice(self, number: int) -> RequestChoice:
        """Pictures in turn, models and polling by their shares."""
        return RequestChoice(
            self._names[number % len(self._names)],
            self._models[bisect(self._ends, number * _MODELS_TURN % 1)],
            (number * _POLLED_TURN + 0.5) % 1 < self._polled,
        )


def read_pictures(traffic: Traffic) -> dict[str, bytes]:
    """Read the files and the folders' pictures, named by their path inside; without paths draw some."""
    files: dict[str, Path] = {}
    for path in map(Path, traffic.paths):
        if path.is_dir():
            found = {
                p.relative_to(path).as_posix(): p
                for p in path.rglob("*")
                if p.suffix.lower() in SUFFIXES and not p.is_dir()
            }
        else:
            found = {path.name: path}
        if twice := files.keys() & found.keys():
            raise TrafficError(
                f"two pictures have the name {min(twice)}: their answers can't be distinguished"
            )
        files |= found
    try:
        pictures = {name: files[name].read_bytes() for name in sorted(files)}
    except OSError as error:
        raise TrafficError(f"{error.filename}: {error.strerror}") from error
    if not traffic.paths:
        pictures = _drawn(traffic)
    if not pictures:
        raise TrafficError("the folders have no picture (" + ", ".join(sorted(SUFFIXES)) + ")")
    return pictures


def _drawn(traffic: Traffic) -> dict[str, bytes]:
    """Draw a dark stroke on a mottled light ground: a classifier of strokes takes it, and one of photos."""
    pictures = {}
    for number in range(traffic.draw_count):
        chance = random.Random(f"{traffic.seed} {number}")
        ground = Image.frombytes("RGB", (32, 24), bytes(chance.choices(range(192, 256), k=32 * 24 * 3)))
        picture = ground.resize(traffic.draw)
        width, height = traffic.draw
        points = [(chance.uniform(0.25, 0.75) * width, chance.uniform(0.2, 0.8) * height) for _ in range(5)]
        colour = tuple(chance.randrange(64) for _ in range(3))
        ImageDraw.Draw(picture).line(points, colour, width=max(1, min(width, height) // 12), joint="curve")
        picture.save(jpeg := io.BytesIO(), "JPEG")
        pictures[f"drawn-{number}.jpg"] = jpeg.getvalue()
    return pictures


def read_label_file(path: str) -> dict[tuple[str, str], str]:
    """Return labels by (model, picture); the empty model stands for every one.

    Of a ledger they are the labels of its right answers.
    """
    try:
        with Path(path).open("rb") as content:
            is_ledger = content.read(len(_LEDGER)) == _LEDGER
        if is_ledger:
            return _labels_of_ledger(path)
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrafficError(f"{path} can't be read: {error}") from error
    if not rows or not all(row.get("file") and row.get("label") is not None for row in rows):
        raise TrafficError(f"{path} must have the columns file,label or file,label,model in every row")
    labels = {(row.get("model") or "", row["file"]): row["label"] for row in rows}
    if any(labels[row.get("model") or "", row["file"]] != row["label"] for row in rows):
        raise TrafficError(f"{path} has two labels for one file")
    return labels


def _labels_of_ledger(path: str) -> dict[tuple[str, str], str]:
    account = ledger.check(Path(path), {})
    if not account.adds_up:
        raise TrafficError(f"{path} is inconsistent ({account.wrong[0]}): its labels can't be relied on")
    return account.labels


def read_labels(traffic: Traffic, names: list[str]) -> dict[tuple[str, str], str]:
    """Return the label that each (model, picture) must get; empty without a file of labels."""
    if not traffic.expect:
        return {}
    labels = read_label_file(traffic.expect)
    expected = {}
    for model, _ in traffic.models:
        for name in names:
            label = labels.get((model, name), labels.get(("", name)))
            if label is None:
                raise TrafficError(
                    f"{traffic.expect} has no label for {name}" + f" of model {model}" * bool(model)
                )
            expected[model, name] = label
    return expected
