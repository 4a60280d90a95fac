"""The old pattern's model half: `python -m benchmarks.serving.peers.old_model published|engine`.

Owns the endless loop. `published` calls Keras' `model.predict`, as the pattern does; `engine` the others'
network.
"""

import os
import sys
import time
from collections.abc import Callable

import numpy as np
import redis

from benchmarks.serving import engine, old_pattern
from benchmarks.serving.old_pattern import Floats


def published() -> Callable[[Floats], Floats]:
    """ResNet50 with random weights, called as the pattern calls it."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import keras  # noqa: PLC0415 - seconds long, and the other engine's environment has none

    network = keras.applications.ResNet50(weights=None)

    def predict(batch: Floats) -> Floats:
        found: Floats = network.predict(keras.applications.resnet50.preprocess_input(batch), verbose=0)
        return found

    predict(np.zeros((1, *old_pattern.SHAPE), np.float32))
    return predict


def shared() -> Callable[[Floats], Floats]:
    """The network of all others, which takes uint8."""
    run = engine.from_environment()
    return lambda batch: run(batch.astype(np.uint8))


if __name__ == "__main__":
    network = published() if sys.argv[1] == "published" else shared()
    db = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    while True:
        old_pattern.serve_once(db, network)
        time.sleep(old_pattern.SLEEP_S)
