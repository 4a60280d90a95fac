"""Whether a queue takes one more job: by how long it is, and how fast its workers are.

Owns the rule, for jobs with a lane and without, and what a refusal advises. Pure: it asks no Redis and no
clock, so that a simulation judges as the service does (benchmarks/simulation).
"""

import math
from typing import Final

from broker.errors import Overloaded
from broker.lanes import QueueLengths
from broker.messages import Pace

MAX_RETRY_AFTER_S: Final = 60
"""A longer advice would outlive what the rate says of the future."""

_PATIENCE: Final = 0.5
"""How much of a job's time its expected wait may take: the pace is a moving average, and half of the jobs
that are let in at the very limit would come too late. With 0.8 a crowd of 512 before a slow network had its
answers after 6.3 s of 10, and one in seven pictures was run for nobody."""

_UNMEASURED_RATE: Final = 16.0
"""Pictures a second that a model is taken for while nobody has measured it. Of 1,000 clients at its start the
last would wait for a minute behind a slow network, or for a second behind a fast one."""

_VALID_S: Final = 0.25
"""A refusal is believed for no longer, and for no longer than a tenth of the queue takes."""
_WORKED_OFF: Final = 0.1

LENGTH_VALID_S: Final = 0.05
"""For so long the queue's length after the last push from here is believed. It saves a request a round trip:
0.2 ms of its latency."""
_LENGTH_SHARE: Final = 4
"""But only while the queue has four times as much room: more than others can put there meanwhile, and than
clients that poll may have taken of it."""

_POLLED_SHARE: Final = 0.75
"""How much of the queue clients that poll may take. Their jobs have 30 times as long: one such client filled
it, and four that waited got 4 answers and 405 refusals where they had got 45."""

_OWNER_SHARE: Final = 2
"""An owner may have so many times as many jobs in the queue as it has room left (Choudhury and Hahne 1998).
One alone gets two thirds of it; whoever comes second always finds room, and then each has two fifths."""


def is_believed(length: int, *, age_s: float, room: int) -> bool:
    """Whether a length that was read so long ago saves the question how long the queue is now."""
    return age_s < LENGTH_VALID_S and _LENGTH_SHARE * length < room


def is_in_time(lengths: QueueLengths, pace: Pace, *, timeout_s: float) -> bool:
    """Whether one more job of a client that waits would surely be answered in that time."""
    return pace.wait_s(lengths.before_one_more(polled=False)) <= _PATIENCE * timeout_s


def judge(
    model: str,
    lengths: QueueLengths,
    pace: Pace,
    *,
    room: int,
    timeout_s: float,
    polled: bool = False,
    lane: str = "",
) -> None:
    """Refuse one more job that the queue, with room for so many, does not fit, or can't answer in time.

    `lengths` are those of `lane`. Raises Overloaded.
    """
    waiting, alike = lengths.waiting + lengths.polled, lengths.polled if polled else lengths.waiting
    is_shared = bool(lane or lengths.lanes)
    fits = waiting < room and (not polled or alike < max(1, math.floor(_POLLED_SHARE * room)))
    if is_shared:
        fits = fits and lengths.owned < _OWNER_SHARE * (room - waiting)
    if fits and alike == 0:
        return
    before = lengths.before_one_more(polled=polled)
    wait_s = pace.wait_s(before) if pace.rate > 0 else before / _UNMEASURED_RATE
    over_s = wait_s - _PATIENCE * timeout_s
    if fits and over_s <= 0:
        return
    # A full queue has room for all again when it is empty; a slow one when the excess is worked off.
    in_the_way = waiting if polled and not is_shared else before
    empty_s = in_the_way / pace.rate if pace.rate > 0 else 0.0
    retry_after_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(over_s if fits else empty_s)))
    raise Overloaded(
        f"{waiting} pictures wait for {model} already; come back in {retry_after_s} s.",
        retry_after_s=retry_after_s,
        valid_s=min(_VALID_S, max(LENGTH_VALID_S, over_s, _WORKED_OFF * empty_s)),
    )
