"""Trains the bundled classifier of photos into CIFAR-10's classes: python -m training photos10 cifar10.zip.

Owns how it is trained and judged; the network is small_network's, its pictures come from
training.labelled_folder and training.photographs. A part of the training pictures is held out: by that this
recipe was chosen, and any other must be. The test pictures are looked at once, at the end.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_server.engines.openvino import runtime
from training import labelled_folder, small_network
from training.labelled_folder import LabelledFolderError, LabelledPictures
from training.photographs import INPUT, photographed
from training.small_network import CLASSES

EPOCHS: Final = 16
BATCH: Final = 256
PEAK: Final = 0.25
"""Of the learning rate: it rises to it over the first fifth of the steps, and falls to 0 along a cosine."""
WEIGHT_DECAY: Final = 0.013  # decoupled: what an L2 penalty of 1.3e-3 is at a momentum of 0.9
PHOTOGRAPHS: Final = 0.2
"""Beside every picture as it is, an epoch has as many new photographs (see training.photographs)."""
HELD_OUT: Final = 250  # of each class
_MOVED: Final = 2 / 32
_POLICIES: Final = {"bf16": "mixed_bfloat16", "fp32": "float32"}
_LOSS: Final = keras.losses.CategoricalCrossentropy(label_smoothing=0.2)


def as_input(pixels: Any) -> Any:  # noqa: ANN401 - uint8 of NumPy or of TensorFlow
    """Normalise uint8 (N, 32, 32, 3) as `torch` of model.toml does."""
    return keras.applications.imagenet_utils.preprocess_input(keras.ops.cast(pixels, "float32"), mode="torch")


def train(
    pictures: LabelledPictures,
    photographs: LabelledPictures,
    *,
    epochs: int,
    precision: str,
    seed: int,
    checkpoint: Path,
) -> keras.Model:
    """Train a new network on the pictures and their photographs; return it, not compiled.

    It goes on from the last whole epoch that an interrupted run left in `checkpoint`, which goes at the end.
    """
    keras.utils.set_random_seed(seed)
    model = small_network.network(precision, learning=True)
    some = np.random.default_rng(seed).choice(len(pictures), min(5000, len(pictures)), replace=False)
    small_network.begin(model, np.asarray(as_input(pictures.pixels[some])))
    lots = _augmented(pictures, photographs, seed)
    optimizer = _optimizer(lots.cardinality().numpy() * epochs)
    accuracy = keras.metrics.CategoricalAccuracy("accuracy")
    # XLA, Keras's choice otherwise, has no convolution in bf16 for CPUs.
    model.compile(optimizer, _LOSS, metrics=[accuracy], jit_compile=False)
    optimizer.build(model.trainable_variables)  # so TensorFlow traces the first step once, not twice
    resume = keras.callbacks.BackupAndRestore(checkpoint, double_checkpoint=True)
    model.fit(lots, epochs=epochs, shuffle=False, callbacks=[resume])
    shutil.rmtree(checkpoint, ignore_errors=True)
    return small_network.plain(model)


def _optimizer(steps: int) -> Any:  # noqa: ANN401
    rising = steps // 5
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=PEAK, warmup_steps=rising
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["beta"])
    return optimizer


def _augmented(pictures: LabelledPictures, photographs: LabelledPictures, seed: int) -> Any:  # noqa: ANN401 - a tf.data.Dataset
    """Batches, in an order of their own each epoch; all are mirrored and moved at random."""
    pixels = tf.constant(np.concatenate([pictures.pixels, photographs.pixels]))
    labels = tf.one_hot(np.concatenate([pictures.labels, photographs.labels]), CLASSES)
    augmentation = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=seed),
            keras.layers.RandomTranslation(_MOVED, _MOVED, "reflect", "nearest", seed=seed + 1),
        ]
    )
    own, taken = len(pictures), int(len(photographs) * PHOTOGRAPHS)
    drawn = tf.data.Dataset.range(own, own + len(photographs)).shuffle(len(photographs), seed=seed + 2)
    rows = tf.data.Dataset.range(own).concatenate(drawn.take(taken))
    return (
        rows.shuffle(own + taken, seed=seed)
        .batch(BATCH)
        .map(
            lambda row: (
                augmentation(as_input(tf.gather(pixels, row)), training=True),
                tf.gather(labels, row),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .prefetch(2)
    )


def divided(pictures: LabelledPictures, seed: int) -> tuple[LabelledPictures, LabelledPictures]:
    """Return the pictures that are learnt from, and those held out, as many of each class."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    of_class = [order[pictures.labels[order] == label] for label in range(CLASSES)]
    held_out = min(HELD_OUT, *(len(rows) // 4 for rows in of_class))
    learnt = np.concatenate([rows[held_out:] for rows in of_class])
    kept = np.concatenate([rows[:held_out] for rows in of_class])
    return _rows(pictures, learnt), _rows(pictures, kept)


def _rows(pictures: LabelledPictures, rows: NDArray[np.int64]) -> LabelledPictures:
    return LabelledPictures(pictures.pixels[rows], pictures.labels[rows])


def confusion(model: keras.Model, pictures: LabelledPictures) -> NDArray[np.int64]:
    """Return how many pictures of each class (row) `model` gives each class (column)."""
    found = [
        model(as_input(pictures.pixels[at : at + 500]), training=False).numpy().argmax(axis=1)
        for at in range(0, len(pictures), 500)
    ]
    counts = tf.math.confusion_matrix(pictures.labels, np.concatenate(found), CLASSES)
    return np.asarray(counts, np.int64)


def read(path: Path, part: str) -> tuple[tuple[str, ...], LabelledPictures]:
    """Return the classes and the pictures of a part, "train" or "test", of CIFAR-10 as labelled folders.

    Raises FolderError.
    """
    classes, files = labelled_folder.files_of(labelled_folder.opened(path) / part)
    if len(classes) != CLASSES:
        raise LabelledFolderError(f"{path}: {part} holds {len(classes)} folders, not {CLASSES}")
    found = labelled_folder.read(files, INPUT)
    if found.skipped:
        raise LabelledFolderError(f"{found.skipped[0].file.name}: {found.skipped[0].reason}")
    return classes, found.pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the accuracies and save the network."""
    options = _parser().parse_args(arguments)
    try:
        classes, pictures = read(options.data, "train")
        _, test = read(options.data, "test")
    except LabelledFolderError as error:
        sys.exit(f"{error}.")
    pictures, held_out = divided(pictures, options.seed)
    print(f"{len(pictures)} pictures to learn from, {len(held_out)} to choose by", flush=True)
    # Spawned, for a fork would take TensorFlow's threads' locks along.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as executor:
        photographs = _photographs(pictures, options.seed, executor)
        held_out_photographs = _photographs(held_out, 10**6, executor)
    print(f"the photographs are ready; learning in {options.precision}", flush=True)
    model = train(
        *(pictures, photographs),
        epochs=options.epochs,
        precision=_POLICIES[options.precision],
        seed=options.seed,
        checkpoint=options.checkpoint,
    )
    print(f"right of the pictures held out, one way: {_accuracy(confusion(model, held_out)):.2%}")
    model = small_network.both_ways(model)
    small_network.rounded(model)
    print(f"right of the pictures held out: {_accuracy(confusion(model, held_out)):.2%}")
    print(f"right of their photographs: {_accuracy(confusion(model, held_out_photographs)):.2%}", flush=True)
    if options.judge:
        _judge(model, classes, test)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "photos10.keras"
    small_network.save(model, path)
    print(f"saved {path} ({path.stat().st_size / 1000:.0f} kB)")


def _photographs(pictures: LabelledPictures, seed: int, executor: Executor) -> LabelledPictures:
    return LabelledPictures(photographed(pictures.pixels, seed, executor), pictures.labels)


def _judge(model: keras.Model, classes: Sequence[str], test: LabelledPictures) -> None:
    matrix = confusion(model, test)
    print(f"test accuracy: {_accuracy(matrix):.2%}; of each class (row), named as:")
    print(" " * 10 + "".join(f"{name[:6]:>7}" for name in classes))
    for name, row in zip(classes, matrix.tolist(), strict=True):
        print(f"{name:10}" + "".join(f"{count:7}" for count in row))


def _accuracy(matrix: NDArray[np.int64]) -> float:
    return float(matrix.trace() / matrix.sum())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training photos10", description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg, or a .zip"
    )
    parser.add_argument("--out", type=Path, default=Path("models/photos10"), help="the folder to save in")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    native = "fp32" if runtime.lacks("bf16") else "bf16"
    parser.add_argument(
        "--precision", choices=_POLICIES, default=native, help="what it computes in; the weights are fp32"
    )
    parser.add_argument(
        "--no-judge",
        dest="judge",
        action="store_false",
        help="do not look at the test pictures: for every run that something is chosen by",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("var/training/photos10"),
        help="where an interrupted run leaves what it has learnt",
    )
    return parser


if __name__ == "__main__":
    main()
