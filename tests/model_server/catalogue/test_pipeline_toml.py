"""A pipeline's model.toml: its steps in their order, and what is refused with its line."""

from pathlib import Path

import pytest

from broker.messages import AS_UPLOADED, Step
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_model
from model_server.engines.choice import EngineChoice, choose_for

TOML = """task = "pipeline"

[pipeline.objects]
model = "yolo"

[pipeline.kind]
model = "dogs"
crop = "objects"
labels = ["dog"]
least = 0.5
most = 8
margin = 0.1
top = 3
"""


def _read(folder: Path, text: str) -> ModelSpec:
    model = folder / "street"
    model.mkdir(exist_ok=True)
    (model / "model.toml").write_text(text)
    return read_model(folder, "street")


def test_its_steps_stand_on_its_card(tmp_path: Path) -> None:
    spec = _read(tmp_path, TOML)
    card = spec.card()
    assert card.steps == (
        Step("objects", "yolo"),
        Step("kind", "dogs", "objects", ("dog",), least=0.5, most=8, margin=0.1, top=3),
    )
    assert (card.task, card.input, card.classes, card.top_max) == ("pipeline", AS_UPLOADED, 0, 0)
    assert choose_for(spec, "auto", "auto", keras_backend="tensorflow") == EngineChoice("steps", "own")


def test_another_step_is_another_version(tmp_path: Path) -> None:
    assert _read(tmp_path, TOML).version != _read(tmp_path, TOML.replace("0.5", "0.6")).version


MANY = "".join(f'[pipeline.s{number}]\nmodel = "a"\n' for number in range(17))
REFUSED = {
    'task = "pipeline"\n': r"line 1, pipeline: .*missing required field `pipeline`",
    'task = "pipeline"\n[pipeline]\n': r"line 2, pipeline: .*length >= 1",
    'task = "pipeline"\n' + MANY: r"pipeline: .*length <= 16",
    TOML.replace('model = "dogs"\n', ""): r"line 6, pipeline\.kind\.model: .*missing required field `model`",
    TOML.replace('"dogs"', '"../dogs"'): r"line 7, pipeline\.kind\.model: '\.\./dogs' can't be a model's",
    TOML.replace('crop = "objects"', 'crop = "kind"'): r"line 8, .*'kind' is not the name of an earlier step",
    TOML.replace('[pipeline.objects]\nmodel = "yolo"\n', ""): r"line 6, .*crop: .*this is the first step",
    TOML.replace('crop = "objects"\n', ""): r"line 8, pipeline\.kind\.labels: labels is for a step that gets",
    TOML.replace("least = 0.5", "least = 5"): r"line 10, pipeline\.kind\.least: .*a number from 0 to 1",
    TOML.replace("most = 8", "most = 65"): r"line 11, pipeline\.kind\.most: .*a whole number from 1 to 64",
    TOML.replace(
        "margin =", "margins ="
    ): r"line 12, pipeline\.kind\.margins: .*\[pipeline\.kind\] is a table",
    TOML.replace("margin = 0.1", "margin = 2.1"): r"line 12, pipeline\.kind\.margin: .*from 0 to 2",
    TOML.replace("pipeline.kind", "pipeline.Kind"): r"line 6, pipeline\.Kind: A step's name may only",
    TOML.replace("[pipeline.kind]", '[pipeline."a\\n"]'): r"A step's name may only",
    'task = "pipeline"\npipeline = 3\n': r"line 2, pipeline: .*a table of model, crop, labels",
    TOML.replace('crop = "objects"\nlabels = ["dog"]\nleast = 0.5\nmost = 8\n', ""): r"line 8, .*margin is",
    TOML + '[source]\nkind = "onnx"\n': r"line 14, source: .*unknown field `source`",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_what_does_not_fit_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        _read(tmp_path, text)


def test_what_is_no_toml_is_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="not valid TOML"):
        _read(tmp_path, TOML + "[")
