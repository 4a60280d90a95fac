"""What model.toml says of each task: its own table, its labels, and what does not go with it."""

from pathlib import Path

import pytest

from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_model
from model_server.tasks import TASKS
from model_server.tasks.embedding import Embedding
from model_server.tasks.multi_label import MultiLabel

TOML = """task = "TASK"
LABELS
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


def _read(folder: Path, task: str, more: str = "", *, first: str | None = None) -> ModelSpec:
    model = folder / "net"
    model.mkdir(exist_ok=True)
    (model / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")
    if first is None:
        first = 'labels = "labels.txt"' if TASKS[task].has_labels else ""
    (model / "model.toml").write_text(TOML.replace("TASK", task).replace("LABELS", first) + more)
    return read_model(folder, "net")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_with_its_defaults(tmp_path: Path, task: str) -> None:
    spec = _read(tmp_path, task)
    assert bool(spec.labels) == spec.task.has_labels
    assert 1 <= spec.top <= spec.top_max
    assert spec.card().classes == len(spec.labels)
    table = spec.task.table
    assert spec.options is None if table is None else isinstance(spec.options, table)


def test_the_usual_number_of_predictions_depends_on_the_task(tmp_path: Path) -> None:
    tops = {task: _read(tmp_path, task).top for task in ("classification", "multi_label", "detection")}
    assert tops == {"classification": 5, "multi_label": 6, "detection": 100}


def test_a_table_is_its_task_s(tmp_path: Path) -> None:
    assert _read(tmp_path, "embedding", '[embedding]\nnormalise = "none"\n').options == Embedding("none")
    text = "[multi_label]\nthreshold = 0.3\nthresholds = { b = 0.9 }\n"
    assert _read(tmp_path, "multi_label", text).options == MultiLabel(0.3, {"b": 0.9})


def test_a_regression_s_labels_differ(tmp_path: Path) -> None:
    _read(tmp_path, "regression")
    (tmp_path / "net" / "labels.txt").write_text("age\nheight\nage\n")
    with pytest.raises(CatalogueError, match="Two labels are 'age'"):
        read_model(tmp_path, "net")


@pytest.mark.parametrize(
    ("task", "first", "more", "said"),
    [
        ("embedding", None, "[detection]\n", r'line 12, detection: \[detection\] is for task = "detection"'),
        ("classification", None, "[embedding]\n", r'\[embedding\] is for task = "embedding"'),
        ("embedding", 'labels = "labels.txt"', "", "line 2, labels: .*an embedding model has none. Leave"),
        ("raw", "top = 3", "", "line 2, top: .*a raw model has none"),
        ("classification", "", "", "labels is missing: a classifier needs a file of labels"),
        ("regression", "top = 1", "", "labels is missing: a regressor needs"),
        ("regression", None, '[output]\nactivation = "sigmoid"\n', "activation is for probabilities"),
        ("multi_label", None, '[output]\nactivation = "softmax"\n', 'each other. Use "sigmoid"'),
        ("multi_label", None, "[multi_label]\nthresholds = { x = 0.5 }\n", "line 13, .*no label 'x'"),
        ("multi_label", None, "[multi_label]\nthreshold = 2\n", "a number from 0 to 1"),
        ("multi_label", None, "[multi_label]\nthresholds = 2\n", "a table, each value a number from 0 to 1"),
        ("embedding", None, '[embedding]\nnormalise = "l1"\n', "Allowed: l2, none"),
        ("detection", None, '[output]\nname = "x"\n', r"named in \[detection\]"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_task_is_refused(
    tmp_path: Path, task: str, first: str | None, more: str, said: str
) -> None:
    with pytest.raises(CatalogueError, match=said):
        _read(tmp_path, task, more, first=first)
