"""The table of the tasks, and what every task answers about itself."""

import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_model
from model_server.catalogue.model_toml import TaskName
from model_server.engines.check import agreement
from model_server.engines.check.agreement import Reference
from model_server.engines.engine import Outputs
from model_server.tasks import TASKS
from model_server.tasks.classification import ClassificationTask
from model_server.tasks.task import Task
from tests.support import fakes

TOML = """\
task = "TASK"
labels = "labels.txt"
top = 4

[source]
kind = "onnx"
file = "a.onnx"

[input]
width = 32
height = 32
channels = 3
fit = "stretch"
normalise = "unit"
"""


def test_model_toml_takes_the_tasks_of_the_table_and_no_other() -> None:
    assert get_args(TaskName) == (*TASKS, "pipeline")
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    assert {"classification", "detection"} <= set(TASKS)


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_a_noun_has_its_article(task: Task) -> None:
    assert task.noun.split(" ")[0] in ("a", "an")


def _read(folder: Path, text: str) -> ModelSpec:
    model = folder / "net"
    model.mkdir()
    (model / "labels.txt").write_text("a\nb\nc\n")
    (model / "model.toml").write_text(text)
    return read_model(folder, "net")


def test_the_limit_of_top_has_its_reason(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"can't have 4 predictions: the model has 3 labels\. Write 3"):
        _read(tmp_path, TOML.replace("TASK", "classification"))
    text = TOML.replace("TASK", "detection").replace("top = 4", "top = 1001")
    (tmp_path / "other").mkdir()
    with pytest.raises(CatalogueError, match="a detector's answer has at most 1000"):
        _read(tmp_path / "other", text)


class LastNumberTask(ClassificationTask):
    """A task with one number less than labels, judged by the difference of its last number."""

    name = "last"
    reads_one_as_two = False

    def numbers(self, labels: int) -> int:
        return labels - 1

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, _precision: str, /
    ) -> agreement.AgreementVerdict:
        last = tuple(output[:, -1:] for output in (reference[0], outputs[0]))
        return agreement.compare(last[:1], last[1:], agreement.Tolerance(0.1, 1))


def test_a_task_says_which_outputs_fit_its_labels(tmp_path: Path) -> None:
    spec = dataclasses.replace(fakes.spec(tmp_path), task=LastNumberTask())
    assert spec.task.misfit(spec, [(2,)]) == ""
    assert "3 labels" in spec.task.misfit(spec, [(3,)])
    plain = fakes.spec(tmp_path)
    assert plain.task.misfit(plain, [(3,)]) == ""
    assert "3 labels" in plain.task.misfit(plain, [(2,)])


def test_one_number_for_two_labels_is_the_second_s_only_for_a_task_that_says_so(tmp_path: Path) -> None:
    two = dataclasses.replace(fakes.spec(tmp_path), labels=fakes.spec(tmp_path).labels[:2])
    assert agreement.is_of_second(two, (1,))
    assert not agreement.is_of_second(dataclasses.replace(two, task=LastNumberTask()), (1,))
    assert not agreement.is_of_second(dataclasses.replace(two, task=TASKS["detection"]), (1,))


def test_an_engine_is_judged_by_the_task_s_own_measure(tmp_path: Path) -> None:
    spec = dataclasses.replace(fakes.spec(tmp_path), task=LastNumberTask())
    right = np.array([[0.9, 0.5]], np.float32)
    reference = Reference(np.zeros((1, 2, 2, 1), np.uint8), (right,))
    first, last = np.array([[0.1, 0.5]], np.float32), np.array([[0.9, 0.1]], np.float32)
    assert agreement.require(spec, "fast", "fp32", reference, lambda _: (first,)).agrees
    with pytest.raises(ModelUnavailable, match="does not compute"):
        agreement.require(spec, "fast", "fp32", reference, lambda _: (last,))
