"""The places among those that decode go to who has waited the longest."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.support.waiting import eventually
from web.fair_semaphore import FairSemaphore


def _has_waiting(semaphore: FairSemaphore, count: int) -> bool:
    return len(semaphore) == count


def test_places_are_given_in_the_order_of_coming() -> None:
    semaphore, order = FairSemaphore(1), []

    def take(number: int) -> None:
        assert semaphore.acquire(timeout_s=10)
        order.append(number)
        semaphore.release()

    assert semaphore.acquire(timeout_s=0)
    with ThreadPoolExecutor(8) as threads:
        for number in range(8):
            threads.submit(take, number)
            eventually(partial(_has_waiting, semaphore, number + 1))
        semaphore.release()
    assert order == list(range(8))


def test_owners_take_turns_whatever_one_of_them_has_waiting() -> None:
    semaphore, order = FairSemaphore(1), []

    def take(owner: str) -> None:
        assert semaphore.acquire(timeout_s=10, owner=owner)
        order.append(owner)
        semaphore.release()

    assert semaphore.acquire(timeout_s=0)
    with ThreadPoolExecutor(7) as threads:
        for number, owner in enumerate(["ann"] * 4 + ["bob", "bob", ""]):
            threads.submit(take, owner)
            eventually(partial(_has_waiting, semaphore, number + 1))
        assert not semaphore.acquire(timeout_s=0, owner="cid")  # and is not listed any more
        semaphore.release()
    assert order == ["ann", "bob", "", "ann", "bob", "ann", "ann"]


def test_a_newcomer_stands_behind_those_who_wait() -> None:
    semaphore = FairSemaphore(1)
    assert semaphore.acquire(timeout_s=0)
    first = threading.Thread(target=semaphore.acquire, kwargs={"timeout_s": 10})
    first.start()
    eventually(lambda: len(semaphore) == 1)
    semaphore.release()  # it is the thread's from now on, though that may not run yet
    assert not semaphore.acquire(timeout_s=0)
    first.join()
    semaphore.release()
    assert semaphore.acquire(timeout_s=0)


def test_who_gave_up_waiting_takes_no_place() -> None:
    semaphore = FairSemaphore(1)
    assert semaphore.acquire(timeout_s=0)
    assert not semaphore.acquire(timeout_s=0.01)
    assert len(semaphore) == 0
    semaphore.release()
    assert semaphore.acquire(timeout_s=0)


def test_there_are_so_many_places() -> None:
    semaphore = FairSemaphore(3)
    assert [semaphore.acquire(timeout_s=0) for _ in range(4)] == [True, True, True, False]
