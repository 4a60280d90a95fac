"""What a picture costs each part in processor time, as it was measured.

Owns the file of costs (costs.json, made by `measure`) and what it means between two measured sizes. Measures
nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

FILE: Final = Path(__file__).with_name("costs.json")


class BadCosts(ValueError):
    """A file of costs can't be read, or has no such picture or input; the text says which it has."""


class DecodeCost(msgspec.Struct, frozen=True):
    """Of one kind of upload, to the model input at which it was measured."""

    picture: str
    """Pixels of the JPEG: `1280x720`."""
    upload_kb: float
    decode_ms: float


class InputCost(msgspec.Struct, frozen=True):
    """Of one size of a model's input: a job's bytes go through all three parts."""

    input: str
    """Pixels and channels: `224x224x3`."""
    submit_ms: float
    """The web tier's Python before the job is in the queue: receive, parse, encode, send."""
    enqueue_us: float
    """Redis' one thread, a picture: the MULTI of a job, its bell and its message."""
    claim_us: float
    claim_job_us: float
    """Redis' thread, a claim, and each job in it."""
    complete_us: float
    complete_job_us: float
    worker_call_ms: float
    """The model server's process beside the network, a batch, and each picture in it."""
    worker_job_ms: float

    @property
    def values(self) -> int:
        """How many numbers a picture of this input is."""
        return math.prod(map(int, self.input.split("x")))


class WebCost(msgspec.Struct, frozen=True):
    """Of the web tier, whatever the picture and the input."""

    reply_ms: float
    """Python's part after the result has come."""
    refusal_ms: float
    """A picture that is refused, decoding included where that was done."""


class CostFile(msgspec.Struct, frozen=True):
    """What one machine measured."""

    processor: str
    cores: int
    measured: str
    """Date, and the load average at the time."""
    ask_us: float
    """Redis' thread, a question how long the queue is."""
    wait_us: float
    """And a worker that waits for the bell, until it has rung."""
    web: WebCost
    pictures: list[DecodeCost]
    inputs: list[InputCost]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a processor: all that a simulation needs, for one picture and one input."""

    decode_s: float = 0.0
    submit_s: float = 0.0
    reply_s: float = 0.0
    refusal_s: float = 0.0
    ask_s: float = 0.0
    wait_s: float = 0.0
    enqueue_s: float = 0.0
    claim_s: float = 0.0
    claim_job_s: float = 0.0
    complete_s: float = 0.0
    complete_job_s: float = 0.0
    worker_call_s: float = 0.0
    worker_job_s: float = 0.0

    @property
    def web_s(self) -> float:
        """Of the web tier, a picture that is answered."""
        return self.submit_s + self.decode_s + self.reply_s

    def redis_s(self, batch: float) -> float:
        """Of Redis, a picture in batches of so many, while the queue is never empty."""
        a_job = self.enqueue_s + self.claim_job_s + self.complete_job_s
        return a_job + (self.claim_s + self.complete_s) / batch

    @property
    def redis_alone_s(self) -> float:
        """Of Redis, a picture that comes alone: a worker claims it, finds nothing more, and waits."""
        return self.redis_s(1) + self.claim_s + self.wait_s

    def worker_s(self, batch: float) -> float:
        """Of a model server beside its network, the same."""
        return self.worker_job_s + self.worker_call_s / batch

    @classmethod
    def of(cls, file: CostFile, *, picture: str, input_shape: tuple[int, int, int]) -> Self:
        """For this kind of upload, one that was measured, and any input. Raises BadCosts."""
        decode = {each.picture: each.decode_ms for each in file.pictures}
        if picture not in decode:
            raise BadCosts(f"no picture {picture!r} was measured; there are {', '.join(decode)}")
        values = math.prod(input_shape)

        def between(field: str) -> float:
            points = [(each.values, float(getattr(each, field))) for each in file.inputs]
            return _interpolated(points, values)

        return cls(
            decode_s=decode[picture] / 1e3,
            submit_s=between("submit_ms") / 1e3,
            reply_s=file.web.reply_ms / 1e3,
            refusal_s=file.web.refusal_ms / 1e3,
            ask_s=file.ask_us / 1e6,
            wait_s=file.wait_us / 1e6,
            enqueue_s=between("enqueue_us") / 1e6,
            claim_s=between("claim_us") / 1e6,
            claim_job_s=between("claim_job_us") / 1e6,
            complete_s=between("complete_us") / 1e6,
            complete_job_s=between("complete_job_us") / 1e6,
            worker_call_s=between("worker_call_ms") / 1e3,
            worker_job_s=between("worker_job_ms") / 1e3,
        )


def read(path: Path = FILE) -> CostFile:
    """The measured costs. Raises BadCosts."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CostFile)
    except OSError as error:
        raise BadCosts(f"{path} can't be read: {error.strerror}; `measure` makes it") from error
    except msgspec.MsgspecError as error:
        raise BadCosts(f"{path} is not a file of costs: {error}") from error


def write(file: CostFile, path: Path = FILE) -> None:
    """Write it so that a change is readable in a diff."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")


def _interpolated(points: Sequence[tuple[int, float]], at: int) -> float:
    """On the straight line between the two points around `at`; beyond the last on that of the last two."""
    points = sorted(points)
    if len(points) == 1 or at <= points[0][0]:
        return points[0][1]
    right = next((index for index, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return max(0.0, y0 + (y1 - y0) * (at - x0) / (x1 - x0))
