"""BentoML in its one-service layout: adaptive batching in the process that answers.

Owns the service. A batchable route takes a list of pictures; those of a batch are decoded side by side.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from benchmarks.serving import decode, engine


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classifier:
    """The network behind POST /predict, a form with files `images`."""

    def __init__(self) -> None:
        self._predict = engine.from_environment()
        self._pool = ThreadPoolExecutor(os.cpu_count())

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def predict(self, images: list[Image]) -> list[dict[str, Any]]:
        """Answer a batch."""
        batch = np.stack(list(self._pool.map(decode.fitted, images)))
        return [decode.answer(row) for row in self._predict(batch)]
