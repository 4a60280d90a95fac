"""Which outputs are served: by name, by number, or the first that the task can read."""

import dataclasses
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.engines import served_outputs
from model_server.engines.output_choice import NetworkOutput, OutputChoice, choose
from model_server.tasks import TASKS
from tests.support import fakes

VECTOR = NetworkOutput(("features",), (1, 512))
LOGITS = NetworkOutput(("logits", "logits:0"), (1, 1, 1, 3))
AGAIN = NetworkOutput(("probabilities",), (1, 3))
PICTURE = NetworkOutput(("made",), (1, 3, 64, 48))


def _choose(folder: Path, *outputs: NetworkOutput, **changes: object) -> OutputChoice:
    spec = dataclasses.replace(fakes.spec(folder), **changes)  # type: ignore[arg-type] # any of its fields
    return choose(spec, list(outputs))


def test_the_first_that_fits_is_served_and_all_are_listed(tmp_path: Path) -> None:
    choice = _choose(tmp_path, VECTOR, LOGITS, AGAIN)
    assert choice.numbers == [1]
    assert choice.names.served == ("logits",)
    assert choice.names.available == ("features (512,)", "logits, logits:0 (1, 1, 3)", "probabilities (3,)")


@pytest.mark.parametrize("name", [2, "probabilities"])
def test_a_named_one_is_served(tmp_path: Path, name: int | str) -> None:
    assert _choose(tmp_path, VECTOR, LOGITS, AGAIN, output=name).numbers == [2]


@pytest.mark.parametrize(
    ("task", "number"),
    [("classification", 1), ("multi_label", 1), ("regression", 1), ("embedding", 0), ("image", 3)],
)
def test_each_task_finds_its_own(tmp_path: Path, task: str, number: int) -> None:
    assert _choose(tmp_path, VECTOR, LOGITS, AGAIN, PICTURE, task=TASKS[task]).numbers == [number]


def test_raw_takes_all_up_to_a_size(tmp_path: Path) -> None:
    assert _choose(tmp_path, VECTOR, LOGITS, task=TASKS["raw"]).names.served == ("features", "logits")
    with pytest.raises(ModelUnavailable, match=r"4000000 numbers.* name in \[output\]"):
        _choose(tmp_path, NetworkOutput(("map",), (1, 2000, 2000)), task=TASKS["raw"])


def test_an_output_without_the_batch_s_axis_is_not_taken(tmp_path: Path) -> None:
    assert _choose(tmp_path, NetworkOutput(("sum",), (3,)), AGAIN).numbers == [1]


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        (VECTOR, 'task = "embedding"'),
        (NetworkOutput(("age",), (1, 1)), 'task = "regression"'),
        (PICTURE, 'task = "image"'),
        (NetworkOutput(("boxes",), (1, 84, 8400)), 'task = "detection"'),
    ],
)
def test_what_a_classifier_can_t_read_is_named(tmp_path: Path, output: NetworkOutput, hint: str) -> None:
    with pytest.raises(ModelUnavailable, match="but there are 3 labels") as refusal:
        _choose(tmp_path, output)
    hints = [
        each
        for each in ("embedding", "regression", "image", "detection")
        if f'"{each}"' in str(refusal.value)
    ]
    assert hints == [hint.split('"')[1]]


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no output 'x'. Available: 0: features \(512,\); 1: prob"):
        _choose(tmp_path, VECTOR, AGAIN, output="x")
    with pytest.raises(ModelUnavailable, match=r"output for a picture is \(512,\), but there are 3 labels"):
        _choose(tmp_path, VECTOR, AGAIN, output="features")


def test_a_vector_must_be_one(tmp_path: Path) -> None:
    task = TASKS["embedding"]
    assert _choose(tmp_path, NetworkOutput(("pooled",), (1, 512, 1, 1)), task=task).numbers == [0]
    with pytest.raises(ModelUnavailable, match=r"\(7, 7, 512\), but an embedding is a vector.*pooling"):
        _choose(tmp_path, NetworkOutput(("map",), (1, 7, 7, 512)), task=task)


def test_one_number_is_the_second_of_two_labels(tmp_path: Path) -> None:
    two = fakes.spec(tmp_path).labels[:2]
    one = NetworkOutput(("p",), (1, 1))
    assert _choose(tmp_path, one, labels=two).is_of_second
    assert not _choose(tmp_path, one, labels=two[:1], task=TASKS["regression"]).is_of_second


def test_outputs_of_one_name_get_their_numbers(tmp_path: Path) -> None:
    """A tuple within a dict of PyTorch's has one name for all of its tensors."""
    spec = dataclasses.replace(fakes.spec(tmp_path), task=TASKS["raw"])
    names = [["hidden"], ["hidden"], [], ["out"]]
    choice = served_outputs.choose(spec, names, [(1, 4)] * 4)
    assert choice.names.served == ("hidden:0", "hidden:1", "2", "out")
