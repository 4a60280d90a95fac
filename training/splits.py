"""Which of the labelled files are learnt from, which stop the learning, and which judge it.

Owns that choice. It goes by a hash of each file's bytes: the same pictures always fall into the same part,
whatever they are called, and no picture is in two. Pure: reads bytes, decodes nothing.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.labelled_folder import UNREADABLE, File, LabelledFolderError, SkippedFile

LEAST: Final = 5
"""Pictures of a class, below which shares of it mean nothing."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What is not learnt from, of each class: at most 0.4 each, so that some is."""

    held_out: float = 0.2
    validation: float = 0.1


@dataclass(frozen=True, slots=True)
class Division:
    """Rows of the pictures, each int64: every row in one part, and the classes alike in all."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    """They tell when to stop, and so can't judge."""
    held_out: NDArray[np.int64]
    """Used once, at the end."""


def without_repeats(files: Sequence[File]) -> tuple[dict[File, str], list[SkippedFile]]:
    """Return the files that are used, each with the SHA-256 of its bytes, and what is left out.

    Of equal files one stays, or none where they lie in several classes: a copy of a picture that was learnt
    from must not judge, and two labels for one picture teach nothing.
    """
    equal: defaultdict[str, list[File]] = defaultdict(list)
    skipped: list[SkippedFile] = []
    for file in files:
        try:
            equal[hashlib.sha256(file.place.read_bytes()).hexdigest()].append(file)
        except UNREADABLE as error:
            skipped.append(SkippedFile(file, str(error)))
    kept: dict[File, str] = {}
    for digest, same in equal.items():
        if len({file.label for file in same}) > 1:
            skipped += [SkippedFile(file, "The same picture lies in another class too.") for file in same]
            continue
        kept[same[0]] = digest
        skipped += [SkippedFile(file, f"It is a copy of {same[0].name}.") for file in same[1:]]
    return kept, skipped


def refuse_too_few(classes: Sequence[str], labels: Iterable[int], *, which: str) -> None:
    """Raise LabelledFolderError if a class has too few images; `which` describes them in the message."""
    counts = Counter(labels)
    for label, name in enumerate(classes):
        if counts[label] < LEAST:
            raise LabelledFolderError(
                f"{name} has {counts[label]} {which}; a class needs at least {LEAST}, and a hundred for good "
                "results"
            )


def divide(
    digests: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str], shares: Shares
) -> Division:
    """Divide each class's rows, in order of their digests; at least one picture of it goes into each part.

    Raises LabelledFolderError if a class has too few for that.
    """
    training: list[int] = []
    validation: list[int] = []
    held_out: list[int] = []
    refuse_too_few(classes, labels.tolist(), which="pictures that can be used")
    for label in range(len(classes)):
        own = sorted(np.flatnonzero(labels == label).tolist(), key=digests.__getitem__)
        judge = max(1, round(len(own) * shares.held_out))
        stop = judge + max(1, round(len(own) * shares.validation))
        held_out += own[:judge]
        validation += own[judge:stop]
        training += own[stop:]
    return Division(*(np.array(sorted(rows), np.int64) for rows in (training, validation, held_out)))
