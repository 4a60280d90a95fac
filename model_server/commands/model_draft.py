"""A first model.toml from what a network's file tells: the task, the labels, and a comment on each guess.

Owns the guesses and the text. Reads no network: network_facts.py does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from model_server.catalogue.model_toml import Darknet, Onnx, Paddle, TorchSource
from model_server.commands.network_facts import Guess, NetworkFacts
from model_server.tasks import TASKS

IMAGENET: Final = 1000
"""The classes of the data set that most published classifiers were trained on."""

_VECTOR: Final = 64
"""So many numbers at least, if neither labels nor the last layer speak of classes, look like a vector."""


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """A model.toml to be, and the number of labels that it needs: 0 for a task that has none."""

    facts: NetworkFacts
    task: Guess
    labels: int = 0
    activation: Guess | None = None
    tables: tuple[str, ...] = ()
    """Lines of the task's own table."""
    output: int | None = None
    """The output that is meant, if it is not the first."""

    def text(self, labels_file: str, labels_why: str) -> str:
        """The file's content; `labels_why` says where the labels came from."""
        return "\n".join(self._lines(labels_file, labels_why)) + "\n"

    def _lines(self, labels_file: str, labels_why: str) -> Iterator[str]:
        facts = self.facts
        yield "# Written by `python -m model_server new`. docs/models.md describes every field."
        yield _line("task", self.task)
        if self.labels:
            yield _line("labels", Guess(labels_file, labels_why), "")
        yield "\n[source]"
        for name, value in msgspec.to_builtins(facts.source).items():
            yield f"{name} = {_quoted(value)}"
        yield "\n[input]"
        yield _line("width", facts.width)
        yield _line("height", facts.height)
        yield _line("channels", facts.channels)
        yield from self._fit()
        yield _line("normalise", facts.normalise)
        if self.output is not None or self.activation is not None:
            yield "\n[output]"
        if self.output is not None:
            yield f"name = {_quoted(facts.outputs[self.output].names[0])}"
        if self.activation is not None:
            yield _line("activation", self.activation)
        yield from self.tables

    def _fit(self) -> Iterator[str]:
        if isinstance(self.facts.source, Darknet):
            yield 'fit = "stretch"'
        elif self.task.value == "detection":
            yield _line("fit", Guess("pad", "as Ultralytics' exports are trained"))
            yield _line("border", Guess(114, "likewise"))
            yield _line("library", Guess("opencv", "likewise"))
        elif isinstance(self.facts.source, Onnx | Paddle | TorchSource) and self.task.value != "image":
            side = max(self.facts.width.value, self.facts.height.value)
            yield _line("fit", Guess("crop", "as torchvision's: Resize, then CenterCrop"))
            yield _line("resize", Guess(side * 256 // 224, "likewise"))
        else:
            yield _line("fit", Guess("stretch", 'the file does not say: "crop" keeps the shape'))


def draft(facts: NetworkFacts, labels: int) -> ModelDraft:
    """The draft for a network; `labels` is how many the user has, 0 if that is not known."""
    if isinstance(facts.source, Darknet):
        task = "detection" if facts.has_boxes else "classification"
        return ModelDraft(facts, Guess(task), labels=labels or facts.classes)
    shapes = [output.of_picture for output in facts.outputs]
    boxes = _ultralytics(shapes)
    if boxes:
        table = ("\n[detection]", 'layout = "ultralytics"')
        return ModelDraft(facts, Guess("detection", _looks(shapes[0])), labels=boxes, tables=table)
    for number, shape in enumerate(shapes):
        if max(shape, default=0) == math.prod(shape) > 0:
            return _of_vector(facts, number, labels)
        if len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)) and sorted(shape)[1] >= 8:
            return ModelDraft(facts, Guess("image", _looks(shape)), output=number or None)
    hints = " ".join(filter(None, (task.hint(shapes) for task in TASKS.values())))
    return ModelDraft(facts, Guess("raw", hints or "its outputs look like those of no other task"))


def _ultralytics(shapes: list[tuple[int, ...]]) -> int:
    """How many classes a detector as Ultralytics exports it has; 0 if it is none."""
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 4 * shapes[0][0] and shapes[0][0] > 4:
        return shapes[0][0] - 4
    return 0


def _of_vector(facts: NetworkFacts, number: int, labels: int) -> ModelDraft:
    """The draft for an output of one axis: classes, labels, quantities, or a vector."""
    shape, ending = facts.outputs[number].of_picture, facts.endings[number]
    count, output = math.prod(shape), number or None
    is_classes = labels == count or count in (IMAGENET, IMAGENET + 1) or (count == 1 and labels == 2)
    if ending == "unknown" and count >= _VECTOR and not is_classes:
        return ModelDraft(facts, Guess("embedding", _looks(shape)), output=output)
    if ending == "logits" and count == 1 and not is_classes:
        return ModelDraft(facts, Guess("regression", "one number without a sigmoid"), labels=1, output=output)
    guess = Guess("classification", '"multi_label" if several labels may apply at once')
    activation = None
    if ending != "probabilities":
        function = "sigmoid" if count == 1 else "softmax"
        activation = Guess(function, "its last layer gives logits" if ending == "logits" else "guessed")
    return ModelDraft(facts, guess, labels=2 if count == 1 else count, activation=activation, output=output)


def _looks(shape: tuple[int, ...]) -> str:
    return f"its output is {shape}"


def _line(key: str, guess: Guess, word: str = "guessed: ") -> str:
    value = _quoted(guess.value) if isinstance(guess.value, str) else str(guess.value)
    line = f"{key} = {value}"
    why = " ".join(guess.why.split())  # the name of a layer may have a line's end
    return f"{line:<24} # {word}{why}" if why else line


def _quoted(text: str) -> str:
    """A string of TOML: its escapes are JSON's."""
    return json.dumps(str(text), ensure_ascii=False)
