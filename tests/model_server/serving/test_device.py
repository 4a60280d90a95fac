"""The device: one at a time, in the order of asking; and whether several owners' jobs run on it."""

import threading

from model_server.serving.device import SHARED_S, Device, RecentOwners
from tests.support.waiting import eventually


def test_it_is_handed_on_in_the_order_of_asking() -> None:
    device = Device()
    got: list[int] = []

    def use(number: int) -> None:
        with device:
            got.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(5)]
    with device:
        for number, thread in enumerate(threads):
            thread.start()
            eventually(lambda number=number: device.waiting == number + 1)  # type: ignore[misc]
        assert device.waiting
    # Whoever gave it back asks again at once, and is the last.
    with device:
        got.append(-1)
    for thread in threads:
        thread.join(20)
    assert got == [0, 1, 2, 3, 4, -1]
    assert not device.waiting


def test_one_at_a_time() -> None:
    device = Device()
    inside, most = 0, 0

    def use() -> None:
        nonlocal inside, most
        for _ in range(200):
            with device:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most, inside) == (1, 0)


def test_an_error_inside_gives_it_back() -> None:
    device = Device()
    try:
        with device:
            raise RuntimeError
    except RuntimeError:
        pass
    taken = threading.Event()

    def take() -> None:
        with device:
            taken.set()

    threading.Thread(target=take).start()
    assert taken.wait(20)


def test_it_is_handed_on_past_an_owner_that_keeps_it_too_long() -> None:
    device = Device(patience_s=0.2)
    holding, may_end, order = threading.Event(), threading.Event(), list[str]()

    def hang() -> None:
        with device:
            holding.set()
            may_end.wait(20)
        order.append("hung one")

    def use(name: str) -> None:
        with device:
            order.append(name)

    hung = threading.Thread(target=hang)
    hung.start()
    assert holding.wait(20)
    others = [threading.Thread(target=use, args=(name,)) for name in ("first", "second")]
    for number, thread in enumerate(others):
        thread.start()
        eventually(lambda number=number: device.waiting == number + 1 or bool(order))  # type: ignore[misc]
    for thread in others:
        thread.join(20)
    assert order == ["first", "second"]
    # It is free again, and what the hung one gives back at last is not another's.
    with device:
        may_end.set()
        hung.join(20)
        late = threading.Thread(target=use, args=("late",))
        late.start()
        eventually(lambda: device.waiting > 0)
        assert "late" not in order
    late.join(20)
    assert order == ["first", "second", "hung one", "late"]


def test_one_owner_alone_shares_with_nobody() -> None:
    for owner in ("", "ann"):
        owners = RecentOwners()
        for now in range(5):
            owners.add({owner}, now)
            assert not owners.several(now)
        assert not owners.several(2 * SHARED_S)


def test_owners_share_for_a_while_after_the_last_job_of_the_second() -> None:
    """Whichever goes on; one of them may be nobody."""
    for heavy, light in (("ann", "bob"), ("", "bob"), ("ann", "")):
        owners = RecentOwners()
        owners.add({heavy}, 0.0)
        owners.add({light}, 10.0)
        for now in range(11, 11 + round(SHARED_S)):
            owners.add({heavy}, now)
            assert owners.several(now) == (now < 10 + SHARED_S)


def test_owners_that_never_meet_do_not_share() -> None:
    owners = RecentOwners()
    owners.add({"ann"}, 0.0)
    owners.add({"bob"}, SHARED_S + 1)
    assert not owners.several(SHARED_S + 1)


def test_owners_of_one_batch_share_and_so_do_those_beside_it() -> None:
    for batch, beside in (({"ann", "bob"}, False), ({"ann"}, True)):
        owners = RecentOwners()
        owners.add(batch, 5.0, beside=beside)
        assert owners.several(5.0)
        owners.add({"ann"}, 6 + SHARED_S)
        assert not owners.several(6 + SHARED_S)
