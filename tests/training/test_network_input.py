"""What a network takes, as [input] of a model.toml: what is written is what is read."""

from pathlib import Path

import numpy as np
import pytest

from broker.messages import Decode, Fit, InputSpec, Library
from model_server.catalogue.model_spec import read_model
from model_server.catalogue.model_toml import Normalisation
from pictures import fixed_point
from training import publish
from training.network_input import NetworkInput

CASES = [
    NetworkInput(InputSpec(32, 16, 3, Fit.CROP), "torch"),
    NetworkInput(InputSpec(28, 28, 1, Fit.INK), "unit"),
    NetworkInput(InputSpec(224, 224, 3, Fit.CROP, resize=255), "tf", "bgr"),
    NetworkInput(InputSpec(9, 9, 3, Fit.CROP, library=Library.TENSORFLOW, decode=Decode.EXACT), "unit"),
    NetworkInput(InputSpec(9, 9, 3, Fit.PAD), Normalisation(mean=(0.5, 1, 2.25), std=(1, 58.395, 3)), "bgr"),
]


@pytest.mark.parametrize("taken", CASES)
def test_the_catalogue_reads_what_was_written(taken: NetworkInput, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    publish.write_labels(folder, ("a", "b"))
    publish.write_model_toml(folder, network="m.keras", taken=taken, top=1, comment="no comment")
    spec = read_model(tmp_path, "m")
    assert NetworkInput(spec.input, spec.normalise, spec.order) == taken


def test_the_numbers_are_those_of_serving() -> None:
    picture = np.array([[[[10, 20, 30]]]], np.uint8)
    assert CASES[4].numbers(picture)[0, 0, 0] == pytest.approx([29.5, 19 / 58.395, 7.75 / 3])
    assert CASES[2].numbers(picture)[0, 0, 0] == pytest.approx(
        [30 / 127.5 - 1, 20 / 127.5 - 1, 10 / 127.5 - 1]
    )
    fractions = fixed_point.split(np.array([[[[10.25, 20.5, -1.75]]]]))
    assert CASES[3].numbers(fractions)[0, 0, 0] == pytest.approx([10.25 / 255, 20.5 / 255, -1.75 / 255])
