"""Messages to bytes and back: compact JSON, pictures as base64 of their uint8 bytes. Never pickle.

Owns the wire format. A job's JSON begins with its id at a fixed offset, where the Lua scripts read
it. Decoding checks every field's presence and type and raises MalformedMessage.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.keys import LANE
from broker.messages import Card, InputSpec, Job, Label, Result, State, Webhook

PENDING: Final = b"pending"
"""What a result key begins with until it has the job's result. A letter follows for where the job is."""

QUEUED: Final = b"q"
"""Among those that are waited for."""
POLLED: Final = b"p"
"""Among those that are polled."""
CLAIMED: Final = b"c"
"""By a worker; or no queue holds it."""

ID_START: Final = len('{"id":"')
"""Where a job's id begins in its JSON (0-based); the Lua scripts read 36 characters from here."""
ID_LENGTH: Final = 36

_LAST_TIME: Final = 1e11
"""Seconds: in the year 5138. What comes later is no time that a date can say."""

_JOB_REST: Final = 640
"""More than all of a job's JSON but its image and its notice takes (about 350 bytes, and a request's id)."""

_LANE: Final = re.compile(rb'\{"id":"[^"]*"(?:,"polled":true)?,"lane":"([a-z0-9_-]+@[0-9]+)"')
"""A job's lane, where the Lua scripts read it."""

_Message = TypeVar("_Message")

encode: Final[Callable[[Card | State | Result | Webhook], bytes]] = msgspec.json.Encoder().encode
"""A card, a state, a result or a webhook to JSON."""


class _WireJob(Job, frozen=True, kw_only=True, omit_defaults=True):
    """A job as JSON holds it: its image is a string of base64, which msgspec copies as it is.

    pybase64 codes it, with vector instructions: for a job of 224 x 224 pixels 0.018 ms to encode and 0.056 to
    decode, where msgspec alone takes 0.113 and 0.132.
    """

    image: msgspec.Raw  # type: ignore[assignment] # in the same place
    shape: tuple[int, int, int]
    """The image's, which base64 does not tell."""


class _AcceptedJob(msgspec.Struct):
    accepted: float


class _TracedJob(msgspec.Struct):
    accepted: float
    traceparent: str | None = None


class _Owned(msgspec.Struct):
    owner: str = ""


def job_size(spec: InputSpec) -> int:
    """Bytes that a job of such a picture takes as JSON, the rest of it rounded up."""
    return 4 * math.ceil(math.prod(spec.shape) / 3) + _JOB_REST


def encode_pending(accepted_at: float, deadline: float, whose: str = "", *, where: bytes = CLAIMED) -> bytes:
    """The value of a job's key until its result comes: where it is, when it was accepted, its deadline.

    And `whose` it is: its lane in a queue, else its owner. Claims and recoveries change where it is.
    """
    value = b"%s %s %.3f %.3f" % (PENDING, where, accepted_at, deadline)
    return b"%s %s" % (value, whose.encode("ascii")) if whose else value


def decode_pending(value: bytes) -> tuple[float, float] | None:
    """When its job was accepted and its deadline, in Redis' time; None: a result. Raises MalformedMessage."""
    if not value.startswith(PENDING):
        return None
    try:
        accepted_at, deadline = map(float, value.split()[2:4])
    except ValueError as error:
        raise MalformedMessage(f"not a pending job's key: {error}") from None
    if not (0 <= accepted_at < _LAST_TIME and 0 <= deadline < _LAST_TIME):  # nan is neither
        raise MalformedMessage("not a pending job's key: it is of no time")
    return accepted_at, deadline


def polled_lane(value: bytes) -> str | None:
    """The lane of a job that its key says to stand among those that are polled; None: it does not."""
    words = value.split() if value.startswith(PENDING) else []
    lane = str(b"".join(words[4:]), "latin-1")
    return lane if words[1:2] == [POLLED] and (not lane or LANE.fullmatch(lane)) else None


def owner_of(value: bytes) -> str:
    """Whose job a result key is of, pending or with its result; empty: nobody's. Raises MalformedMessage."""
    if value.startswith(PENDING):
        return str(b"".join(value.split()[4:]).partition(b"@")[0], "latin-1")
    return decode(value, _Owned).owner


def encode_job(job: Job) -> bytes:
    """Job to JSON. Its image must be C-contiguous uint8 (height, width, planes)."""
    image = msgspec.Raw(b'"' + pybase64.b64encode(job.image.data) + b'"')
    fields = msgspec.structs.asdict(job) | {"image": image, "shape": job.image.shape}
    return msgspec.json.encode(_WireJob(**fields))


def decode_job(payload: bytes) -> Job:
    """JSON to Job; its image is a read-only array over the decoded bytes. Raises MalformedMessage."""
    wire = decode(payload, _WireJob)
    text = memoryview(wire.image)
    if text[0] != ord('"'):
        raise MalformedMessage("the image is not a string")
    try:
        image = pybase64.b64decode(text[1:-1], validate=True)
    except ValueError as error:
        raise MalformedMessage(f"the image is not base64: {error}") from None
    if min(wire.shape) < 1 or len(image) != math.prod(wire.shape):
        raise MalformedMessage(f"{len(image)} bytes of image do not fill the shape {wire.shape}")
    pixels: NDArray[np.uint8] = np.frombuffer(image, np.uint8).reshape(wire.shape)
    fields = msgspec.structs.asdict(wire) | {"image": pixels}
    del fields["shape"]
    return Job(**fields)


def lane_of(payload: bytes) -> str:
    """A job's lane, read from the beginning of its JSON, whatever comes after it; empty: none."""
    lane = _LANE.match(payload)
    return str(lane[1], "ascii") if lane else ""


def accepted_at(payload: bytes) -> float:
    """When a job was accepted, in Redis' time, read from its JSON alone. Raises MalformedMessage."""
    return decode(payload, _AcceptedJob).accepted


def trace_of(payload: bytes) -> tuple[float, str | None]:
    """When a job was accepted, and its traceparent, read from its JSON alone. Raises MalformedMessage."""
    job = decode(payload, _TracedJob)
    return job.accepted, job.traceparent


def encode_labels(labels: Sequence[Label]) -> bytes:
    """A model's labels to JSON."""
    return msgspec.json.encode(labels)


def decode_labels(payload: bytes) -> tuple[Label, ...]:
    """JSON to a model's labels. Raises MalformedMessage."""
    return decode(payload, tuple[Label, ...])


def encode_text(text: str) -> bytes:
    """A string to JSON, for the reason in an entry of `dead`."""
    return msgspec.json.encode(text)


def decode(payload: bytes, kind: type[_Message]) -> _Message:
    """JSON to a card, a state, a result or a webhook. Raises MalformedMessage."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        name = getattr(kind, "__name__", str(kind)).strip("_")
        raise MalformedMessage(f"not a {name}: {error}") from None
