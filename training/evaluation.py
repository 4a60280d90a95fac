"""How good a retrained network is on the pictures that were held out: figures, a table and a picture.

Owns the measures and their words. matplotlib draws; nothing here trains.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_NUMBERED: Final = 30
"""Classes up to which the picture has a number in each cell; beyond that they would be unreadable."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`matrix` is int64 (classes, classes): pictures of a class (row) that are named a class (column)."""

    classes: Sequence[str]
    matrix: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of the pictures that are classified correctly."""
        return float(self.matrix.trace() / self.matrix.sum())

    def by_class(self) -> dict[str, dict[str, float | int]]:
        """Of each class: how many were held out, the share found, and the share of finds that is right."""
        right, held_out, found = self.matrix.diagonal(), self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        return {
            name: {
                "held_out": int(held_out[label]),
                "recall": round(float(right[label] / held_out[label]), 4),
                "precision": round(float(right[label] / max(1, found[label])), 4),
            }
            for label, name in enumerate(self.classes)
        }

    def warning(self) -> str:
        """What to say of a network that tells the classes no better than chance; else empty.

        Judged by how much it finds of a class, for where one class has most of the pictures a good network
        may be right less often than who always names that one. Few pictures allow for a standard error, and
        within it nothing can be said of a network that is right more often than who guesses.
        """
        held_out = self.matrix.sum(axis=1)
        recall = float((self.matrix.diagonal() / held_out).mean())
        chance = 1 / len(self.classes)
        if recall > chance + math.sqrt(chance * (1 - chance) / held_out.sum()):
            return ""
        guessing = float(held_out.max() / held_out.sum())
        given = f"(to name the most frequent class each time gives {guessing:.2%})"
        if self.accuracy > guessing:
            judged = (
                f"is hardly better than guessing {given}: {held_out.sum()} held-out pictures are too few to "
                "say whether the network can distinguish the classes."
            )
        else:
            judged = f"is no better than guessing {given}: the network can't distinguish the classes."
        return (
            f"Warning: held-out accuracy of {self.accuracy:.2%} {judged} Try more pictures of each class, "
            "--weights imagenet or a .keras network to start from, or more --epochs."
        )

    def lines(self) -> list[str]:
        """A table of the classes, the worst first."""
        width = max(5, *map(len, self.classes))
        lines = [f"{'class':{width}}  held out  recall  precision"]
        for name, of in sorted(self.by_class().items(), key=lambda pair: pair[1]["recall"]):
            lines.append(f"{name:{width}}  {of['held_out']:8}  {of['recall']:6.4f}  {of['precision']:9.4f}")
        return lines


def judge(classes: Sequence[str], labels: NDArray[np.int64], outputs: NDArray[np.float32]) -> Evaluation:
    """Compare float32 (N, classes) with the labels of the pictures they are of."""
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (labels, outputs.argmax(axis=1)), 1)
    return Evaluation(tuple(classes), matrix)


def write_report(path: Path, verdict: Evaluation, provenance: dict[str, Any]) -> None:
    """The figures as JSON, after `provenance`: how the network was made."""
    figures = {
        "held_out_accuracy": round(verdict.accuracy, 4),
        "classes": verdict.by_class(),
        "confusion": {
            name: dict(zip(verdict.classes, row, strict=True))
            for name, row in zip(verdict.classes, verdict.matrix.tolist(), strict=True)
        },
    }
    path.write_text(json.dumps(provenance | figures, indent=1, ensure_ascii=False) + "\n", "utf-8")


def draw_confusion(path: Path, verdict: Evaluation, title: str) -> None:
    """A PNG of the confusion matrix, each row as shares of its class."""
    count = len(verdict.classes)
    side = max(4.0, 0.5 * min(count, 60))
    figure = Figure(figsize=(side + 2, side + 1), layout="constrained")
    axes = figure.subplots()
    shares = verdict.matrix / verdict.matrix.sum(axis=1, keepdims=True)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the class")
    axes.set(title=title, xlabel="named", ylabel="is")
    axes.set_xticks(range(count), verdict.classes, rotation=90)
    axes.set_yticks(range(count), verdict.classes)
    if count <= _NUMBERED:
        for (row, column), number in np.ndenumerate(verdict.matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=colour)
    figure.savefig(path)
