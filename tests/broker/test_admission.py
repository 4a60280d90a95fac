"""The rule of admission, without a Redis; the conformance suite has it over a real queue."""

import pytest

from broker import admission
from broker.errors import Overloaded
from broker.lanes import of_lists
from broker.messages import Pace

PACE = Pace(rate=10.0, batch_s=0.5)


def _refusal(waiting: int, *, room: int = 100, timeout_s: float = 10.0) -> Overloaded | None:
    try:
        admission.judge("digits", of_lists(waiting, 0), PACE, room=room, timeout_s=timeout_s)
    except Overloaded as refusal:
        return refusal
    return None


@pytest.mark.parametrize(("waiting", "is_refused"), [(0, False), (40, False), (41, True)])
def test_a_wait_takes_half_of_the_time_at_most(waiting: int, is_refused: bool) -> None:
    assert bool(_refusal(waiting)) is is_refused  # 40 / 10 per s, and two batches of 0.5 s


def test_a_full_queue_has_room_again_when_it_is_empty() -> None:
    refusal = _refusal(20, room=20)
    assert refusal is not None
    assert refusal.retry_after_s == 2


def test_an_empty_queue_takes_one_at_any_pace() -> None:
    assert _refusal(0, timeout_s=0.1) is None
    assert _refusal(1, timeout_s=0.1) is not None


def test_a_length_is_believed_while_it_is_young_and_there_is_room() -> None:
    assert admission.is_believed(24, age_s=0.01, room=100)
    assert not admission.is_believed(25, age_s=0.01, room=100)
    assert not admission.is_believed(0, age_s=admission.LENGTH_VALID_S, room=100)
