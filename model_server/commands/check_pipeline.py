"""`python -m model_server check` of a pipeline: whether its steps' models can do what it asks of them.

Owns what is printed of a pipeline. Loads no network: each step's model has a check of its own.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.messages import Step
from model_server.catalogue.model_spec import ModelSpec, read_spec
from model_server.catalogue.pipeline_toml import StepModels
from model_server.commands.terminal import DONE, REFUSED, complain, print_line


def check(name: str, steps: Sequence[Step], models_dir: Path, weights: Mapping[str, str], where: str) -> int:
    """Describe the steps; return the exit status. A model may also be served from another host's folder.

    `weights` is settings.weights; `where` begins the command that serves them.
    """
    print_line(f"model       {name}: a pipeline of {len(steps)} step{'' if len(steps) == 1 else 's'}")
    specs: dict[str, ModelSpec | None] = {}
    for step in steps:
        is_here = (models_dir / step.model / "model.toml").is_file()
        spec = read_spec(models_dir, step.model, weights) if is_here else None
        if problem := _problem(step, spec, specs.get(step.crop)):
            return complain(f"{name}, step {step.name}: {problem}", REFUSED)
        specs[step.name] = spec
        task = spec.task.name if spec else _elsewhere(step.model, models_dir)
        print_line(f"step        {step.name}: {step.model} ({task}), asked about {_asked(step)}")
    here = [step.model for step in steps if specs[step.name] is not None]
    names = ",".join(dict.fromkeys([name, *here]))
    print_line(f"{name} can be served, with its steps' models: {where}MODELS={names} make serve")
    return DONE


def _elsewhere(model: str, models_dir: Path) -> str:
    """What is said of a model without a folder here."""
    near = difflib.get_close_matches(model, [toml.parent.name for toml in models_dir.glob("*/model.toml")], 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    return f"NOT in {models_dir}{guess} Another host must serve it"


def _asked(step: Step) -> str:
    if not step.crop:
        return "the whole picture"
    labels = f" labelled {', '.join(step.labels)}" if step.labels else ""
    least = f" of {step.least:g} or more" if step.least else ""
    return f"the boxes of {step.crop}{labels}{least}, {step.most} at most"


def _problem(step: Step, spec: ModelSpec | None, cropped: ModelSpec | None) -> str:
    """What the step asks of a model in this folder that this model can't do; empty if nothing."""
    if spec is not None and isinstance(spec.source, StepModels):
        return f"{step.model} is a pipeline itself; name its steps here."
    if spec is not None and step.top > spec.top_max:
        return f"top is {step.top}, and {step.model} gives at most {spec.top_max}."
    if cropped is None:
        return ""
    if not cropped.task.has_places:
        return (
            f"crop names {step.crop}, whose model {cropped.name} is {cropped.task.noun}: it gives no boxes."
        )
    known = {label.label for label in cropped.labels}
    if unknown := [label for label in step.labels if label not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        guess = f"; did you mean {near[0]!r}?" if near else f", but {', '.join(sorted(known)[:5])} and so on."
        return f"{cropped.name} has no label {unknown[0]!r}{guess}"
    return ""
