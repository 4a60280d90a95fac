"""The published networks YOLOv3 and YOLOv3-tiny as cfg files, and random weights for any cfg.

The originals are cfg/yolov3.cfg and cfg/yolov3-tiny.cfg of https://github.com/pjreddie/darknet; here they are
made from the networks' structure (Redmon and Farhadi 2018, "YOLOv3: An Incremental Improvement"), so that no
file of that project is carried. YOLOv3-tiny was compared with its original option by option; YOLOv3 has the
original's layers and, to the byte, the size of its weights.
"""

import re
import struct
from pathlib import Path

import numpy as np

from model_server.darknet.cfg import parse
from model_server.darknet.layers import Convolution, Network
from model_server.darknet.network import plan

NET = """[net]
# Testing
# batch=1
batch=64
subdivisions=16
width={side}
height={side}
channels=3
momentum=0.9
decay=0.0005
angle=0
saturation = 1.5
exposure = 1.5
hue=.1

learning_rate=0.001
burn_in=1000
max_batches = 500200
policy=steps
steps=400000,450000
scales=.1,.1
"""


def convolution(filters: int, size: int, stride: int = 1) -> str:
    return (
        f"\n[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\n"
        "activation=leaky\n"
    )


def head(mask: str, anchors: str, classes: int = 80) -> str:
    filters = 3 * (5 + classes)
    return (
        f"\n[convolutional]\nsize=1\nstride=1\npad=1\nfilters={filters}\nactivation=linear\n\n"
        f"[yolo]\nmask = {mask}\nanchors = {anchors}\nclasses={classes}\nnum={anchors.count(',  ') + 1}\n"
        "jitter=.3\nignore_thresh = .7\ntruth_thresh = 1\nrandom=1\n"
    )


def route(layers: str) -> str:
    return f"\n[route]\nlayers = {layers}\n"


MAXPOOL = "\n[maxpool]\nsize=2\nstride={}\n"
UPSAMPLE = "\n[upsample]\nstride=2\n"
SHORTCUT = "\n[shortcut]\nfrom=-3\nactivation=linear\n"
ANCHORS = "10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326"
TINY_ANCHORS = "10,14,  23,27,  37,58,  81,82,  135,169,  344,319"


def yolov3(side: int = 608) -> str:
    """The cfg of YOLOv3: Darknet-53 and three scales."""
    text = NET.format(side=side) + convolution(32, 3)
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        text += f"\n# Downsample\n{convolution(filters, 3, 2)}"
        text += (convolution(filters // 2, 1) + convolution(filters, 3) + SHORTCUT) * blocks
    text += (convolution(512, 1) + convolution(1024, 3)) * 3 + head("6,7,8", ANCHORS)
    text += route("-4") + convolution(256, 1) + UPSAMPLE + route("-1, 61")
    text += (convolution(256, 1) + convolution(512, 3)) * 3 + head("3,4,5", ANCHORS)
    text += route("-4") + convolution(128, 1) + UPSAMPLE + route("-1, 36")
    return text + (convolution(128, 1) + convolution(256, 3)) * 3 + head("0,1,2", ANCHORS)


def yolov3_tiny(side: int = 416) -> str:
    """The cfg of YOLOv3-tiny: max pooling, one of them without a stride, and two scales."""
    text = NET.format(side=side)
    for filters in (16, 32, 64, 128, 256):
        text += convolution(filters, 3) + MAXPOOL.format(2)
    text += convolution(512, 3) + MAXPOOL.format(1) + convolution(1024, 3)
    text += convolution(256, 1) + convolution(512, 3) + head("3,4,5", TINY_ANCHORS)
    text += route("-4") + convolution(128, 1) + UPSAMPLE + route("-1, 8")
    return text + convolution(256, 3) + head("0,1,2", TINY_ANCHORS)


def narrowed(text: str, by: int = 8) -> str:
    """The same layers with fewer filters: most of the time would go into 62 million weights."""
    normalised = re.compile(r"(?<=batch_normalize=1\nfilters=)\d+")  # a head's are those of its classes
    return normalised.sub(lambda filters: str(int(filters[0]) // by), text)


def write(folder: Path, text: str, *, seed: int = 3, gain: float = 1.2) -> tuple[Path, Path]:
    """The cfg and random weights for it; with a `gain` that suits its depth signals neither grow nor fade."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg, weights = folder / "network.cfg", folder / "network.weights"
    cfg.write_text(text)
    weights.write_bytes(random_weights(plan(parse(text)), seed=seed, gain=gain))
    return cfg, weights


def random_weights(network: Network, *, seed: int = 3, gain: float = 1.2) -> bytes:
    """A whole file of weights."""
    chance = np.random.default_rng(seed)
    parts = [struct.pack("<iiiq", 0, 2, 0, 32_013_312)]
    for layer in network.layers:
        if isinstance(layer.kind, Convolution):
            parts += [
                each.astype("<f4").tobytes() for each in _numbers(chance, layer.kind, layer.takes[2], gain)
            ]
    return b"".join(parts)


def _numbers(chance: np.random.Generator, kind: Convolution, channels: int, gain: float) -> list[np.ndarray]:
    inputs = channels // kind.groups * kind.size**2
    weights = chance.normal(0, np.sqrt(gain / inputs), kind.filters * inputs)
    biases = chance.normal(0, 0.2, kind.filters)
    if not kind.normalised:
        return [biases, weights * 0.5]
    scales, means = chance.uniform(0.8, 1.2, kind.filters), chance.normal(0, 0.2, kind.filters)
    return [biases, scales, means, chance.uniform(0.7, 1.3, kind.filters), weights]
