"""Every hostile upload, one after the other, then hundreds of slow clients at once: what each is answered.

Owns that campaign and its figures. The cases are tests/e2e/hostile_cases.py's.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.crowd import KINDS, crowd
from tests.e2e.hostile_cases import CASES, GOOD, Answer, Case
from tests.e2e.hostile_stack import Hostile
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Account:
    """Good pictures, one after the other, while the crowd is there; a web process before and after it."""

    slow_clients: dict[str, int]
    good_pictures: int
    right: int
    median_ms: float
    slowest_ms: float
    files: tuple[int, int]
    threads: tuple[int, int]
    memory_mb: tuple[float, float]
    keys_left: int


@dataclass(frozen=True)
class Found:
    """Each case with its answer, how many good pictures were refused between them, the crowd's account."""

    answers: list[tuple[Case, Answer]]
    good_refused: int
    crowd: Account

    @property
    def sound(self) -> bool:
        """Whether all was as it should be."""
        right = all((a.status, a.told, a.problem) == (c.status, c.told, "") for c, a in self.answers)
        return right and not self.good_refused and self.crowd.right == self.crowd.good_pictures


def run(*, seconds: float, folder: Path, redis: RedisServer) -> Found:
    """Send each case, a good picture after it; then press with the crowd for so long."""
    hostile = Hostile(folder, redis)
    try:
        hostile.begin()
        answers, good_refused = [], 0
        for case in CASES:
            answers.append((case, hostile.talk(case)))
            good_refused += hostile.talk(GOOD).told != GOOD.told
        return Found(answers, good_refused, _under_the_crowd(hostile, seconds))
    finally:
        hostile.stop()


def _under_the_crowd(hostile: Hostile, seconds: float) -> Account:
    hostile.warm_up()
    keys, before = hostile.keys(), _size(hostile)
    good: list[Answer] = []
    with crowd(("127.0.0.1", hostile.port)):
        eventually(lambda: _size(hostile)[0] > before[0] + 300)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            good.append(hostile.talk(GOOD))
    eventually(lambda: _size(hostile)[0] <= before[0] + 8, within_s=60)
    eventually(lambda: not any(":result:" in key for key in hostile.keys()))
    after = _size(hostile)
    return Account(
        slow_clients=KINDS,
        good_pictures=len(good),
        right=sum(each.told == GOOD.told for each in good),
        median_ms=statistics.median(each.after_ms for each in good),
        slowest_ms=max(each.after_ms for each in good),
        files=(before[0], after[0]),
        threads=(before[1], after[1]),
        memory_mb=(before[2], after[2]),
        keys_left=len(hostile.keys() - keys),
    )


def _size(hostile: Hostile) -> tuple[int, int, float]:
    """Open files, threads, resident megabytes of the web process."""
    process = hostile.process
    return process.num_fds(), process.num_threads(), process.memory_info().rss / 2**20
