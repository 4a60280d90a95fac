"""Pixels by shared memory, as the benchmark has them: what is compared does the same work."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import same_host
from broker import codec
from tests.support import fakes


@pytest.mark.parametrize("mode", ["files", "slots"])
def test_pixels_come_back_by_shared_memory_and_are_not_in_the_job(tmp_path: Path, mode: str) -> None:
    encode, decode = same_host.ways(mode, tmp_path, size=28 * 28)
    jobs = [fakes.job(value=value, shape=(28, 28, 1)) for value in (3, 200)]
    payloads = [encode(job) for job in jobs]
    for job, payload in zip(jobs, payloads, strict=True):
        assert len(payload) < len(codec.encode_job(job)) - 28 * 28
        assert payload[codec.ID_START :].startswith(job.id.encode())
        read = decode(payload)
        assert (read.id, read.image.shape) == (job.id, job.image.shape)
        assert np.array_equal(read.image, job.image)


def test_what_is_saved_is_of_the_same_round() -> None:
    """A slow machine in one round says nothing of the way that was measured in another."""
    rows = [
        {
            "case": "x",
            "mode": mode,
            **dict.fromkeys(("web", "redis", "model", "p50", "p95"), 1.0),
            "all": spent,
        }
        for slow in (1, 5, 2)
        for mode, spent in (("redis", 10.0 * slow), ("files", 8.0 * slow), ("slots", 5.0 * slow))
    ]
    text = same_host.report(rows)
    assert [line.split()[-1] for line in text.splitlines() if "saves" in line] == ["20%", "50%"]
