"""Batch sizes for engines that compile once for each shape: powers of two, and padding up to them.

Owns the sizes and the padding. Pure: knows no engine.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_server.engines.engine import Outputs


def sizes(batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... and batch_size itself: few compilations, and at most half of a batch is padding."""
    powers = [1 << power for power in range(batch_size.bit_length()) if 1 << power < batch_size]
    return (*powers, batch_size)


def run(
    batch: NDArray[np.uint8], buckets: Sequence[int], predict: Callable[[NDArray[np.uint8]], Outputs]
) -> Outputs:
    """Run (N, ...), padded with zeros to the smallest bucket that holds it, or in several calls."""
    largest = buckets[-1]
    if len(batch) > largest:
        parts = [run(batch[at : at + largest], buckets, predict) for at in range(0, len(batch), largest)]
        return tuple(np.concatenate(output) for output in zip(*parts, strict=True))
    size = next(bucket for bucket in buckets if bucket >= len(batch))
    if size == len(batch):
        return predict(batch)
    padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
    padded[: len(batch)] = batch
    return tuple(output[: len(batch)] for output in predict(padded))
