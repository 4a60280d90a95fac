"""What the service answers in JSON: a type each, which the routes fill and /openapi.json describes.

Owns the names of fields and their order. Knows no route and no status.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from flask import Response
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.history import Sample
from broker.messages import Card, Prediction, RawOutput, Result, Skeleton, Timings

VERSION: Final = "0.1.0"
"""The service's, as pyproject.toml has it."""

MIMETYPE: Final = "application/json"

NO_STORE: Final = "no-store"
"""Cache-Control of an answer that does not say otherwise: no proxy and no browser keeps someone's answer."""

PNG: Final = "image/png"
"""What an annotated picture is answered in."""

MODEL_FIELD: Final = "X-Model"
VERSION_FIELD: Final = "X-Model-Version"
NOTICE_FIELD: Final = "X-Notice"
"""What such an answer says in its head, for it has no other place."""

CACHE_FIELD: Final = "X-Cache"
"""Where each picture's answer comes from, in order: `hit`, `miss` or `shared`."""

_NOTICE_LETTERS: Final = 200

_PRINTED: Final = string.punctuation.replace("%", "") + " "
"""Characters that stand for themselves in NOTICE_FIELD, besides letters and digits."""

_YES = Annotated[bool, Meta(extra_json_schema={"const": True})]
_NO = Annotated[bool, Meta(extra_json_schema={"const": False})]

JobId = Annotated[str, Meta(description="The job's UUID.", extra_json_schema={"format": "uuid"})]
RequestId = Annotated[str, Meta(description="As in the field X-Request-ID; the service's log has it.")]
Notice = Annotated[
    str,
    Meta(description="What to know of the answer, such as that another model answers than was asked for."),
]

ExpiresAt = Annotated[
    datetime,
    Meta(
        description="Until when the result can be polled (RFC 3339, UTC, by Redis' clock). Of a pending job: "
        "at most, for it is kept for RESULT_TTL_S once it is there."
    ),
]


class Answer(Struct, frozen=True, kw_only=True):
    """What the model says of one picture.

    `predictions` come with the most probable first; a model whose task has others has none there.
    """

    success: _YES
    model: str
    id: JobId
    predictions: tuple[Prediction, ...]
    values: Annotated[dict[str, float], Meta(description="A regression's numbers, by label.")] | UnsetType = (
        UNSET
    )
    embedding: Annotated[tuple[float, ...], Meta(description="The picture's vector.")] | UnsetType = UNSET
    image: Annotated[bytes, Meta(description="The picture that the model made, as PNG.")] | UnsetType = UNSET
    outputs: (
        Annotated[dict[str, RawOutput], Meta(description="The network's outputs, by name.")] | UnsetType
    ) = UNSET
    result: (
        Annotated[dict[str, Any], Meta(description="What the model's own code made of the outputs.")]
        | UnsetType
    ) = UNSET
    skeleton: Annotated[Skeleton, Meta(description="How keypoints are drawn.")] | UnsetType = UNSET
    steps: (
        Annotated[
            dict[str, Any],
            Meta(
                description="What the steps of a pipeline say of the whole picture, by their names. What "
                "later steps say of a box is in its prediction, in the same form.",
                extra_json_schema={
                    "additionalProperties": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/Answer"},
                            {"$ref": "#/components/schemas/FailedAnswer"},
                        ]
                    }
                },
            ),
        ]
        | UnsetType
    ) = UNSET
    class_id: (
        Annotated[str, Meta(description="The best prediction's, for a picture in the field `file`.")]
        | UnsetType
    ) = UNSET
    class_name: Annotated[str, Meta(description="Its label, likewise.")] | UnsetType = UNSET
    notice: Notice | UnsetType = UNSET
    model_version: str
    engine: str
    precision: str
    batch_size: Annotated[int, Meta(ge=0, description="Pictures that went through the network together.")]
    timings_ms: Timings
    expires_at: ExpiresAt | UnsetType = UNSET


class Similarity(Struct, frozen=True, kw_only=True):
    """How alike two pictures are."""

    success: _YES
    model: str
    ids: Annotated[tuple[JobId, JobId], Meta(description="The jobs of the two pictures.")]
    similarity: Annotated[
        float, Meta(ge=-1, le=1, description="The cosine of the two vectors: 1 for the same picture.")
    ]
    notice: Notice | UnsetType = UNSET
    model_version: str


class PendingAnswer(Struct, frozen=True, kw_only=True):
    """A job that waits for its result."""

    success: _YES
    status: Literal["pending"]
    model: str
    id: JobId
    location: Annotated[str, Meta(description="Where its result is polled.")]
    expires_at: ExpiresAt
    notice: Notice | UnsetType = UNSET


class JobSummary(Struct, frozen=True, kw_only=True):
    """A polled job in a list."""

    id: JobId
    model: str
    status: Annotated[
        Literal["pending", "ended"],
        Meta(description="`ended`: its address tells how, or that its deadline has passed."),
    ]
    location: Annotated[str, Meta(description="Where its result is polled.")]
    accepted_at: datetime
    expires_at: ExpiresAt


class JobList(Struct, frozen=True, kw_only=True):
    """The polled jobs of an API key, the newest first."""

    jobs: list[JobSummary]
    next: Annotated[str | None, Meta(description="The address of older ones; null: there are none.")]


class ErrorDetail(Struct, frozen=True):
    """What went wrong: a stable code for programs, and for people what to do."""

    code: str
    message: str


class FailedAnswer(Struct, frozen=True, kw_only=True):
    """A failure. Of a job that was accepted it has the model and the id."""

    success: _NO
    model: str | UnsetType = UNSET
    id: JobId | UnsetType = UNSET
    error: ErrorDetail
    request_id: RequestId | UnsetType = UNSET


Each = Answer | PendingAnswer | FailedAnswer
"""What becomes of one picture."""


class AnswerList(Struct, frozen=True, kw_only=True):
    """What became of each picture, in the order sent; `success`: of all."""

    success: bool
    results: Annotated[
        Sequence[Any],
        Meta(
            extra_json_schema={
                "items": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{each.__name__}"}
                        for each in (Answer, PendingAnswer, FailedAnswer)
                    ]
                }
            }
        ),
    ]
    request_id: RequestId | UnsetType = UNSET


class Liveness(Struct, frozen=True):
    """This process answers."""

    alive: _YES = True


Condition = Annotated[
    str, Meta(extra_json_schema={"enum": ["ready", "loading", "failed", "draining", "no worker"]})
]


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether a model can be used, and the state of each."""

    ready: bool
    models: dict[str, Condition]
    reason: str | UnsetType = UNSET
    """Why none is ready."""


class Scaling(Struct, frozen=True, kw_only=True):
    """What the model servers of some models have to do, for an autoscaler."""

    jobs: int
    """Jobs in their queues."""
    oldest_job_s: float
    """The age of the oldest of them, in seconds; 0: there is none."""
    asked: int
    """1: a picture came for one of them within the window, though perhaps it was refused; else 0."""


@dataclass(frozen=True, kw_only=True)
class WorkerSummary:
    """One worker: a version of a model in a model server's process."""

    id: str
    state: Condition
    version: str
    reason: str
    rate: Annotated[float, Meta(description="Pictures a second while busy; 0 until measured.")]
    latency_ms: Annotated[float, Meta(description="What a batch takes; 0 until measured.")]
    waiting_ms: Annotated[float, Meta(description="What a picture waits in the queue; 0 until measured.")]
    pictures: Annotated[int, Meta(description="Through the network since its process started.")]
    input: Annotated[str, Meta(description="How the pictures that it takes are prepared, in one word.")]
    since: Annotated[float, Meta(description="Redis' time at which it came, in seconds since 1970.")]
    heartbeat: Annotated[float, Meta(description="Redis' time at which it said this.")]


@dataclass(frozen=True, kw_only=True)
class ModelSummary(Card):
    """A model as it is now."""

    state: Condition
    reason: Annotated[str, Meta(description="Why it failed, or serves an older version; else empty.")]
    workers: list[WorkerSummary]
    queue_length: int
    expected: Annotated[bool, Meta(description="Whether the settings name it: it stays without a worker.")]


class ModelList(Struct, frozen=True, kw_only=True):
    """Every model that is served, expected or was served a moment ago, and who answers for none named."""

    default_model: str
    fallback_model: str | None
    default_answered_by: str
    time: Annotated[float, Meta(description="Redis' time, in seconds since 1970.")]
    models: list[ModelSummary]


class LastHour(Struct, frozen=True, kw_only=True):
    """The last hour: what one web process has sampled, for all of them."""

    time: Annotated[float, Meta(description="Redis' time, in seconds since 1970.")]
    interval_s: Annotated[float, Meta(description="Seconds between two samples; more where one is missing.")]
    samples: list[Sample]


def time_of(timestamp: float) -> datetime:
    """Redis' time as answers show it."""
    return datetime.fromtimestamp(round(timestamp, 3), UTC)


def respond(body: Struct, status: int = 200) -> Response:
    """An answer as JSON, with a line end for terminals."""
    return Response(msgspec.json.encode(body) + b"\n", status, mimetype=MIMETYPE)


def drawn(png: bytes, result: Result) -> Response:
    """The annotated picture of a good result, with what JSON would say of who answered in its head."""
    response = Response(png, mimetype=PNG)
    response.headers[MODEL_FIELD] = result.model
    response.headers[VERSION_FIELD] = result.model_version
    if result.notice:
        # A field holds ASCII, and no line feed (RFC 9110, section 5.5). Encoded a character takes up to
        # twelve: proxies have some 4 KB for a head.
        said = result.notice if result.notice.isascii() else result.notice[:_NOTICE_LETTERS]
        response.headers[NOTICE_FIELD] = quote(said, safe=_PRINTED)
    return response
