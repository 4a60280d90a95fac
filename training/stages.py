"""How a retrained network learns: a new head on the frozen base, then, where wanted, all of it.

Owns both stages, their schedules and what is kept of them. Pictures come as uint8 and are normalised here
as the served graph does it. Keras does the rest: the loop, the bar, the stopping, the augmentation.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from model_server.engines.normalisation import ChannelNumbers
from training.bases import Base
from training.labelled_folder import LabelledPictures
from training.splits import Division

HEAD_RATE: Final = 3e-3
FROM_SCRATCH_RATE: Final = 1e-3
FINE_TUNING_RATE: Final = 1e-5
"""A hundredth of that: what the base has learnt is to be bent, not forgotten."""
PATIENCE: Final = 10
"""Epochs without a better validation, after which a stage stops; the best epoch's weights come back."""
_DROPOUT: Final = 0.2
_MOMENTUM: Final = 0.9
_LOSS: Final = "sparse_categorical_crossentropy"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long to learn, and in what portions."""

    epochs: int
    """At most, of the head, or of everything where there are no weights to start from."""
    fine_tune: int
    """At most, of everything after the head; 0: not at all."""
    batch: int
    seed: int


class Batches(keras.utils.PyDataset):  # type: ignore[misc] # Keras ships no types
    """Some rows of the pictures, normalised, with their labels; shuffled again each epoch if asked."""

    def __init__(
        self,
        pictures: LabelledPictures,
        rows: NDArray[np.int64],
        numbers: ChannelNumbers,
        batch: int,
        *,
        shuffled_by: int | None = None,
    ) -> None:
        super().__init__(workers=2)
        self._pictures, self._rows, self._numbers, self._batch = pictures, rows.copy(), numbers, batch
        self._rng = None if shuffled_by is None else np.random.default_rng(shuffled_by)
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self._batch)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows = self._rows[index * self._batch : (index + 1) * self._batch]
        return self._numbers(self._pictures.pixels[rows]), self._pictures.labels[rows]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        if self._rng is not None:
            self._rng.shuffle(self._rows)


class Learner:
    """The base with a new head, its pictures, and the two stages of learning."""

    def __init__(
        self, base: Base, pictures: LabelledPictures, classes: int, division: Division, plan: TrainingPlan
    ) -> None:
        self._base, self._pictures, self._plan = base, pictures, plan
        self._training, self._validation = division.training, division.validation
        self._weights = class_weights(pictures.labels[self._training], classes)
        dense = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="class_probabilities")
        self._head = [keras.layers.Dropout(_DROPOUT, seed=plan.seed, name="class_dropout"), dense]
        self.network: Any = keras.Model(base.network.inputs[0], self._headed(base.network.outputs[0]))
        self.epochs = {"head": 0, "all": 0}

    def _headed(self, hidden: Any) -> Any:  # noqa: ANN401
        for layer in self._head:
            hidden = layer(hidden)
        return hidden

    def learn_head(self) -> None:
        """Pass every picture through the base once, and train the head on what comes out."""
        features = [self._features(rows) for rows in (self._training, self._validation)]
        width = features[0].shape[1]
        inputs = keras.Input((width,))
        head = keras.Model(inputs, self._headed(inputs))
        labels = [self._pictures.labels[rows] for rows in (self._training, self._validation)]
        _compile(head, HEAD_RATE)
        history = head.fit(
            features[0],
            labels[0],
            validation_data=(features[1], labels[1]),
            batch_size=self._plan.batch,
            epochs=self._plan.epochs,
            class_weight=self._weights,
            callbacks=[_stopping()],
        )
        self.epochs["head"] = len(history.epoch)

    def _features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        batches = Batches(self._pictures, rows, self._base.taken.numbers, self._plan.batch)
        return np.asarray(self._base.network.predict(batches), np.float32)

    def learn_from_scratch(self) -> None:
        """Train the whole of a network that knows nothing.

        Its normalisation layers must gather their statistics in the few steps that there are: MobileNetV2's
        momentum of 0.999 leaves them at their first values for a thousand. Until they have, the validation
        means nothing.
        """
        for layer in self._normalisations():
            layer.momentum = min(layer.momentum, _MOMENTUM)
        epochs = self._plan.epochs
        self._learn_all(FROM_SCRATCH_RATE, epochs, stopping=_stopping(start_from_epoch=epochs // 2))

    def fine_tune(self) -> None:
        """Train the whole network, gently; where it gets worse, undo it.

        Its normalisation layers keep their statistics, which a few small batches would spoil.
        """
        for layer in self._normalisations():
            layer.trainable = False
        before, weights = self._validation_loss(), self.network.get_weights()
        self._learn_all(FINE_TUNING_RATE, self._plan.fine_tune, stopping=_stopping())
        if self._validation_loss() > before:
            print("That classified the validation pictures worse than before, so it was undone.")
            self.network.set_weights(weights)

    def _normalisations(self) -> list[Any]:
        layers = self.network._flatten_layers(include_self=False)  # of networks within it too
        return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]

    def _validation_loss(self) -> float:
        labels = self._pictures.labels[self._validation]
        losses = keras.losses.sparse_categorical_crossentropy(labels, self.outputs(self._validation))
        return float(keras.ops.mean(losses))

    def _learn_all(self, peak: float, epochs: int, stopping: Any) -> None:  # noqa: ANN401
        """Train every layer on pictures mirrored and moved at random."""
        training = self._batches(self._training, shuffled_by=self._plan.seed)
        shape = self._base.taken.input.network_shape
        learner = keras.Sequential([keras.Input(shape), *self._augmentation(), self.network])
        _compile(learner, _warmed_up(peak, len(training) * epochs))
        history = learner.fit(
            training,
            validation_data=self._batches(self._validation),
            epochs=epochs,
            class_weight=self._weights,
            callbacks=[stopping],
        )
        self.epochs["all"] = len(history.epoch)

    def _batches(self, rows: NDArray[np.int64], *, shuffled_by: int | None = None) -> Batches:
        return Batches(
            self._pictures, rows, self._base.taken.numbers, self._plan.batch, shuffled_by=shuffled_by
        )

    def _augmentation(self) -> list[Any]:
        return [
            keras.layers.RandomFlip("horizontal", seed=self._plan.seed),
            keras.layers.RandomTranslation(0.1, 0.1, "reflect", "nearest", seed=self._plan.seed + 1),
        ]

    def outputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The network's probabilities for some of the pictures."""
        return np.asarray(self.network.predict(self._batches(rows), verbose=0), np.float32)


def class_weights(labels: NDArray[np.int64], classes: int) -> dict[int, float]:
    """Return weights by which every class counts alike; their mean over the pictures is 1."""
    counts = np.bincount(labels, minlength=classes)
    return {label: len(labels) / (classes * int(count)) for label, count in enumerate(counts)}


def _compile(network: Any, rate: Any) -> None:  # noqa: ANN401
    # With its variables made now, and not within the first step, TensorFlow traces that step once, not twice.
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    network.compile(keras.optimizers.Adam(rate), _LOSS, metrics=[accuracy])
    network.optimizer.build(network.trainable_variables)


def _warmed_up(peak: float, steps: int) -> Any:  # noqa: ANN401
    """A rate that rises to `peak` and falls to 0 along a cosine."""
    return keras.optimizers.schedules.CosineDecay(
        peak / 10, steps, warmup_target=peak, warmup_steps=max(1, steps // 10)
    )


def _stopping(start_from_epoch: int = 0) -> Any:  # noqa: ANN401
    return keras.callbacks.EarlyStopping(
        monitor="val_loss",
        patience=PATIENCE,
        start_from_epoch=start_from_epoch,
        restore_best_weights=True,
        verbose=1,
    )
