"""Trains the bundled classifier of photos into CIFAR-10's classes: python -m training.photos10 cifar10.zip.

Owns the network and how it is trained; the pictures come from training.labelled and training.photographs.
What it saves holds only stock Keras layers and no optimizer, takes float32 (N, 32, 32, 3), normalised as
`torch` of model.toml says, and ends in softmax over ten classes. It must not hold a normalisation or an
augmentation: serving has the first, training the second.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training import labelled
from training.labelled import FolderError, Pictures
from training.photographs import INPUT, SIDE, photographed

CLASSES: Final = 10
WIDTHS: Final = (64, 128, 160)
"""Filters of each block: 691,402 parameters, 2.8 MB."""
BATCH: Final = 256
WEIGHT_DECAY: Final = 5e-3  # decoupled: what an L2 penalty of 5e-4 is at a momentum of 0.9
_LOSS: Final = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)


@dataclass(frozen=True, slots=True)
class Cycle:
    """A rise of the learning rate to `peak` and its fall to 0, over `epochs`.

    An epoch passes over every picture as it is, and over a `share` of them, drawn anew, as photographs (see
    training.photographs). All are mirrored at random and moved by up to `moved` of their side; a share,
    `erased`, loses a patch.
    """

    epochs: int
    peak: float
    share: float
    moved: float
    erased: float


CYCLES: Final = (
    Cycle(8, 0.15, share=1.0, moved=0.125, erased=0.0),
    Cycle(10, 0.1, share=0.25, moved=0.0625, erased=0.0),
    Cycle(10, 0.1, share=0.25, moved=0.125, erased=0.5),
)
"""Right on the test pictures after the first two: 86.7 and 88.2 %."""


def network() -> keras.Model:
    """Return the untrained network: float32 (N, 32, 32, 3), normalised, to float32 (N, 10), a softmax."""
    inputs = keras.Input((SIDE, SIDE, 3), name="picture")
    hidden = _activated(keras.layers.Conv2D(24, 2, use_bias=False)(inputs))
    for width in WIDTHS:
        hidden = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(hidden)
        hidden = _activated(keras.layers.MaxPooling2D()(hidden))
        residual = _activated(keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(hidden))
        hidden = keras.layers.Add()([hidden, residual])
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="class")(hidden)
    return keras.Model(inputs, outputs, name="photos10")


def _activated(hidden: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Activation("relu")(keras.layers.BatchNormalization(momentum=0.95)(hidden))


def as_input(pixels: Any) -> Any:  # noqa: ANN401 - uint8 of NumPy or of TensorFlow
    """Normalise uint8 (N, 32, 32, 3) as `torch` of model.toml does."""
    return keras.applications.imagenet_utils.preprocess_input(keras.ops.cast(pixels, "float32"), mode="torch")


def train(
    pictures: Pictures, photographs: Pictures, cycles: Sequence[Cycle], *, seed: int, checkpoint: Path
) -> Any:  # noqa: ANN401
    """Train a new network on the pictures and their photographs; return it, not compiled.

    It goes on from the last whole epoch that an interrupted run left in `checkpoint`, which goes at the end.
    """
    keras.utils.set_random_seed(seed)
    model = network()
    for number, cycle in enumerate(cycles):
        learnt = checkpoint / f"cycle-{number}.weights.h5"
        if not learnt.exists():
            print(f"cycle {number + 1} of {len(cycles)}", flush=True)
            lots = _augmented(pictures, photographs, cycle, seed + 10 * number)
            steps = lots.cardinality().numpy() * cycle.epochs
            model.compile(_optimizer(cycle.peak, steps), _LOSS, metrics=["accuracy"])
            resume = keras.callbacks.BackupAndRestore(checkpoint / f"cycle-{number}", double_checkpoint=True)
            model.fit(lots, epochs=cycle.epochs, shuffle=False, callbacks=[resume])
            model = _without_optimizer(model)
            model.save_weights(learnt)
        model.load_weights(learnt)
    shutil.rmtree(checkpoint)
    return model


def _optimizer(peak: float, steps: int) -> Any:  # noqa: ANN401
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=peak, warmup_steps=max(1, steps // 6)
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def _augmented(pictures: Pictures, photographs: Pictures, cycle: Cycle, seed: int) -> Any:  # noqa: ANN401 - a tf.data.Dataset
    """Batches, in an order of their own each epoch."""
    pixels = tf.constant(np.concatenate([pictures.pixels, photographs.pixels]))
    labels = tf.one_hot(np.concatenate([pictures.labels, photographs.labels]), CLASSES)
    augmentation = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=seed),
            keras.layers.RandomTranslation(cycle.moved, cycle.moved, "reflect", "nearest", seed=seed + 1),
            keras.layers.RandomErasing((cycle.erased, cycle.erased), (0.05, 0.25), 0.0, seed=seed + 3),
        ]
    )
    own, taken = len(pictures), int(len(photographs) * cycle.share)
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


def _without_optimizer(model: Any) -> Any:  # noqa: ANN401
    plain = network()
    plain.set_weights(model.get_weights())
    return plain


def both_ways(model: Any) -> Any:  # noqa: ANN401
    """Return the network that looks at a picture and at its mirror image, and goes by the mean of both.

    It has the same weights and twice the work.
    """
    features = keras.Model(model.input, model.layers[-2].output, name="features")
    inputs = keras.Input((SIDE, SIDE, 3), name="picture")
    mean = keras.layers.Average()([features(inputs), features(keras.ops.flip(inputs, axis=2))])
    return keras.Model(inputs, model.layers[-1](mean), name="photos10")


def confusion(model: keras.Model, pictures: Pictures) -> NDArray[np.int64]:
    """Return how many pictures of each class (row) `model` gives each class (column)."""
    found = [
        model(as_input(pictures.pixels[at : at + 500]), training=False).numpy().argmax(axis=1)
        for at in range(0, len(pictures), 500)
    ]
    counts = tf.math.confusion_matrix(pictures.labels, np.concatenate(found), CLASSES)
    return np.asarray(counts, np.int64)


def read(path: Path) -> tuple[tuple[str, ...], Pictures, Pictures]:
    """Return the classes, the training and the test pictures of CIFAR-10 as labelled folders.

    Raises FolderError.
    """
    root = labelled.opened(path)
    parts = []
    for part in ("train", "test"):
        classes, files = labelled.files_of(root / part)
        if len(classes) != CLASSES:
            raise FolderError(f"{path}: {part} holds {len(classes)} folders, not {CLASSES}")
        found = labelled.read(files, INPUT)
        if found.skipped:
            raise FolderError(f"{found.skipped[0].file.name}: {found.skipped[0].reason}")
        parts.append(found.pictures)
    return classes, parts[0], parts[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the accuracies on CIFAR-10's test pictures and save the network."""
    options = _parser().parse_args(arguments)
    try:
        classes, train_pictures, test_pictures = read(options.data)
    except FolderError as error:
        sys.exit(f"{error}.")
    print(f"{len(train_pictures)} pictures to learn from, {len(test_pictures)} to test with", flush=True)
    # Spawned, for a fork would take TensorFlow's threads' locks along.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as executor:
        photographs = _photographs(train_pictures, options.seed, executor)
        test_photographs = _photographs(test_pictures, 10**6, executor)
    print("the photographs are ready", flush=True)
    cycles = [replace(cycle, epochs=options.epochs or cycle.epochs) for cycle in CYCLES]
    model = train(train_pictures, photographs, cycles, seed=options.seed, checkpoint=options.checkpoint)
    print(f"test accuracy, one way: {_accuracy(confusion(model, test_pictures)):.2%}")
    model = both_ways(model)
    _report(model, classes, test_pictures, test_photographs)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "photos10.keras"
    model.save(path)
    print(f"saved {path} ({path.stat().st_size / 1000:.0f} kB)")


def _photographs(pictures: Pictures, seed: int, executor: Executor) -> Pictures:
    return Pictures(photographed(pictures.pixels, seed, executor), pictures.labels)


def _report(model: keras.Model, classes: Sequence[str], test: Pictures, photographs: Pictures) -> None:
    matrix = confusion(model, test)
    print(f"test accuracy: {_accuracy(matrix):.2%}; of each class (row), named as:")
    print(" " * 10 + "".join(f"{name[:6]:>7}" for name in classes))
    for name, row in zip(classes, matrix.tolist(), strict=True):
        print(f"{name:10}" + "".join(f"{count:7}" for count in row))
    print(f"test accuracy, as large photographs: {_accuracy(confusion(model, photographs)):.2%}")


def _accuracy(matrix: NDArray[np.int64]) -> float:
    return float(matrix.trace() / matrix.sum())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.photos10", description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg, or a .zip"
    )
    parser.add_argument("--out", type=Path, default=Path("models/photos10"), help="the folder to save in")
    parser.add_argument("--epochs", type=int, help="of each cycle, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("var/training/photos10"),
        help="where an interrupted run leaves what it has learnt",
    )
    return parser


if __name__ == "__main__":
    main()
