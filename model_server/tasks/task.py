"""What a task is: everything that the rest of the model server asks about it.

Owns the questions, and the answers of a task that gives a probability for each label. The catalogue reads
model.toml with the table of tasks, so a task names ModelSpec and ModelToml as types only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from model_server.engines.check import agreement

if TYPE_CHECKING:
    from broker.messages import Prediction
    from model_server.catalogue.detection_layout import Detection, Output
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import ModelToml
    from model_server.engines import Outputs
    from model_server.engines.check.agreement import Verdict


class Task(ABC):
    """How a network's outputs are chosen, checked and read.

    By default a network has one output of interest: a probability for each label, after the activation of
    model.toml.
    """

    name: ClassVar[str]
    """As model.toml, the card and `task.NAME` of the page's phrases spell it."""
    noun: ClassVar[str]
    """A model of this task in a message, with its article: `a detector`."""

    gives_probabilities: ClassVar[bool] = True
    """Whether its output is flattened and activated, and must be probabilities; other outputs, which
    `outputs` names, are served as they are."""
    reads_one_as_two: ClassVar[bool] = False
    """Whether one number for two labels is the second's probability (see agreement.is_of_second)."""
    has_places: ClassVar[bool] = False
    """Whether answers have places in the picture: in a scaled picture they could be others of the upload."""
    has_best_class: ClassVar[bool] = False
    """Whether the first prediction is the answer; `quantise` counts how often it stays the same."""
    most: ClassVar[int | None] = None
    """The most predictions that a client may ask for; None: one for each label."""

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def predictions(
        self, outputs: Outputs, spec: ModelSpec, original_size: tuple[int, int], top: int, /
    ) -> tuple[Prediction, ...]:
        """The predictions from the outputs for one image, best first. Raises InferenceFailed if invalid.

        `original_size` is the upload's (width, height), `top` the most predictions.
        """

    @abstractmethod
    def compare(self, spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /) -> Verdict:
        """Whether an engine's outputs are the reference's, by the task's measures and tolerances.

        The images are the first axis. Raises ValueError if the shapes differ.
        """

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """Keys of model.toml that do not fit the task, each with the reason."""
        if toml.detection is not None:
            yield "detection", '[detection] is for task = "detection".'

    def detection(self, _toml: ModelToml, /) -> Detection | None:
        """How outputs are read as detections, for a task that reads them so."""
        return None

    def top_max(self, labels: int) -> int:
        """The most predictions that a client may ask for."""
        return labels if self.most is None else self.most

    def top_limit(self, labels: int) -> str:
        """The clause that says why an answer can't have more predictions."""
        if self.most is not None:
            return f"{self.noun}'s answer has at most {self.most}"
        return f"the model has {labels} label{'s' if labels > 1 else ''}"

    def outputs(self, _spec: ModelSpec, /) -> tuple[Output, ...]:
        """The outputs that are served, in order; empty: the first whose numbers fit the labels."""
        return ()

    def numbers(self, labels: int) -> int:
        """How many numbers the output has, where `outputs` names none."""
        return labels

    def misfit(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
        """Why outputs of these shapes, for one image, do not fit the labels; empty if they do."""
        labels = len(spec.labels)
        if shapes[0] == (self.numbers(labels),) or agreement.is_of_second(spec, shapes[0]):
            return ""
        return f"the network's output for a picture is {shapes[0]}, but there are {labels} labels"
