"""The steps of retraining, from the pictures that were found to the model's folder.

Owns their order and what is said between them; each step is a module's. Pictures are decoded and fitted as
the web tier will do it, so that what is learnt is what is served. Loads TensorFlow: retrain.py has refused
before what can be refused without it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras
import tensorflow as tf

from training import bases, evaluation, frozen_graph, labelled_folder, publish
from training.base_options import BaseOptions
from training.bases import Base
from training.labelled_folder import File, FolderContents, SkippedFile
from training.splits import Division, Shares, divide, refuse_too_few, without_repeats
from training.stages import Learner, TrainingPlan

_SHOWN: Final = 20
"""Files that are left out and named one by one; the report names them all."""


def run(
    options: argparse.Namespace,
    wanted: BaseOptions,
    folder: Path,
    classes: Sequence[str],
    files: Sequence[File],
) -> None:
    """Make the model. Raises BaseError, FolderError and PublishError."""
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    base = bases.load(wanted)
    print(
        f"{base.name} (weights: {base.weights}) takes {base.taken.input.width} x {base.taken.input.height}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="batchwire-") as scratch:
        digests, repeated = without_repeats(files)
        refuse_too_few(classes, (file.label for file in digests), which="different files")
        read = labelled_folder.read(list(digests), base.taken.input, Path(scratch) / "pictures.npy")
        skipped = repeated + read.skipped
        _say_skipped(skipped)
        shares = Shares(options.held_out, options.validation)
        division = divide([digests[file] for file in read.files], read.pictures.labels, classes, shares)
        _say_division(classes, division)
        learner = _learnt(base, read, len(classes), division, options)
        labels = read.pictures.labels[division.held_out]
        found = evaluation.judge(classes, labels, learner.outputs(division.held_out))
    provenance = _provenance(options, base, division, skipped, learner)
    _write(folder, learner, base, found, provenance, options)
    print(f"held-out accuracy: {found.accuracy:.2%}", *found.lines(), sep="\n")
    if found.warning():
        print(found.warning())
    print(f"Written to {folder}. Serve it with MODELS={options.name}.")


def _learnt(
    base: Base, read: FolderContents, classes: int, division: Division, options: argparse.Namespace
) -> Learner:
    plan = TrainingPlan(options.epochs, options.fine_tune, options.batch, options.seed)
    learner = Learner(base, read.pictures, classes, division, plan)
    if base.weights == "none":
        print("The whole network is trained from scratch.", flush=True)
        learner.learn_from_scratch()
        return learner
    print("The base processes every picture once; then a new head is trained on its outputs.", flush=True)
    learner.learn_head()
    if options.fine_tune:
        print("The whole network is trained.", flush=True)
        learner.fine_tune()
    return learner


def _say_skipped(skipped: Sequence[SkippedFile]) -> None:
    for each in skipped[:_SHOWN]:
        print(f"left out: {each.file.name}: {each.reason}")
    if len(skipped) > _SHOWN:
        print(f"left out: {len(skipped) - _SHOWN} more; the report names them")


def _say_division(classes: Sequence[str], division: Division) -> None:
    print(
        f"{len(classes)} classes; {len(division.training)} pictures to learn from, "
        f"{len(division.validation)} that decide when to stop, {len(division.held_out)} held out",
        flush=True,
    )


def _provenance(
    options: argparse.Namespace,
    base: Base,
    division: Division,
    skipped: Sequence[SkippedFile],
    learner: Learner,
) -> dict[str, Any]:
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "base": base.name,
        "weights": base.weights,
        "seed": options.seed,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "epochs": learner.epochs,
        "pictures": {
            "training": len(division.training),
            "validation": len(division.validation),
            "held_out": len(division.held_out),
        },
        "left_out": {each.file.name: each.reason for each in skipped},
    }


def _write(
    folder: Path,
    learner: Learner,
    base: Base,
    found: evaluation.Evaluation,
    provenance: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    file = f"{options.name}.keras"
    comment = (
        f"Retrained from {base.name} (weights: {base.weights}) by `python -m training.retrain`; "
        f"held-out accuracy {found.accuracy:.4f}."
    )
    with publish.published(folder, replace=options.replace) as draft:
        learner.network.save(draft / file)
        if options.frozen_graph:
            frozen_graph.write(draft, options.name, learner.network, found.classes)
        evaluation.write_report(draft / "report.json", found, provenance)
        evaluation.draw_confusion(draft / "confusion.png", found, f"{options.name}: {found.accuracy:.2%}")
        publish.write_labels(draft, found.classes)
        publish.write_model_toml(
            draft,
            network=file,
            taken=base.taken,
            top=min(options.top, len(found.classes)),
            comment=comment,
        )
