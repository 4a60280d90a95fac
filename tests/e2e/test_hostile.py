"""Hostile and broken requests against real processes: each has its own answer, and nothing stays behind."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.crowd import crowd
from tests.e2e.hostile_cases import CASES, GOOD, Answer, Case
from tests.e2e.hostile_stack import Hostile
from tests.support.redis_server import running_redis
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """One service for all of them: it must bear each after the others."""
    with running_redis() as redis:
        made = Hostile(tmp_path_factory.mktemp("hostile"), redis)
        try:
            made.begin()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def answers(hostile: Hostile) -> dict[str, Answer]:
    """The answers to all cases; eight at a time, for some take seconds."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip([case.name for case in CASES], pool.map(hostile.talk, CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_gets_its_own_answer(answers: dict[str, Answer], case: Case) -> None:
    answer = answers[case.name]
    assert (answer.status, answer.told, answer.problem) == (case.status, case.told, "")


def test_after_all_of_them_a_good_picture_is_answered(hostile: Hostile, answers: dict[str, Answer]) -> None:
    assert len(answers) == len(CASES)
    assert hostile.talk(GOOD).told == GOOD.told


def test_hundreds_of_slow_clients_keep_nobody_from_an_answer_and_leave_nothing(hostile: Hostile) -> None:
    hostile.warm_up()
    keys, files = hostile.keys(), hostile.process.num_fds()
    with crowd(("127.0.0.1", hostile.port)):
        eventually(lambda: hostile.process.num_fds() > files + 300)
        until = time.monotonic() + 8  # past the bounds on heads and bodies
        slowest_ms = 0.0
        while time.monotonic() < until:
            answer = hostile.talk(GOOD)
            assert answer.told == GOOD.told
            slowest_ms = max(slowest_ms, answer.after_ms)
    # Alone it takes some ten; a thread held by a slow client would cost seconds, all of them the answer.
    assert slowest_ms < 8000
    eventually(lambda: hostile.process.num_fds() <= files + 8, within_s=60)
    eventually(lambda: hostile.keys() == keys, within_s=30)
    assert hostile.process.num_threads() <= 32 + 8
    assert hostile.process.is_running()
