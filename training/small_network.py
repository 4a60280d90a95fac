"""The network of `python -m training photos10`, and the weights that it begins with.

Owns its layers, the whitening that its first layer does and the identity that the others begin as, all after
K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024, arXiv:2404.00498), narrower. It must not
hold a normalisation or an augmentation: serving has the first, training the second.
"""

import zipfile
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

SIDE: Final = 32
CLASSES: Final = 10
WIDTHS: Final = (64, 192, 224)
"""Filters of each block: 1,337,120 parameters, 2.3 MB as `save` leaves them."""

_LOGITS: Final = 1 / 9
_PATCH: Final = 2
_WHITENED: Final = 24
"""Filters of the first layer: each direction of a patch of 2 x 2 pixels in three colours, both ways."""

# To the variance of each direction, so that what a picture hardly varies in, its noise, stays small.
_EPSILON: Final = 5e-4


def network(precision: str = "float32", *, learning: bool = False) -> keras.Model:
    """Return the untrained network: float32 (N, 32, 32, 3), normalised, to float32 (N, 10), a softmax.

    It computes in `precision`, a policy of Keras; its weights are float32. `learning` has the logits small,
    so that no picture is answered for sure before there is reason to; `plain` has that in its last weights.
    """
    inputs = keras.Input((SIDE, SIDE, 3), name="picture")
    whitening = keras.layers.Conv2D(_WHITENED, _PATCH, use_bias=False, trainable=False, dtype=precision)
    hidden = keras.layers.Activation("gelu", dtype=precision)(whitening(inputs))
    for width in WIDTHS:
        hidden = _convolution(width, precision)(hidden)
        hidden = _activated(keras.layers.MaxPooling2D(dtype=precision)(hidden), precision)
        hidden = _activated(_convolution(width, precision)(hidden), precision)
    hidden = keras.layers.GlobalMaxPooling2D(dtype=precision)(hidden)
    if learning:
        hidden = keras.layers.Rescaling(_LOGITS, dtype="float32")(hidden)
    outputs = keras.layers.Dense(
        CLASSES, use_bias=False, activation="softmax", dtype="float32", name="class"
    )(hidden)
    return keras.Model(inputs, outputs, name="photos10")


def _convolution(width: int, precision: str) -> keras.layers.Layer:
    begun = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return keras.layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer=begun, dtype=precision
    )


def _activated(hidden: keras.KerasTensor, precision: str) -> keras.KerasTensor:
    normalised = keras.layers.BatchNormalization(momentum=0.9, scale=False, dtype=precision)(hidden)
    return keras.layers.Activation("gelu", dtype=precision)(normalised)


def begin(model: keras.Model, pictures: NDArray[np.float32]) -> None:
    """Give `model` its first weights: the whitening of normalised (N, 32, 32, 3) pictures; identities."""
    first, *others = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    first.set_weights([whitening(pictures)])
    for layer in others:
        (kernel,) = layer.get_weights()
        layer.set_weights([with_identity(kernel)])


def whitening(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (2, 2, 3, 24) kernel that makes patches of `pictures` uncorrelated, of a variance near one.

    The eigenvectors of the patches' covariance, each over the root of its eigenvalue; and their negatives,
    for an activation lets only one side of each through.
    """
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (_PATCH, _PATCH), axis=(1, 2))
    patches = windows.reshape(-1, 3 * _PATCH**2).astype(np.float64)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (
        (directions / np.sqrt(variances + _EPSILON)).reshape(3, _PATCH, _PATCH, -1).transpose(1, 2, 0, 3)
    )
    return np.concatenate([filters, -filters], axis=-1).astype(np.float32)


def with_identity(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (height, width, in, out) kernel, its first filters passing on a channel each, unchanged."""
    height, width, channels, filters = kernel.shape
    passed = min(channels, filters)
    changed = kernel.copy()
    changed[..., :passed] = 0
    changed[height // 2, width // 2, range(passed), range(passed)] = 1
    return changed


def plain(model: keras.Model) -> keras.Model:
    """Return what a `learning` network has learnt, in float32, of stock layers, without an optimizer."""
    served = network()
    *weights, last = model.get_weights()
    served.set_weights([*weights, last * np.float32(_LOGITS)])
    return served


def both_ways(model: Any) -> Any:  # noqa: ANN401
    """Return the network that looks at a picture and at its mirror image, and goes by the mean of both.

    It has the same weights and twice the work.
    """
    features = keras.Model(model.input, model.layers[-2].output, name="features")
    inputs = keras.Input((SIDE, SIDE, 3), name="picture")
    mean = keras.layers.Average()([features(inputs), features(keras.ops.flip(inputs, axis=2))])
    return keras.Model(inputs, model.layers[-1](mean), name="photos10")


def rounded(model: keras.Model) -> None:
    """Round its kernels to bfloat16, in which they are served anyway: half of their bytes are zeros then."""
    model.set_weights(
        [
            keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(weights, "bfloat16"), "float32"))
            if weights.ndim > 1
            else weights
            for weights in model.get_weights()
        ]
    )


def save(model: keras.Model, path: Path) -> None:
    """Write `model` as a .keras file, deflated: Keras leaves its archive as large as the weights are."""
    loose = path.with_name(f".{path.stem}.part.keras")
    model.save(loose)
    tight = loose.with_suffix(".zip")
    with (
        zipfile.ZipFile(loose) as read,
        zipfile.ZipFile(tight, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file,
    ):
        for entry in read.infolist():
            file.writestr(entry.filename, read.read(entry))
    loose.unlink()
    tight.replace(path)
