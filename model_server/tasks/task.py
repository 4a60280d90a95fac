"""What a task is: everything that the rest of the model server asks about it.

Owns the questions, and the answers of a task that gives a probability for each label. The catalogue reads
model.toml with the table of tasks, so a task names ModelSpec and ModelToml as types only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from msgspec import Struct

from broker.messages import TaskResult
from model_server.engines.check import agreement

if TYPE_CHECKING:
    from model_server.catalogue.detection_layout import Output
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import ModelToml
    from model_server.engines.check.agreement import Verdict
    from model_server.engines.engine import Outputs


_Table = TypeVar("_Table", bound=Struct)


def table_of(options: Struct | None, kind: type[_Table]) -> _Table:
    """A task's own table, which the catalogue always sets. Raises TypeError if it is another's."""
    if not isinstance(options, kind):
        raise TypeError(f"{options!r} is not the task's table, {kind.__name__}. This is a bug")
    return options


USUAL_TOP: Final = 5
"""How many predictions an answer has if neither model.toml nor the client says."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a task has to know of the picture whose outputs it reads."""

    original_size: tuple[int, int]
    """(width, height) of the upload."""
    top: int
    """The most predictions."""
    names: tuple[str, ...] = ()
    """The outputs' names in the network's file, in their order."""


class Task(ABC):
    """How a network's outputs are chosen, checked and read.

    By default a network has one output of interest: a probability for each label, after the activation of
    model.toml.
    """

    name: ClassVar[str]
    """As model.toml, the card and `task.NAME` of the page's phrases spell it."""
    noun: ClassVar[str]
    """A model of this task in a message, with its article: `a detector`."""
    table: ClassVar[type[Struct] | None] = None
    """The fields of its own table in model.toml, which is called as the task; None: it has none."""
    has_labels: ClassVar[bool] = True
    """Whether model.toml must name a file of labels."""

    cure: ClassVar[str] = ""
    """A sentence on what to do about outputs that do not fit."""

    gives_probabilities: ClassVar[bool] = True
    """Whether its output is flattened and activated, and must be probabilities; other outputs, which
    `outputs` names, are served as they are."""
    reads_one_as_two: ClassVar[bool] = False
    """Whether one number for two labels is the second's probability (see agreement.is_of_second)."""
    is_exact: ClassVar[bool] = False
    """Whether PRECISION=auto means fp32: its numbers themselves are the answer."""
    has_places: ClassVar[bool] = False
    """Whether answers have places in the picture: in a scaled picture they could be others of the upload."""
    has_best_class: ClassVar[bool] = False
    """Whether the first prediction is the answer; `quantise` counts how often it stays the same."""
    most: ClassVar[int | None] = None
    """The most predictions that a client may ask for; None: one for each label."""

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """The answer from the outputs for one picture, without the batch's axis.

        Predictions come best first. Raises InferenceFailed if the outputs are invalid.
        """

    def scores(self, _outputs: Outputs, /) -> tuple[float, ...] | None:
        """The probability of every label, in their order; None: it has none. `read` has taken the outputs."""
        return None

    @abstractmethod
    def compare(self, spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /) -> Verdict:
        """Whether an engine's outputs are the reference's, by the task's measures and tolerances.

        The images are the first axis. Raises ValueError if the shapes differ.
        """

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """Keys of model.toml that do not fit the task, each with the reason."""
        if not self.gives_probabilities and toml.output.activation != "none":
            problem = f"activation is for probabilities: the outputs of {self.noun} stay as they are."
            yield "output.activation", problem

    def options(self, toml: ModelToml, /) -> Struct | None:
        """What the task's own table says, with its defaults."""
        return toml.own_table or (self.table() if self.table else None)

    def usual_top(self, labels: int) -> int:
        """How many predictions an answer has if model.toml does not say."""
        return min(USUAL_TOP, self.top_max(labels))

    def top_max(self, labels: int) -> int:
        """The most predictions that a client may ask for."""
        return max(1, labels) if self.most is None else self.most

    def top_limit(self, labels: int) -> str:
        """The clause that says why an answer can't have more predictions."""
        if self.most is not None:
            return f"{self.noun}'s answer has at most {self.most}"
        return f"the model has {labels} label{'s' if labels > 1 else ''}"

    def outputs(self, spec: ModelSpec) -> tuple[Output, ...]:
        """The outputs that are served, in order; empty: those that `choose` finds."""
        return () if spec.output is None else (spec.output,)

    def choose(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> list[int]:
        """Which outputs are served if model.toml names none: the first that fits; empty if none does.

        `shapes` are those of all outputs for one picture.
        """
        return next(([at] for at, shape in enumerate(shapes) if not self.misfit(spec, [shape])), [])

    def label_problems(self, _spec: ModelSpec, /) -> Iterator[tuple[str, str]]:
        """Keys of model.toml at odds with the labels, each with the reason."""
        return iter(())

    def hint(self, _shapes: list[tuple[int, ...]], /) -> str:
        """A sentence if outputs of these shapes, which another task can't read, may be this task's."""
        return ""

    def numbers(self, labels: int) -> int:
        """How many numbers an output of probabilities has."""
        return labels

    def misfit(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
        """Why outputs of these shapes, for one picture, can't be read; empty if they can."""
        labels = len(spec.labels)
        if math.prod(shapes[0]) == self.numbers(labels) or agreement.is_of_second(spec, shapes[0]):
            return ""
        return f"the network's output for a picture is {shapes[0]}, but there are {labels} labels"
