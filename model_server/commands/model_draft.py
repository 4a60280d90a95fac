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
    is_ultralytics: bool = False
    """Whether boxes are laid out as Ultralytics exports them: pictures are prepared likewise then."""

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
        is_unit = self.is_ultralytics and facts.declared is None
        yield _line("normalise", Guess("unit", "as Ultralytics' exports") if is_unit else facts.normalise)
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
        elif self.is_ultralytics:
            yield _line("fit", Guess("pad", "as Ultralytics' exports are trained"))
            yield _line("border", Guess(114, "likewise"))
            yield _line("library", Guess("opencv", "likewise"))
        elif self.facts.declared is not None and self.task.value == "classification":
            yield _line("fit", Guess("crop", "as Ultralytics' classifiers are trained"))
        elif self.task.value == "segmentation":
            yield _line("fit", Guess("stretch", 'the whole picture gets masks; "pad" keeps the shape'))
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
    # What the file says counts, were the user's labels fewer: the check will say so.
    labels = len(facts.declared.classes) if facts.declared is not None else labels or facts.classes
    places = _of_rows(facts, shapes, labels)
    if places is not None:
        return places
    for number, shape in enumerate(shapes):
        if max(shape, default=0) == math.prod(shape) > 0:
            return _of_vector(facts, number, labels)
        if len(shape) != 3:
            continue
        classes = _classes_of_map(facts, shape, labels)
        if classes:
            table = ("\n[segmentation]", _BACKGROUND)
            return ModelDraft(
                *(facts, Guess("segmentation", _looks(shape))),
                labels=classes,
                tables=table,
                output=number or None,
            )
        if (shape[0] in _COLOURS or shape[2] in _COLOURS) and sorted(shape)[1] >= _LEAST_SIDE:
            return ModelDraft(facts, Guess("image", _looks(shape)), output=number or None)
    hints = " ".join(filter(None, (task.hint(shapes) for task in TASKS.values())))
    return ModelDraft(facts, Guess("raw", hints or "its outputs look like those of no other task"))


_COLOURS: Final = (1, 3)

_LEAST_SIDE: Final = 8
"""Pixels of an output that shows something."""

_MOST_CLASSES: Final = 256
"""A map of more channels has features, not classes: ADE20K has 150 classes, COCO-Stuff 171."""

_COARSEST: Final = 8
"""A map of classes is not smaller than the picture divided by this."""

_COCO_ROWS: Final = 4 + 1 + 3 * 17
"""The numbers of a box with a person's 17 points: its place, its score, two places and a score for each."""

_POSING: Final = 3
_LEAST_POINTS: Final = 2
"""Rows of more classes, or of fewer points, are a detector's with other labels than these."""

_BACKGROUND: Final = '# background = "NAME"    # a class that is not reported'


def _of_rows(facts: NetworkFacts, shapes: list[tuple[int, ...]], labels: int) -> ModelDraft | None:
    """The draft for rows of numbers, a column for each box, as Ultralytics exports them; None for others."""
    at = next((at for at, shape in enumerate(shapes) if _are_rows(shape)), None)
    if at is None or len(shapes) > 2:
        return None
    rows, declared = shapes[at][0], facts.declared
    why = _looks(shapes[at]) if declared is None else ""
    if len(shapes) == 2:
        maps = shapes[1 - at]
        classes = rows - 4 - maps[0] if len(maps) == 3 and min(maps[1:]) >= _LEAST_SIDE else 0
        if classes < 1:
            return None
        table = ["\n[segmentation]", 'layout = "ultralytics"']
        table += [f"boxes = {at}", f"prototypes = {1 - at}"] if at else []
        task = Guess("segmentation", why and f"{why}, and that of masks' prototypes {maps}")
        return ModelDraft(facts, task, labels=classes, tables=tuple(table), is_ultralytics=True)
    points = _points(facts, rows, labels)
    if points:
        table = [
            "\n[keypoints]",
            f"# names = [{points} names]   # left out: COCO's for 17 points, else numbers",
        ]
        return ModelDraft(
            *(
                facts,
                Guess("keypoints", why and f"{why}: {points} points, or a detector's {rows - 4} classes"),
            ),
            labels=rows - 4 - 3 * points,
            tables=tuple(table),
            is_ultralytics=True,
        )
    if declared is not None and (declared.kind != "detect" or rows != 4 + labels):
        return None
    table = ["\n[detection]", 'layout = "ultralytics"']
    return ModelDraft(
        facts, Guess("detection", why), labels=rows - 4, tables=tuple(table), is_ultralytics=True
    )


def _are_rows(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] > 4 * shape[0] > 4 * 4


def _points(facts: NetworkFacts, rows: int, labels: int) -> int:
    """How many points each box of so many numbers has; 0 if it has none."""
    if facts.declared is not None:
        points, numbers = (*facts.declared.points, 0, 0)[:2]
        fits = facts.declared.kind == "pose" and numbers == 3 and rows == 4 + labels + 3 * points
        return points if fits else 0
    if rows == _COCO_ROWS and labels in (0, 1):
        return 17
    points, rest = divmod(rows - 4 - labels, 3)
    return points if 0 < labels <= _POSING and points >= _LEAST_POINTS and not rest else 0


def _classes_of_map(facts: NetworkFacts, shape: tuple[int, ...], labels: int) -> int:
    """How many classes a map has scores of; 0 if it is a picture, or features."""
    height, width = facts.height.value, facts.width.value
    sides = {shape[0]: shape[1:], shape[2]: shape[:2]}
    fitting = [
        (classes, abs(down * width - across * height))
        for classes, (down, across) in sides.items()
        if _COARSEST * min(down, across) >= min(height, width) and min(down, across) >= _LEAST_SIDE
    ]
    if labels > 1 and any(classes == labels for classes, _ in fitting):
        return labels
    usual = [each for each in fitting if each[0] not in _COLOURS and each[0] <= _MOST_CLASSES]
    # The sides are those that have the shape of the picture.
    return min(usual, key=lambda each: (each[1], each[0]))[0] if usual and len(usual) == len(fitting) else 0


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
    if ending == "independent" and count > 1:
        guess = Guess("multi_label", 'a sigmoid for each label; "classification" if one applies')
    activation = None
    if ending not in ("probabilities", "independent"):
        function = "sigmoid" if count == 1 else "softmax"
        activation = Guess(function, "its last layer gives logits" if ending == "logits" else "usual")
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
