"""Every Redis key and channel, spelled once. Owns names only; the values are messages.py's.

The braces are literal: a Redis Cluster hash tag, so that all keys of one model share a slot and one
Lua script may touch them together. docs/architecture.md has the table with types, TTLs and writers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

_VERSION_AT: Final = 14
_SHARD_AT: Final = 20
_SHARD_BIT: Final = 52
_SHARD_CODES: Final = 0x3F
"""xxxxxxxx-xxxx-8xxx-xssx-xxxxxxxxxxxx: the lower six bits of two digits are 0, or the shard and 1."""
SHARD_MASK: Final = _SHARD_CODES << _SHARD_BIT
"""The same of an id as a number."""

MODEL_NAME: Final = re.compile(r"[a-z0-9_-]+")

LANE: Final = re.compile(r"[a-z0-9_-]{1,32}@(?:[1-9][0-9]{0,4}|100000)")
"""`OWNER@WEIGHT`: an owner's name, and a share from 1 to 100,000 percent of an ordinary one."""


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """The keys of one model, spelled once for all its requests.

    Raises ValueError for a name outside `[a-z0-9_-]+`.
    """

    prefix: str
    model: str
    shard: int | None = None
    """Which shard of the model's queue these are; None: the model's own, with all that is no shard's."""
    card: str = field(init=False)
    """String: what the web tier needs to know of the model."""
    states: str = field(init=False)
    """Hash: worker -> its state."""
    workers: str = field(init=False)
    """Sorted set: worker -> lease expiry in Redis' time; negative: a tombstone."""
    queue: str = field(init=False)
    """List: jobs whose clients wait, the oldest left."""
    polled: str = field(init=False)
    """List: jobs whose clients poll, the oldest left."""
    turns: str = field(init=False)
    """Sorted set: lane of `queue` -> the virtual time of its next job."""
    polled_turns: str = field(init=False)
    """Sorted set: lane of `polled` -> the virtual time of its next job."""
    bell: str = field(init=False)
    """List: a token a new job; it only wakes."""
    attempts: str = field(init=False)
    """Hash: job -> times it was recovered from a lost worker."""
    dead: str = field(init=False)
    """List: poison jobs with their reasons."""
    shards: str = field(init=False)
    """String: the largest number of shards that the queue has had lately."""
    asked: str = field(init=False)
    """String: Redis' time at which a picture last came for the model, also one that was refused."""
    clock: str = field(init=False)
    """List: the steps of the clock of the cluster's node that has the model; of one Redis see Keys.clock."""
    webhooks: str = field(init=False)
    """Sorted set: job whose end is announced -> Redis' time at which to look at it next."""
    callbacks: str = field(init=False)
    """Hash: such a job -> where to announce its end, and what of it was tried."""
    undelivered: str = field(init=False)
    """Hash: such a job that has ended -> when, and its result; `bytes` -> what these take together."""
    cache: str = field(init=False)
    """Sorted set: digest of what was asked -> where its kept result ends in the row of all bytes kept."""
    cached_prefix: str = field(init=False)
    """What comes before such a digest in the key of the kept result."""
    request_prefix: str = field(init=False)
    """What comes before a client's name for a request in the key that says which job that is."""
    _labels_prefix: str = field(init=False)
    result_prefix: str = field(init=False)
    """What comes before a job's id in the key of its result."""
    _trace_prefix: str = field(init=False)
    _claims_prefix: str = field(init=False)
    results_channel_prefix: str = field(init=False)
    """What comes before a frontend's id, or a polled job's, in the name of a sharded channel."""
    types: Mapping[str, str] = field(init=False, compare=False)
    """What each of the model's lasting keys holds, as TYPE says it."""

    def __post_init__(self) -> None:
        """Spell the keys."""
        if not MODEL_NAME.fullmatch(self.model):
            raise ValueError(f"a model's name has only a-z, 0-9, _ and -; got {self.model!r}")
        tagged = f"{self.prefix}{{{_tag(self.model, self.shard)}}}"
        for name in (
            *("card", "states", "workers", "queue", "polled", "bell", "attempts", "dead", "cache"),
            *("webhooks", "callbacks", "undelivered", "turns", "polled_turns", "asked", "shards", "clock"),
        ):
            object.__setattr__(self, name, f"{tagged}:{name}")
        lists = dict.fromkeys((self.queue, self.polled, self.bell, self.dead), "list")
        hashes = dict.fromkeys((self.states, self.attempts, self.callbacks, self.undelivered), "hash")
        sets = dict.fromkeys((self.workers, self.webhooks, self.turns, self.polled_turns), "zset")
        types = (dict.fromkeys((self.card, self.shards), "string") | sets | hashes) | lists
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "cached_prefix", f"{tagged}:cached:")
        object.__setattr__(self, "request_prefix", f"{tagged}:request:")
        object.__setattr__(self, "_labels_prefix", f"{tagged}:labels:")
        object.__setattr__(self, "result_prefix", f"{tagged}:result:")
        object.__setattr__(self, "_trace_prefix", f"{tagged}:trace:")
        object.__setattr__(self, "_claims_prefix", f"{tagged}:claims:")
        object.__setattr__(self, "results_channel_prefix", f"{tagged}:results:")

    def lane(self, lane: str, *, polled: bool) -> str:
        """List: the jobs of this lane, of clients that wait or that poll; without a lane `queue` or `polled`.

        Raises ValueError for a lane that is not `OWNER@WEIGHT`.
        """
        if lane and not LANE.fullmatch(lane):
            raise ValueError(f"a lane is OWNER@WEIGHT, such as ann@100; got {lane!r}")
        kind = self.polled if polled else self.queue
        return f"{kind}:{lane}" if lane else kind

    def claims(self, worker: str) -> str:
        """List: the jobs that this worker has claimed and not completed."""
        return f"{self._claims_prefix}{worker}"

    def cached(self, digest: str) -> str:
        """String: the result that is kept for whoever asks the same."""
        return f"{self.cached_prefix}{digest}"

    def request(self, name: str) -> str:
        """String: the digest of the request that its client named so, and its job's id."""
        return f"{self.request_prefix}{name}"

    def labels(self, version: str) -> str:
        """String: the labels of this version of the model, in their order."""
        return f"{self._labels_prefix}{version}"

    def result(self, job_id: str) -> str:
        """String: `pending`, then the result, of a job that is under these keys."""
        return f"{self.result_prefix}{job_id}"

    def trace(self, job_id: str) -> str:
        """String: why a polled job that was under these keys has no result key: `deleted` or `lost`."""
        return f"{self._trace_prefix}{job_id}"

    def of_shard(self, shard: int | None) -> "ModelKeys":
        """The keys of one shard of this model's queue; None: the model's own."""
        return _model_keys(self.prefix, self.model, shard)

    def parts(self, served: int) -> "tuple[ModelKeys, ...]":
        """The keys of everything that may have jobs: the model's own, and those of so many shards.

        One shard is none: it is the model's own.
        """
        return (self, *map(self.of_shard, range(served))) if served > 1 else (self,)


def shard_of(job_id: str) -> int | None:
    """Which shard of its model's queue a job stands in, by its id alone; None: the model's own keys.

    So a job is found wherever it is, however many shards there are by now. Only ids of version 8 tell.
    """
    if job_id[_VERSION_AT : _VERSION_AT + 1] != "8":
        return None
    try:
        code = int(job_id[_SHARD_AT : _SHARD_AT + 2], 16) & _SHARD_CODES
    except ValueError:  # not an id of ours: whatever it is, it is nowhere
        return None
    return code - 1 if code else None


def shard_bits(shard: int | None) -> int:
    """The bits of SHARD_MASK in an id of this shard; None: of the model's own keys."""
    return 0 if shard is None else (shard + 1) << _SHARD_BIT


def _tag(model: str, shard: int | None) -> str:
    """What stands between the braces. Two colons where one would be an API key's: that may be called `0`."""
    if shard is None:
        return model
    return f"{model}::{shard}" if model == "key" else f"{model}:{shard}"


@dataclass(frozen=True, slots=True)
class ApiKeyKeys:
    """The keys of one API key's limits, in a slot of their own."""

    prefix: str
    name: str

    @property
    def bucket(self) -> str:
        """Hash: the pictures that it may send now, and since when."""
        return f"{self._tagged}:bucket"

    @property
    def jobs(self) -> str:
        """Sorted set: its jobs that have not ended -> their deadlines, in Redis' time."""
        return f"{self._tagged}:jobs"

    @property
    def polled(self) -> str:
        """Sorted set: its newest jobs that are polled -> when they were taken, in Redis' time."""
        return f"{self._tagged}:polled"

    @property
    def _tagged(self) -> str:
        return f"{self.prefix}{{key:{self.name}}}"  # no model can be called so


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys below one prefix, such as `bw:`."""

    prefix: str

    @property
    def models(self) -> str:
        """Set: names of the models ever announced."""
        return f"{self.prefix}models"

    @property
    def contract(self) -> str:
        """String: the version of the contract that the processes below this prefix keep."""
        return f"{self.prefix}contract"

    @property
    def clock(self) -> str:
        """List: the steps of Redis' clock that some process noticed: before, after."""
        return f"{self.prefix}clock"

    @property
    def id_secret(self) -> str:
        """String without a TTL: the secret that seals the ids of polled jobs."""
        return f"{self.prefix}id_secret"

    @property
    def api_keys(self) -> str:
        """Hash without a TTL: name of an API key -> its digests and what it may."""
        return f"{self.prefix}keys"

    @property
    def api_keys_used(self) -> str:
        """Hash: name of an API key -> when a process last saw it, in Redis' time."""
        return f"{self.prefix}keys:used"

    @property
    def history(self) -> str:
        """List: samples of the last hour, for the status page."""
        return f"{self.prefix}history"

    @property
    def history_writer(self) -> str:
        """String: the web process whose turn it is to write them."""
        return f"{self.prefix}history:writer"

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

    def of_api_key(self, name: str) -> ApiKeyKeys:
        """The keys of one API key's limits."""
        return ApiKeyKeys(self.prefix, name)

    def of(self, model: str, job_id: str = "") -> ModelKeys:
        """The keys of one model; with a job's id those that it is under: its shard's, or the model's own."""
        return _model_keys(self.prefix, model, shard_of(job_id) if job_id else None)

    def result(self, model: str, job_id: str) -> str:
        """String: `pending`, then the job's result. Beside its job, in whichever shard that is."""
        return self.of(model, job_id).result(job_id)


# Bounded: a client may ask for a result of any model's name, and in any shard.
_model_keys = lru_cache(maxsize=1024)(ModelKeys)
