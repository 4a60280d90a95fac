"""How long a model's queue is, lanes and all, and what stands before one more job of a lane.

Owns the two scripts that read lanes. Without lanes no request runs them: two lists are the whole queue, and
a Redis that holds writes back (CLIENT PAUSE) still tells their lengths, but runs no script.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, cast

import redis
from redis.client import Pipeline

from broker.keys import ModelKeys
from broker.scripts import lua

HEADS: Final = 64
"""Lanes of a kind whose first jobs are looked at for the age of the queue, those whose turn comes last: Redis
copies each job, 0.02 ms of one of 200 KB."""

_ASKED: Final = 3
"""Replies to the commands of `ask`, of which the last says whether there are lanes."""

WAITING_FOR_EACH_POLLED: Final = 3
"""While both wait a worker takes so many jobs whose clients wait, then one whose client polls."""


@dataclass(frozen=True, slots=True)
class QueueLengths:
    """Jobs in a queue, of clients that wait and of those that poll; and what they are to one lane."""

    waiting: int
    polled: int
    lanes: int = 0
    """Lanes with jobs in them."""
    owned: int = 0
    """Jobs of the lane's owner, of both kinds."""
    waiting_before: int = 0
    """How many that wait are taken before one more of the lane: those without a lane count as one of 100."""
    polled_before: int = 0

    @property
    def total(self) -> int:
        """All jobs."""
        return self.waiting + self.polled

    def before_one_more(self, *, polled: bool) -> int:
        """How many are run before one more of that kind, if those that wait keep coming."""
        if polled:
            return self.polled_before * (1 + WAITING_FOR_EACH_POLLED if self.waiting else 1)
        return self.waiting_before + min(self.polled, 1 + self.waiting_before // WAITING_FOR_EACH_POLLED)


def of_lists(waiting: int, polled: int) -> QueueLengths:
    """A queue without lanes: all that is there goes before one more."""
    return QueueLengths(waiting, polled, 0, waiting + polled, waiting, polled)


def together(parts: Sequence[QueueLengths]) -> QueueLengths:
    """A queue of these parts, from which workers claim in turn.

    So before one more job of a lane go as many of each other part as of its own. A lane that several have
    counts as one, or nearly: those of the part that has most.
    """
    return QueueLengths(
        sum(part.waiting for part in parts),
        sum(part.polled for part in parts),
        max(part.lanes for part in parts),
        sum(part.owned for part in parts),
        sum(part.waiting_before for part in parts),
        sum(part.polled_before for part in parts),
    )


class LaneReader:
    """Reads the queues of any model. Its methods raise what redis-py does."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lengths_script = client.register_script(lua("lengths"))
        self._heads_script = client.register_script(lua("heads"))

    def lengths(self, parts: Sequence[ModelKeys], lane: str = "") -> QueueLengths:
        """How long the queue that these parts make is to a lane, or to whoever has none.

        One round trip; for whoever has none one more for each part in which others have lanes. Of several
        parts one that can't be asked counts as empty: jobs for the others are not to be refused for it.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for keys in parts:
                if lane:
                    # Not `evalsha`: the pipelines of a cluster's client have none.
                    command = ("EVALSHA", self._lengths_script.sha, len(_names(keys)), *_names(keys), lane)
                    pipe.execute_command(*command)  # type: ignore[no-untyped-call]
                else:
                    ask(pipe, keys)
            replies = iter(pipe.execute(raise_on_error=False))
        lengths: list[QueueLengths] = []
        failure = redis.RedisError("the queue has no part")
        for keys in parts:
            told = list(islice(replies, 1 if lane else _ASKED))
            failed = next((reply for reply in told if isinstance(reply, redis.RedisError)), None)
            try:
                if failed is not None and not isinstance(failed, redis.exceptions.NoScriptError):
                    failure = failed
                elif lane and failed is None:
                    lengths.append(QueueLengths(*told[0]))
                elif lane or told[-1]:  # the script was not loaded yet; there are lanes
                    lengths.append(self.shared(keys, lane))
                else:
                    lengths.append(of_lists(*told[:-1]))
            except redis.RedisError as error:
                failure = error
        if not lengths:
            raise failure
        return together(lengths) if len(lengths) > 1 else lengths[0]

    def shared(self, keys: ModelKeys, lane: str = "") -> QueueLengths:
        """The same, of a queue that has lanes."""
        return QueueLengths(*self._lengths_script(keys=_names(keys), args=[lane]))

    def accepted(self, keys: ModelKeys, *, most: int = 0) -> list[float]:
        """When the first job of each list was accepted, in Redis' time; 0.0: it does not tell.

        `most`: of so many lanes of each kind; 0: of all.
        """
        times = self._heads_script(keys=_names(keys), args=[-most])
        return [float(time) for time in cast("Sequence[bytes]", times)]


def ask(pipe: "Pipeline", keys: ModelKeys) -> None:
    """Add three commands: the lengths of the two lists, and whether there are lanes."""
    pipe.llen(keys.queue)
    pipe.llen(keys.polled)
    pipe.exists(keys.turns, keys.polled_turns)


def _names(keys: ModelKeys) -> list[str]:
    return [keys.queue, keys.polled, keys.turns, keys.polled_turns]
