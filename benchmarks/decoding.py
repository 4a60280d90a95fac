"""`python -m benchmarks.decoding MODEL PICTURES`: what JPEG's reduced-size decode saves, and what it changes.

Owns the variants of the pictures and the table. Each variant, a JPEG, is prepared twice by the web tier's own
code, with and without `draft`; the model judges both. Reads no settings.
"""

import argparse
import io
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.whole_decode import whole_decode
from broker.errors import ModelUnavailable
from broker.messages import InputSpec
from model_server.catalogue.model_spec import CatalogueError, read_model
from model_server.engines import loading
from model_server.engines.choice import choose_for
from model_server.engines.engine import Engine, EngineOptions
from pictures import fit

_ROOT: Final = Path(__file__).resolve().parent.parent
_SIZES: Final = ((640, 480), (1280, 720), (1920, 1080), (4000, 3000))
_QUALITIES: Final = (75, 92)
_MAX_PIXELS: Final = 50_000_000
_SEED: Final = 11


@dataclass(slots=True)
class DecodingRow:
    """What was found of the variants of one size."""

    full_ms: list[float] = field(default_factory=list)
    draft_ms: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    """Mean difference of a picture's pixels, of 255."""
    most: int = 0
    same_top1: int = 0
    probability: float = 0.0
    """Largest change of the best class's probability."""

    def add(self, upload: bytes, spec: InputSpec, engine: Engine) -> None:
        """Prepare both ways, compare, classify."""
        draft, draft_ms = _prepared(upload, spec)
        with whole_decode():
            full, full_ms = _prepared(upload, spec)
        self.draft_ms.append(draft_ms)
        self.full_ms.append(full_ms)
        difference = np.abs(draft.astype(np.int16) - full)
        self.mean.append(float(difference.mean()))
        self.most = max(self.most, int(difference.max()))
        (right, found), *_ = engine.predict(np.stack([full, draft]))
        best = int(right.argmax())
        self.same_top1 += best == int(found.argmax())
        self.probability = max(self.probability, abs(float(right[best] - found[best])))


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.split(":")[1])
    parser.add_argument("model", help="a classifier of the catalogue")
    parser.add_argument("pictures", nargs="+", type=Path, help="photos; crops of them are the variants")
    parser.add_argument("--models-dir", type=Path, default=_ROOT / "models")
    parser.add_argument("--cache", type=Path, default=_ROOT / "var" / "engines")
    parser.add_argument("--crops", type=int, default=4, help="of each photo and size (default: 4)")
    asked = parser.parse_args()
    try:
        spec = read_model(asked.models_dir, asked.model)
        choice = choose_for(spec, "auto", "auto", keras_backend="tensorflow")
        engine = loading.load(spec, choice, EngineOptions(2, asked.cache))
    except (CatalogueError, ModelUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    table = Table("size", "variants", "full ms", "draft ms", "mean", "most", "top-1", "prob.")
    for size in _SIZES:
        row = DecodingRow()
        for upload in _variants(asked.pictures, size, asked.crops):
            row.add(upload, spec.input, engine)
        table.add_row(
            f"{size[0]}x{size[1]}",
            str(len(row.mean)),
            f"{statistics.median(row.full_ms):.1f}",
            f"{statistics.median(row.draft_ms):.1f}",
            f"{statistics.fmean(row.mean):.2f}",
            str(row.most),
            f"{row.same_top1 / len(row.mean):.4f}",
            f"{row.probability:.3f}",
        )
    Console().print(table)
    return 0


def _variants(photos: list[Path], size: tuple[int, int], crops: int) -> Iterator[bytes]:
    """JPEGs of `size`: parts of each photo, chosen by lot, in each quality."""
    chance = random.Random(_SEED)
    for photo in photos:
        with Image.open(photo) as opened:
            picture = opened.convert("RGB")
        for number in range(crops):
            share = 1.0 if number == 0 else chance.uniform(0.5, 1.0)
            width, height = (round(side * share) for side in picture.size)
            left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
            part = picture.crop((left, top, left + width, top + height))
            part = part.resize(size, Image.Resampling.LANCZOS)
            for quality in _QUALITIES:
                jpeg = io.BytesIO()
                part.save(jpeg, "JPEG", quality=quality)
                yield jpeg.getvalue()


def _prepared(upload: bytes, spec: InputSpec) -> tuple[NDArray[np.uint8], float]:
    began = time.perf_counter()
    pixels = fit.prepare(upload, spec, max_pixels=_MAX_PIXELS).pixels
    return pixels, (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    sys.exit(main())
