"""The pictures that the ten-class network of photos is trained on and judged with, beside CIFAR-10's own.

Owns making a large photograph of a small picture, and passing it through the decoding and fitting that
serving uses: a user's photo comes large, in any shape, sharper, softer, lighter or more coloured than
CIFAR-10's are, and its object nearer or farther. Pure of Keras; the same seed always gives the same pictures.
"""

import io
from concurrent.futures import Executor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from broker.messages import Fit, InputSpec, Resample
from pictures.fit import prepare

SIDE: Final = 32
INPUT: Final = InputSpec(width=SIDE, height=SIDE, channels=3, fit=Fit.CROP, resample=Resample.BICUBIC)

# Pictures are made in lots of this many, each with a seed of its own, so that the result does not depend
# on how many processes share the work.
_LOT: Final = 500


def photographed(pictures: NDArray[np.uint8], seed: int, executor: Executor) -> NDArray[np.uint8]:
    """Return uint8 (N, 32, 32, 3), each made a photograph of and fitted as in serving; same shape.

    The work is spread over the executor's workers.
    """
    lots = [pictures[start : start + _LOT] for start in range(0, len(pictures), _LOT)]
    seeds = [[seed, number] for number in range(len(lots))]
    return np.concatenate(list(executor.map(_lot, lots, seeds)))


def _lot(pictures: NDArray[np.uint8], seed: list[int]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.stack(
        [prepare(photograph(picture, rng), INPUT, max_pixels=10**6).pixels for picture in pictures]
    )


def photograph(picture: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    """Return uint8 (32, 32, 3) as a JPEG of 100 to 400 pixels a side.

    Framing, shape, sharpness, light, contrast, colour and JPEG's quality are drawn from `rng`. What the
    frame shows beyond the picture is its mirror image.
    """
    # Wider than the picture or narrower, and a little out of the middle; a photo that is not square loses
    # its ends to the fitting, so that height and width are framed alike up to an aspect of its own.
    zoom, aspect = np.exp(rng.uniform(-0.25, 0.25)), np.exp(rng.normal(0, 0.08))
    centre = SIDE * 3 / 2 + rng.normal(0, 1.5, 2)
    half = SIDE / 2 * zoom * np.array([aspect, 1 / aspect])
    side = int(np.exp(rng.uniform(np.log(100), np.log(400))))
    scene = Image.fromarray(np.pad(picture, ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), mode="symmetric"))
    scene = ImageEnhance.Sharpness(scene).enhance(rng.uniform(0.4, 2.5))
    scene = ImageEnhance.Brightness(scene).enhance(max(0.4, rng.normal(1, 0.2)))
    scene = ImageEnhance.Contrast(scene).enhance(max(0.4, rng.normal(1, 0.2)))
    scene = ImageEnhance.Color(scene).enhance(max(0.0, rng.normal(1, 0.3)))
    box = (*(centre - half).tolist(), *(centre + half).tolist())
    image = scene.resize((side, side), Image.Resampling.BICUBIC, box=box)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(40, 96)))
    return file.getvalue()
