"""Many requests, and the slope of every process' resident memory over them once it is warm.

Owns that one campaign.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tests.chaos import numbers
from tests.chaos.overload import send
from tests.chaos.stack import ChaosStack
from tests.chaos.watch import Watch
from tests.support.redis_server import RedisServer

_CLIENTS: Final = 32
WARM: Final = 0.4
"""The share of the run that is not counted: allocators fill their pools, threads their stacks."""


@dataclass(frozen=True)
class Account:
    """Memory over a run."""

    requests: int
    right: int
    memory_mb: dict[str, tuple[float, float]]
    """Of each kind of process: when it was warm, and at the end."""
    slope_kb: dict[str, float]
    """Least squares, kilobytes a thousand requests, once warm."""


def run(*, requests: int, folder: Path, redis: RedisServer) -> Account:
    """Send so many requests, from 32 clients."""
    labels = numbers.write_pictures(folder / "pictures", range(min(requests, numbers.COUNT)))
    stack = ChaosStack(folder, redis, seed=1, batch_s=0.0)
    try:
        stack.begin()
        watch = Watch(stack, redis)
        load = ["--concurrency", str(_CLIENTS), "--requests", str(requests), "--warmup", "0"]
        figures = send(stack, folder, labels, "memory", *load)
        watch.stop()
    finally:
        stack.stop()
    seen = watch.seen[int(len(watch.seen) * WARM) :]
    every = requests / len(watch.seen)
    at = np.arange(len(seen)) * every / 1000
    kinds = seen[0].keys()
    return Account(
        requests=requests,
        right=figures["right"],
        memory_mb={kind: (seen[0][kind], seen[-1][kind]) for kind in kinds},
        slope_kb={kind: float(np.polyfit(at, [each[kind] for each in seen], 1)[0]) * 1024 for kind in kinds},
    )
