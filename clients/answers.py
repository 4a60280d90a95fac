"""The service's answers as types: docs/http.md and docs/tasks.md have what each field means.

Owns the fields. A field that the service adds later is ignored here, and kept in `Answer.raw`.
"""

from dataclasses import dataclass, field
from typing import Any

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the upload, upright; x and y are the upper left corner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask:
    """The pixels of a prediction: COCO's run lengths in `counts`, or a PNG, white on black."""

    size: tuple[int, int]
    """(height, width)."""
    form: str = "rle"
    counts: str = ""
    png: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keypoint:
    """A point of a thing, in pixels of the upload."""

    name: str
    x: float
    y: float
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Skeleton:
    """How keypoints are drawn: pairs of points, and the probability from which a point is drawn."""

    lines: tuple[tuple[int, int], ...]
    least: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RawOutput:
    """One output of a network: its numbers in C order."""

    shape: tuple[int, ...]
    data: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One class that the picture may show, and where, if the task says so."""

    label: str
    class_id: str
    probability: float
    box: Box | None = None
    area: float | None = None
    """The share of the picture that the class covers."""
    mask: Mask | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    steps: "dict[str, Answer] | None" = None
    """The answers of a pipeline's later steps about the box, by their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Milliseconds in the queue, in forming the batch, and in the network."""

    waiting: float = 0.0
    batch: float = 0.0
    model: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorDetail:
    """A stable code for programs, and a message for people."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer for one picture. A task fills `predictions` or one of the fields after it."""

    success: bool
    """False only in a pipeline's `steps`, for one that failed; its `error` says why."""
    model: str = ""
    """The model that answered; without a name in the request this may be the fallback (see `notice`)."""
    id: str = ""
    predictions: tuple[Prediction, ...] = ()
    """The best first; empty where nothing was found."""
    values: dict[str, float] | None = None
    embedding: tuple[float, ...] | None = None
    image: bytes | None = None
    """A PNG."""
    outputs: dict[str, RawOutput] | None = None
    result: dict[str, Any] | None = None
    """What the model's own code answers."""
    skeleton: Skeleton | None = None
    steps: "dict[str, Answer] | None" = None
    """The answers of a pipeline's steps about the whole picture, by their names."""
    notice: str = ""
    model_version: str = ""
    engine: str = ""
    precision: str = ""
    batch_size: int = 0
    timings_ms: Timings = field(default_factory=Timings)
    expires_at: str = ""
    """Of a job: until when its result is kept (RFC 3339)."""
    error: ErrorDetail | None = None
    request_id: str = ""
    """The id under which the service's logs have the request."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    """The whole JSON of the answer, with fields that this client does not know."""

    @property
    def best(self) -> Prediction | None:
        """The first prediction; None if there is none."""
        return self.predictions[0] if self.predictions else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """A model as it is now."""

    model: str
    state: str
    """`ready`, `loading`, `failed`, `draining` or `no worker`."""
    reason: str = ""
    """Why it failed; else empty."""
    task: str = ""
    classes: int = 0
    top: int = 0
    """How many predictions an answer has by default; `top_max` is the most."""
    top_max: int = 0
    engine: str = ""
    precision: str = ""
    weights: str = ""
    model_version: str = ""
    queue_length: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelList:
    """The service's models, and the one that answers a request which names none."""

    models: tuple[ModelSummary, ...]
    default_model: str = ""
    default_answered_by: str = ""

    def named(self, name: str) -> ModelSummary | None:
        """The model of this name; None if there is none."""
        return next((model for model in self.models if model.model == name), None)
