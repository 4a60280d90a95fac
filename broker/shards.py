"""Into how many shards the queue of each model is split, as the models' cards say.

Owns what a process of the web tier remembers of that, and the choice of a shard for a new job. What is in a
shard, and in which one a job is, keys.py knows. Asks Redis nothing.
"""

import random
from collections.abc import Iterable

from broker.keys import Keys, ModelKeys
from broker.messages import Card


class ShardMap:
    """The shards of all models. Safe to share between threads. A model that is not known has none."""

    def __init__(self) -> None:
        self.split: dict[str, tuple[int, int]] = {}
        """Model whose queue is split -> over how many shards new jobs are spread, and how many may have jobs.
        For any other there is nothing to ask."""

    def note(self, cards: Iterable[Card]) -> None:
        """Remember what these cards say; of other models what theirs said last."""
        for card in cards:
            served = max(card.shards, card.shards_served)
            if served > 1:
                self.split[card.model] = card.shards, served
            else:
                self.split.pop(card.model, None)

    def count(self, model: str) -> int:
        """Over how many shards new jobs of a model are spread; 1: they are under the model's own keys."""
        return self.split.get(model, (1, 1))[0]

    def pick(self, model: str) -> int | None:
        """A shard for a new job, any of them; None: the model's own keys.

        At random: processes that take turns would meet in the same one, those that began together for hours.
        """
        count = self.count(model)
        return random.randrange(count) if count > 1 else None

    def parts(self, keys: Keys, model: str) -> tuple[ModelKeys, ...]:
        """The keys of everything that may have jobs of a model: its own, and those of its shards."""
        return keys.of(model).parts(self.split.get(model, (1, 1))[1])
