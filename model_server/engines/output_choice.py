"""Which of a network's outputs are served: those that model.toml names, or what the task finds.

Owns the choice, the same for every source, and its messages. Reads no file and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import ModelUnavailable
from model_server.engines.check import agreement
from model_server.engines.engine import OutputNames
from model_server.tasks import TASKS

if TYPE_CHECKING:
    from model_server.catalogue.detection_layout import Output
    from model_server.catalogue.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """An output of a network, as its file has it."""

    names: tuple[str, ...]
    """Any of these is its name; the first is shown."""
    shape: tuple[int, ...]
    """With the batch's axis, for one picture."""

    @property
    def is_batched(self) -> bool:
        """Whether it has a batch's axis."""
        return self.shape[:1] == (1,)

    @property
    def of_picture(self) -> tuple[int, ...]:
        """The shape for one picture, without the batch's axis."""
        return self.shape[1:] if self.is_batched else self.shape

    def __str__(self) -> str:
        return f"{', '.join(self.names)} {self.of_picture}"


@dataclass(frozen=True, slots=True)
class OutputChoice:
    """The outputs of a network that are served."""

    numbers: list[int]
    """Their places among all outputs, from 0."""
    names: OutputNames
    is_of_second: bool = False
    """Whether an image's output is a single number: see agreement.is_of_second."""


def choose(spec: ModelSpec, outputs: list[NetworkOutput]) -> OutputChoice:
    """Choose the outputs to serve. Raises ModelUnavailable if none fits the task."""
    named = spec.task.outputs(spec)
    if named:
        numbers = _named(spec, named, outputs)
        problem = spec.task.misfit(spec, [outputs[at].of_picture for at in numbers])
        if problem:
            raise ModelUnavailable(f"{spec.name}: {problem}.{_hint(spec, outputs)}")
    else:
        batched = [at for at, output in enumerate(outputs) if output.is_batched]
        chosen = spec.task.choose(spec, [outputs[at].of_picture for at in batched])
        numbers = [batched[at] for at in chosen]
        if not numbers:
            raise ModelUnavailable(f"{spec.name}: {_nothing_fits(spec, outputs)}.{_hint(spec, outputs)}")
    return OutputChoice(
        numbers,
        names=OutputNames(tuple(outputs[at].names[0] for at in numbers), tuple(map(str, outputs))),
        is_of_second=agreement.is_of_second(spec, outputs[numbers[0]].of_picture),
    )


def _named(spec: ModelSpec, named: tuple[Output, ...], outputs: list[NetworkOutput]) -> list[int]:
    numbers = []
    for name in named:
        matches = [at for at, output in enumerate(outputs) if name == at or name in output.names]
        if not matches:
            listed = "; ".join(f"{at}: {output}" for at, output in enumerate(outputs))
            raise ModelUnavailable(
                f"{spec.name}: the network has no output {name!r}. Available: {listed}.{_hint(spec, outputs)}"
            )
        numbers += matches[:1]
    return numbers


def _nothing_fits(spec: ModelSpec, outputs: list[NetworkOutput]) -> str:
    shapes = [output.of_picture for output in outputs]
    problem = spec.task.misfit(spec, shapes[:1])
    return problem.replace(str(shapes[0]), " and ".join(map(str, shapes)), 1)


def _hint(spec: ModelSpec, outputs: list[NetworkOutput]) -> str:
    """What else such outputs may be, by task; sentences after a space, or empty."""
    shapes = [output.of_picture for output in outputs]
    hints = [task.hint(shapes) for task in TASKS.values() if task is not spec.task]
    return "".join(f" {hint}" for hint in (spec.task.cure, *hints) if hint)
