"""Which strike a request belongs to, what its end counts as, and when all was normal again."""

import pytest

from loadtest.faults.attribution import Aftermath
from loadtest.measuring.figures import FaultAccount, OfFault, Strike
from loadtest.sending.messages import INTERRUPTED, OK, Record

REFUSED = "http 503 overloaded"
CUT = "connection lost"


def strike(fault: str, began: float, trouble: str = "") -> Strike:
    return Strike(fault, began, began + 0.5, status=0, trouble=trouble)


def account(
    strikes: list[Strike], *ends: tuple[float, float, str], begun: int | None = None, faults: str = "ab"
) -> FaultAccount:
    """Of requests (due, ended, outcome) and faults of one letter each."""
    aftermath = Aftermath()
    for number, (due, ended, outcome) in enumerate(ends):
        aftermath.add(0, Record(number, "a.jpg", "", due, ended=ended, outcome=outcome))
    return aftermath.account(list(faults), strikes, len(ends) if begun is None else begun)


def row(found: FaultAccount, fault: str) -> OfFault:
    return next(each for each in found.rows if each.fault == fault)


@pytest.mark.parametrize(
    ("due", "ended", "outcome", "fault"),
    [
        (1, 2, OK, ""),  # before any strike
        (9.9, 10.1, OK, "a"),  # under way when it came
        (11, 12, OK, "a"),  # due after it
        (11, 20.5, OK, "b"),  # under way when the second came
        (9, 30, OK, "a"),  # under way through both: slow since the first
        (9, 20.5, "timeout", "a"),
        (9, 20.5, CUT, "b"),  # a connection is cut in a moment: the second strike did it
        (9, 20.5, REFUSED, "b"),
        (20, 20.1, OK, "b"),  # due in the very moment
    ],
)
def test_a_request_belongs_to_one_strike(due: float, ended: float, outcome: str, fault: str) -> None:
    found = account([strike("b", 20), strike("a", 10)], (due, ended, outcome))
    assert {each.fault: each.requests for each in found.rows} == {"": 0, "a": 0, "b": 0} | {fault: 1}


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        (OK, "right"),
        (REFUSED, "refused"),
        ("http 503 broker_unavailable", "refused"),
        ("http 503", "lost"),  # it says no reason
        ("http 500 internal", "lost"),
        ("http 504 timeout", "lost"),
        ("timeout", "lost"),
        (CUT, "cut"),
        ("connection refused", "cut"),
        ("wrong label", "wrong"),
        ("label changed", "wrong"),
        ("duplicate id", "wrong"),
        ("bad answer: not JSON", "wrong"),
    ],
)
def test_every_outcome_is_of_one_kind(outcome: str, counted: str) -> None:
    found = row(account([strike("a", 10)], (11, 12, outcome)), "a")
    counts = {name: getattr(found, name) for name in ("right", "refused", "cut", "lost", "wrong")}
    assert counts == dict.fromkeys(counts, 0) | {counted: 1}


def test_sums_of_several_strikes_of_one_fault() -> None:
    strikes = [strike("a", 10), strike("b", 20), strike("a", 30, "exit status 1")]
    found = account(strikes, (9, 10.5, OK), (11, 11.2, CUT), (12, 15, OK), (21, 21.1, OK), (31, 31.5, OK))
    both = row(found, "a")
    assert (both.strikes, both.troubled, both.requests, both.right, both.cut) == (2, 1, 4, 3, 1)
    assert both.slowest_s == pytest.approx(3)  # of the right ones
    assert (row(found, "b").requests, found.requests) == (1, 5)


def test_back_to_normal_is_the_first_request_after_the_last_failure() -> None:
    ends = [(10.5, 10.6, CUT), (11, 11.1, OK), (12, 12.1, CUT), (13, 13.1, OK), (14, 14.1, OK)]
    found = row(account([strike("a", 10)], *ends), "a")
    assert found.back_s == pytest.approx(3)
    assert found.unrecovered == 0


def test_the_longest_way_back_counts() -> None:
    ends = [(10.5, 10.6, CUT), (11, 11.1, OK), (30.5, 30.6, CUT), (32, 32.1, OK), (50.5, 50.6, OK)]
    found = account([strike("a", 10), strike("a", 30), strike("a", 50)], *ends)
    assert row(found, "a").back_s == pytest.approx(2)


def test_without_a_failure_it_was_never_gone() -> None:
    assert row(account([strike("a", 10)], (11, 14, OK)), "a").back_s == 0


def test_what_was_due_before_the_strike_and_cut_by_it_is_back_at_no_negative_time() -> None:
    assert row(account([strike("a", 10)], (9, 10.1, CUT), (9.5, 11, OK)), "a").back_s == 0


def test_a_strike_without_a_request_afterwards_proves_no_way_back() -> None:
    found = row(account([strike("a", 10), strike("a", 20)], (11, 11.1, CUT), (12, 12.1, OK)), "a")
    assert found.back_s == pytest.approx(2)
    assert found.unrecovered == 1
    found = row(account([strike("a", 10)], (11, 11.1, CUT)), "a")
    assert (found.back_s, found.unrecovered) == (None, 1)


def test_what_the_user_stopped_is_in_no_row_but_has_ended() -> None:
    found = account([strike("a", 10)], (11, 12, INTERRUPTED), faults="a")
    assert (row(found, "a").requests, found.requests, found.interrupted, found.missing) == (0, 1, 1, 0)


def test_a_request_must_end_once() -> None:
    found = account([strike("a", 10)], (11, 12, OK), begun=3, faults="a")
    assert (found.missing, found.is_sound) == (2, False)
    aftermath = Aftermath()
    for point in (0, 1, 1):
        aftermath.add(point, Record(7, "a.jpg", "", 11, ended=12))
    found = aftermath.account("a", [strike("a", 10)], 2)
    assert (found.requests, found.doubled, found.missing, found.is_sound) == (2, 1, 0, False)


@pytest.mark.parametrize(
    ("outcome", "trouble", "faults", "sound"),
    [
        (OK, "", "a", True),
        (CUT, "", "a", True),
        (REFUSED, "", "a", True),
        ("timeout", "", "a", False),
        ("wrong label", "", "a", False),
        (OK, "exit status 1", "a", False),
        (OK, "", "ab", False),  # b never struck
    ],
)
def test_what_makes_it_sound(outcome: str, trouble: str, faults: str, sound: bool) -> None:
    found = account([strike("a", 10, trouble)], (11, 12, outcome), faults=faults)
    assert found.is_sound is sound


def test_losses_before_the_first_strike_count_as_well() -> None:
    assert not account([strike("a", 10)], (1, 2, "timeout"), faults="a").is_sound
