"""The places among those that decode go to who has waited the longest."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

from tests.support.waiting import eventually
from web.fair_semaphore import FairSemaphore


def _has_waiting(semaphore: FairSemaphore, count: int) -> bool:
    return len(semaphore) == count


def _is_free(semaphore: FairSemaphore) -> bool:
    with semaphore.place(timeout_s=0) as is_given:
        return is_given


def test_places_are_given_in_the_order_of_coming() -> None:
    semaphore, order = FairSemaphore(1), []

    def take(number: int) -> None:
        with semaphore.place(timeout_s=10) as is_given:
            assert is_given
            order.append(number)

    with ThreadPoolExecutor(8) as threads, semaphore.place(timeout_s=0):
        for number in range(8):
            threads.submit(take, number)
            eventually(partial(_has_waiting, semaphore, number + 1))
    assert order == list(range(8))


def test_owners_take_turns_whatever_one_of_them_has_waiting() -> None:
    semaphore, order = FairSemaphore(1), []

    def take(owner: str) -> None:
        with semaphore.place(timeout_s=10, owner=owner) as is_given:
            assert is_given
            order.append(owner)

    with ThreadPoolExecutor(7) as threads, semaphore.place(timeout_s=0):
        for number, owner in enumerate(["ann"] * 4 + ["bob", "bob", ""]):
            threads.submit(take, owner)
            eventually(partial(_has_waiting, semaphore, number + 1))
        with semaphore.place(timeout_s=0, owner="cid") as is_given:
            assert not is_given  # and is not listed any more
    assert order == ["ann", "bob", "", "ann", "bob", "ann", "ann"]


def test_a_newcomer_stands_behind_those_who_wait() -> None:
    semaphore, may_end = FairSemaphore(1), threading.Event()

    def hold() -> None:
        with semaphore.place(timeout_s=10):
            may_end.wait(10)

    thread = threading.Thread(target=hold)
    with semaphore.place(timeout_s=0):
        thread.start()
        eventually(lambda: len(semaphore) == 1)
    assert not _is_free(semaphore)  # it is the thread's from now on, though that may not run yet
    may_end.set()
    thread.join()
    assert _is_free(semaphore)


def test_who_gave_up_waiting_takes_no_place() -> None:
    semaphore = FairSemaphore(1)
    with semaphore.place(timeout_s=0):
        with semaphore.place(timeout_s=0.01) as is_given:
            assert not is_given
        assert len(semaphore) == 0
    assert _is_free(semaphore)


def test_there_are_so_many_places_and_each_is_given_up_whatever_happens() -> None:
    semaphore = FairSemaphore(3)
    for _ in range(2):
        with suppress(ValueError), ExitStack() as held:
            given = [held.enter_context(semaphore.place(timeout_s=0)) for _ in range(4)]
            assert given == [True, True, True, False]
            raise ValueError
