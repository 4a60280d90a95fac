"""A weights file: its header, its order, and a length that must be right to the byte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from model_server.darknet.cfg import DarknetError, parse
from model_server.darknet.network import plan
from model_server.darknet.weights import read
from tests.model_server.darknet import published

CFG = (
    "[net]\nwidth=8\nheight=8\nchannels=2\n"
    "[convolutional]\nfilters=3\nsize=1\nactivation=linear\nbatch_normalize=1\n"
    "[maxpool]\n"
    "[convolutional]\nfilters=1\nsize=2\nactivation=linear\n"
)
NETWORK = plan(parse(CFG))
OLD, NEW = struct.pack("<iiii", 0, 1, 0, 7), struct.pack("<iiiq", 0, 2, 5, 7)
NUMBERS = np.arange(1, 32, dtype="<f4")
"""12 of the first's normalisation, 6 weights; 1 bias and 12 weights of the second."""


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "n.weights"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("header", [OLD, NEW], ids=["old", "new"])
def test_numbers_are_cut_in_darknet_s_order_and_folded(tmp_path: Path, header: bytes) -> None:
    kernels = read(_write(tmp_path, header + NUMBERS.tobytes()), NETWORK)
    assert list(kernels) == [0, 2]
    biases, scales, means, variances = NUMBERS[:12].reshape(4, 3)
    factors = scales / np.sqrt(variances)
    np.testing.assert_allclose(kernels[0].bias, biases - means * factors, rtol=1e-5)
    np.testing.assert_allclose(kernels[0].weights[0, 0], NUMBERS[12:18].reshape(3, 2).T * factors, rtol=1e-5)
    assert kernels[2].bias == 19
    # One filter, three channels of 2 x 2: channel by channel, row by row.
    assert kernels[2].weights.shape == (2, 2, 3, 1)
    assert kernels[2].weights[1, 0, 2, 0] == 20 + 2 * 4 + 1 * 2 + 0


REFUSED = {
    b"": r"too short to be a Darknet weights file \(0 bytes\)",
    NEW[:15]: r"too short to be a Darknet weights file \(15 bytes\)",
    b"PK\x03\x04" + bytes(40): "is not a Darknet weights file",
    NEW: r"too short .* has 20 bytes, but layer 0 \[convolutional\] on line 5 ends at byte 92",
    NEW
    + NUMBERS.tobytes()[
        :-1
    ]: r"too short .* has 143 bytes, but layer 2 \[convolutional\] on line 11 ends at byte 144",
    NEW + NUMBERS.tobytes() + b"\0": r"too long .* has 145 bytes, but layer 2 .* ends at byte 144",
    # A header of the other kind moves every number by one.
    OLD + NUMBERS.tobytes() + bytes(4): "too long",
    NEW + NUMBERS.tobytes()[:-4] + struct.pack("<f", np.nan): r"the weights of layer 2 .* are not finite",
    NEW + (-NUMBERS).tobytes(): r"layer 0 .* has a variance below 0",
}


@pytest.mark.parametrize("content", REFUSED)
def test_what_is_not_of_this_cfg_is_refused_with_the_layer(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DarknetError, match=REFUSED[content]):
        read(_write(tmp_path, content), NETWORK)


def test_a_cfg_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DarknetError, match="no layer of the cfg has weights"):
        read(_write(tmp_path, NEW), plan(parse("[net]\nwidth=8\nheight=8\nchannels=2\n[maxpool]\n")))


def test_no_file_does_more_than_be_refused(tmp_path: Path) -> None:
    network = plan(parse(CFG))
    sound = published.random_weights(network)
    chance = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(sound)
        for at in chance.integers(0, len(spoilt), chance.integers(1, 6)):
            spoilt[at] = chance.integers(0, 256)
        if chance.random() < 0.5:
            spoilt = spoilt[: chance.integers(0, len(spoilt))]
        try:
            read(_write(tmp_path, bytes(spoilt)), network)
        except DarknetError:
            refused += 1
    assert refused > 150
