"""Batch sizes for engines that compile once a shape, and the padding up to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_server.engines import batch_sizes
from model_server.engines.engine import Outputs


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, (1,)), (2, (1, 2)), (32, (1, 2, 4, 8, 16, 32)), (20, (1, 2, 4, 8, 16, 20))]
)
def test_the_sizes_are_powers_of_two_and_the_largest_batch(batch_size: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes.sizes(batch_size) == sizes


@given(rows=st.integers(1, 50), batch_size=st.integers(1, 20))
def test_each_picture_gets_its_own_row_and_only_buckets_are_run(rows: int, batch_size: int) -> None:
    ran = []

    def predict(batch: NDArray[np.uint8]) -> Outputs:
        ran.append(len(batch))
        return batch[:, 0].astype(np.float32), batch.astype(np.float32)

    batch = np.arange(rows * 3, dtype=np.uint8).reshape(rows, 3)
    first, second = batch_sizes.run(batch, batch_sizes.sizes(batch_size), predict)
    assert first.tolist() == batch[:, 0].tolist()
    assert second.tolist() == batch.tolist()
    assert set(ran) <= set(batch_sizes.sizes(batch_size))
    assert sum(ran) < 2 * rows
