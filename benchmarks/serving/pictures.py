"""Photo-like pictures, drawn: 1280 x 720, about 100 KB as JPEG, each different, the same in every run.

Owns their looks: soft regions, edges and fine grain, so that a decoder works as hard as on a photo of that
size. Must not need any file.
"""

import io
import random
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

SIZE: Final = (1280, 720)
_BYTES: Final = 102_000
_QUALITY: Final = 80


def draw(folder: Path, count: int = 8) -> list[Path]:
    """Draw so many pictures into the folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(photo(number))
    return paths


def photo(number: int) -> bytes:
    """Draw one, with as much grain as makes it about 100 KB."""
    scene = _scene(random.Random(number))
    grain = Image.effect_noise(SIZE, 48).convert("RGB")
    low, high = 0.0, 1.0
    jpeg = b""
    for _ in range(8):
        share = (low + high) / 2
        file = io.BytesIO()
        Image.blend(scene, grain, share).save(file, "JPEG", quality=_QUALITY)
        jpeg = file.getvalue()
        low, high = (share, high) if len(jpeg) < _BYTES else (low, share)
    return jpeg


def _scene(chance: random.Random) -> Image.Image:
    ground = Image.frombytes("RGB", (16, 9), chance.randbytes(16 * 9 * 3))
    scene = ground.resize(SIZE, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(scene)
    for _ in range(60):
        x, y = chance.randrange(SIZE[0]), chance.randrange(SIZE[1])
        across, up = chance.randrange(20, 260), chance.randrange(20, 200)
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        pen.ellipse((x - across, y - up, x + across, y + up), colour)
    return scene.filter(ImageFilter.GaussianBlur(2))
