"""The model.toml of a pipeline: models that are asked one after the other about one picture.

Owns its fields, their bounds, and which steps may follow which. Whether the models are there is known only
where they are served. docs/pipelines.md describes every field.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker.keys import MODEL_NAME
from broker.messages import Step
from model_server.catalogue import toml_errors

TASK: Final = "pipeline"

MOST_STEPS: Final = 16


class StepFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[pipeline.NAME]: one step. Steps are asked in the order in which they are written."""

    model: str
    crop: str | None = None
    labels: tuple[str, ...] | None = None
    least: Annotated[float, Meta(ge=0, le=1)] | None = None
    most: Annotated[int, Meta(ge=1, le=64)] | None = None
    margin: Annotated[float, Meta(ge=0, le=2)] | None = None
    top: Annotated[int, Meta(ge=1)] | None = None


class PipelineToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the model.toml of a pipeline may have; each value of `pipeline` is a StepFields."""

    task: Literal["pipeline"]
    pipeline: Annotated[dict[str, dict[str, Any]], Meta(min_length=1, max_length=MOST_STEPS)]


class _Whole(msgspec.Struct):
    """A PipelineToml as its refusals describe it: msgspec names no step in which a value is wrong."""

    task: Literal["pipeline"]
    pipeline: dict[str, StepFields]


class StepModels(msgspec.Struct, frozen=True, tag_field="kind", tag="steps"):
    """The source of a pipeline: it has no network of its own."""

    steps: tuple[Step, ...]


def is_pipeline(path: Path) -> bool:
    """Whether this model.toml says that it is a pipeline's. One that can't be read is not."""
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return False
    return table.get("task") == TASK


def read(path: Path) -> StepModels:
    """Read a pipeline's model.toml. Raises CatalogueError, which names the file and the line."""
    text = path.read_text("utf-8-sig")
    steps: dict[str, StepFields] = {}
    place = ""
    try:
        tables = msgspec.toml.decode(text, type=PipelineToml).pipeline
        for name, table in tables.items():
            place = f".{TASK}.{name}"
            steps[name] = msgspec.convert(table, StepFields)
    except msgspec.ValidationError as error:
        raise toml_errors.of_value(path, text, error, StepFields if place else _Whole, place) from None
    for key, problem in _misfits(steps):
        raise toml_errors.of_key(path, text, key, problem)
    return StepModels(tuple(_step(name, fields) for name, fields in steps.items()))


def _step(name: str, fields: StepFields) -> Step:
    given: dict[str, Any] = msgspec.structs.asdict(fields)
    return Step(name=name, **{key: value for key, value in given.items() if value is not None})


def _misfits(steps: Mapping[str, StepFields]) -> Iterator[tuple[str, str]]:
    """Keys of steps that contradict others, each with the reason."""
    earlier: list[str] = []
    for name, step in steps.items():
        if not MODEL_NAME.fullmatch(name):
            yield f"{TASK}.{name}", "A step's name may only have a-z, 0-9, _ and -."
        if not MODEL_NAME.fullmatch(step.model):
            yield f"{TASK}.{name}.model", f"{step.model!r} can't be a model's name."
        if step.crop is not None and step.crop not in earlier:
            known = ", ".join(earlier) or "none, for this is the first step"
            yield f"{TASK}.{name}.crop", f"{step.crop!r} is not the name of an earlier step ({known})."
        if step.crop is None:
            for key in ("labels", "least", "most", "margin"):
                if getattr(step, key) is not None:
                    problem = f"{key} is for a step that gets boxes: name an earlier step in crop."
                    yield f"{TASK}.{name}.{key}", problem
        earlier.append(name)
