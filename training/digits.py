"""Trains the bundled classifier of handwritten digits: python -m training digits.

Owns the network and how it is trained; the pictures come from training.pictures. What it saves holds
only stock Keras layers and no optimizer, takes float32 (N, 28, 28, 1) in 0..1 and ends in softmax over
ten classes. It must not hold a rescaling or an augmentation: serving has the first, training the second.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from training.pictures import CLASSES, SIDE, Digits, as_served, checked, photographed, read_npz, redrawn

BATCH: Final = 128
LEARNING_RATE: Final = 2e-3  # its peak, after a warm-up; from there it falls to 0 along a cosine
# Each picture is seen as it is once an epoch, and redrawn in this many ways.
COPIES: Final = 4
EPOCHS: Final = 4


def network() -> keras.Model:
    """Return the untrained network: float32 (N, 28, 28, 1) in 0..1 to float32 (N, 10), a softmax."""
    inputs = keras.Input((SIDE, SIDE, 1), name="picture")
    hidden = _convolved(inputs, 24, padding="same")
    hidden = keras.layers.MaxPooling2D()(_convolved(hidden, 24))
    hidden = _convolved(hidden, 48, padding="same")
    hidden = keras.layers.MaxPooling2D()(_convolved(hidden, 48, padding="same"))
    hidden = _convolved(hidden, 64)
    hidden = keras.layers.Dropout(0.3)(keras.layers.Flatten()(hidden))
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="digit")(hidden)
    return keras.Model(inputs, outputs, name="digits")


def _convolved(hidden: keras.KerasTensor, filters: int, *, padding: str = "valid") -> keras.KerasTensor:
    hidden = keras.layers.Conv2D(filters, 3, padding=padding, use_bias=False)(hidden)
    return keras.layers.Activation("relu")(keras.layers.BatchNormalization()(hidden))


def as_input(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale uint8 (N, 28, 28) to what the network takes: float32 (N, 28, 28, 1) in 0..1."""
    return pictures[..., np.newaxis].astype(np.float32) / np.float32(255)


def train(digits: Digits, *, copies: int, epochs: int, seed: int, executor: Executor) -> keras.Model:
    """Train a new network on `digits` as served and `copies` redrawn copies of each; return it, not compiled.

    One epoch passes over all of them. The same seed gives the same pictures, order and first weights.
    """
    keras.utils.set_random_seed(seed)
    lots = [as_served(digits.pictures)]
    for copy in range(copies):
        lots.append(redrawn(digits.pictures, seed * 1000 + copy, executor))
        print(f"redrawn copy {copy + 1} of {copies} is ready", flush=True)
    pictures = as_input(np.concatenate(lots))
    labels = np.tile(digits.labels, copies + 1)
    steps = -(-len(pictures) // BATCH) * epochs
    model = network()
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 10, steps, warmup_target=LEARNING_RATE, warmup_steps=max(1, steps // 20)
    )
    optimizer = keras.optimizers.Adam(rate)
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=[accuracy])
    optimizer.build(model.trainable_variables)  # so TensorFlow traces the first step once, not twice
    model.fit(pictures, labels, batch_size=BATCH, epochs=epochs)
    return _without_optimizer(model)


def _without_optimizer(model: keras.Model) -> keras.Model:
    plain = network()
    plain.set_weights(model.get_weights())
    return plain


def accuracy(model: keras.Model, digits: Digits) -> float:
    """Return the share of `digits`, already fitted as in serving, that `model` names rightly."""
    shares = model.predict(as_input(digits.pictures), batch_size=1000, verbose=0)
    return float((shares.argmax(axis=1) == digits.labels).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the accuracies on MNIST's test digits and save the network."""
    options = _parser().parse_args(arguments)
    try:
        train_digits, test_digits = read_npz(options.data) if options.data else _downloaded()
    except ValueError as error:
        sys.exit(str(error))
    # Spawned, for a fork would take TensorFlow's threads' locks along.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as executor:
        model = train(
            train_digits, copies=options.copies, epochs=options.epochs, seed=options.seed, executor=executor
        )
    _report(model, test_digits)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "digits.keras"
    model.save(path)
    print(f"saved {path} ({path.stat().st_size / 1000:.0f} kB)")


def _report(model: keras.Model, digits: Digits) -> None:
    served = Digits(as_served(digits.pictures), digits.labels)
    print(f"test accuracy: {accuracy(model, served):.2%}")
    on_paper = Digits(photographed(digits.pictures, seed=1), digits.labels)
    print(f"test accuracy, drawn on paper of any size: {accuracy(model, on_paper):.2%}")


def _downloaded() -> tuple[Digits, Digits]:
    train_arrays, test_arrays = keras.datasets.mnist.load_data()
    origin = "keras.datasets.mnist"
    return checked(*train_arrays, origin=origin), checked(*test_arrays, origin=origin)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training digits", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="an .npz with MNIST; without it, Keras downloads MNIST")
    parser.add_argument("--out", type=Path, default=Path("models/digits"), help="the folder to save in")
    parser.add_argument("--copies", type=int, default=COPIES, help="redrawn copies of each digit")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the digits and their copies")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
