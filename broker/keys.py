"""Every Redis key and channel, spelled once. Owns names only; the values are messages.py's.

The braces are literal: a Redis Cluster hash tag, so that all keys of one model share a slot and one
Lua script may touch them together. docs/architecture.md has the table with types, TTLs and writers.
"""

import re
from dataclasses import dataclass
from typing import Final

MODEL_NAME: Final = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """The keys of one model. Raises ValueError for a name outside `[a-z0-9_-]+`."""

    prefix: str
    model: str

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.model):
            raise ValueError(f"a model's name has only a-z, 0-9, _ and -; got {self.model!r}")

    def _key(self, name: str) -> str:
        return f"{self.prefix}{{{self.model}}}:{name}"

    @property
    def card(self) -> str:
        """String: what the web tier needs to know of the model."""
        return self._key("card")

    @property
    def states(self) -> str:
        """Hash: worker -> its state."""
        return self._key("states")

    @property
    def workers(self) -> str:
        """Sorted set: worker -> lease expiry in Redis' time; negative: a tombstone."""
        return self._key("workers")

    @property
    def queue(self) -> str:
        """List: jobs, the oldest left."""
        return self._key("queue")

    @property
    def bell(self) -> str:
        """List: a token a new job; it only wakes."""
        return self._key("bell")

    @property
    def attempts(self) -> str:
        """Hash: job -> times it was recovered from a lost worker."""
        return self._key("attempts")

    @property
    def dead(self) -> str:
        """List: poison jobs with their reasons."""
        return self._key("dead")

    @property
    def result_prefix(self) -> str:
        """What comes before a job's id in the key of its result."""
        return self._key("result:")

    def claims(self, worker: str) -> str:
        """List: the jobs that this worker has claimed and not completed."""
        return self._key(f"claims:{worker}")

    def result(self, job_id: str) -> str:
        """String: `pending`, then the result."""
        return f"{self.result_prefix}{job_id}"


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys below one prefix, such as `bw:`."""

    prefix: str

    @property
    def models(self) -> str:
        """Set: names of the models ever announced."""
        return f"{self.prefix}models"

    @property
    def probe(self) -> str:
        """String that never exists: writing nothing to it tells whether Redis takes writes."""
        return f"{self.prefix}probe"

    @property
    def results_channel_prefix(self) -> str:
        """What comes before a frontend's id in the name of its channel."""
        return f"{self.prefix}results:"

    def results_channel(self, frontend: str) -> str:
        """Pub/sub channel: each result for that frontend."""
        return f"{self.results_channel_prefix}{frontend}"

    def of(self, model: str) -> ModelKeys:
        """The keys of one model."""
        return ModelKeys(self.prefix, model)
