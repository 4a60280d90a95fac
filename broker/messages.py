"""The nouns that travel between the tiers, as frozen dataclasses and msgspec structs.

Owns what a job, a result, a card and a state hold. Encoding is codec.py's, keys are keys.py's, and
nothing here does I/O.
"""

from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

MEDIAN: Final = -1
"""A border whose colour is the median of the picture's own."""


MOST_PICTURES: Final = 2**53
"""All that a worker can say it has run: so far every number is a float, and a JavaScript number, as well."""

FRACTIONS: Final = "fractions"
"""The last word of a tag, if pictures keep fractions."""


class Fit(StrEnum):
    """How a picture of any size becomes one of the model's size."""

    STRETCH = "stretch"  # resize both sides, the shape is lost
    CROP = "crop"  # the largest centred part of the right shape
    PAD = "pad"  # all of it, with the border's colour around
    INK = "ink"  # find the drawing, make it light on black, centre it as MNIST does


class Resample(StrEnum):
    """The kernel with which a picture is resized."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    AREA = "area"


class Library(StrEnum):
    """The library with whose arithmetic a picture is resized (and, with EXACT, a JPEG decoded)."""

    PILLOW = "pillow"
    TENSORFLOW = "tensorflow"
    OPENCV = "opencv"


KERNELS: Final = {
    Library.PILLOW: frozenset(
        (Resample.NEAREST, Resample.BOX, Resample.BILINEAR, Resample.BICUBIC, Resample.LANCZOS)
    ),
    Library.TENSORFLOW: frozenset((Resample.NEAREST, Resample.BILINEAR, Resample.BICUBIC, Resample.AREA)),
    Library.OPENCV: frozenset((Resample.NEAREST, Resample.BILINEAR, Resample.BICUBIC, Resample.AREA)),
}
"""What each library's arithmetic is known for here."""


class Decode(StrEnum):
    """How much of a JPEG is decoded."""

    FAST = "fast"  # at 1/2, 1/4 or 1/8 of its size, where that is enough
    EXACT = "exact"  # all of it, bit for bit as the library does


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


MOST_SHARDS: Final = 32
"""Of one model's queue. An id has six bits for them: 63 would fit."""

MOST_SIDE: Final = 4096
"""Pixels of a side of a network's input, at most."""


@dataclass(frozen=True)
class InputSpec:
    """What a model takes: pictures of (height, width, channels), channels 1 (grey) or 3 (RGB)."""

    width: int
    height: int
    channels: int
    fit: Fit
    resize: int = 0
    """With CROP: the length of the short side before the centre is cut out; 0: the largest centred part."""
    resample: Resample = Resample.BILINEAR
    library: Library = Library.PILLOW
    decode: Decode = Decode.FAST
    border: int = MEDIAN
    """With PAD: the value of each channel around the picture; MEDIAN: that of the picture's own border."""

    def __post_init__(self) -> None:
        """Raise ValueError for what no network takes: a card with it would take the web tier's memory."""
        sides = (self.width, self.height, self.resize)
        if not all(0 <= side <= MOST_SIDE for side in sides) or self.channels not in (1, 3):
            raise ValueError(f"an input has 1 or 3 channels, and sides of at most {MOST_SIDE} pixels")

    @cached_property
    def keeps_fractions(self) -> bool:
        """Whether pixels are not rounded to whole numbers: tf.image.resize gives its network floats."""
        return (
            self.library is Library.TENSORFLOW
            and self.resample is not Resample.NEAREST
            and self.fit is not Fit.INK
        )

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one picture's array of uint8; with fractions it has two planes for each channel."""
        return (self.height, self.width, self.channels * (2 if self.keeps_fractions else 1))

    @cached_property
    def network_shape(self) -> tuple[int, int, int]:
        """The shape of one picture's pixels, as a network takes them."""
        return (self.height, self.width, self.channels)

    @property
    def has_size(self) -> bool:
        """Whether pictures are fitted to one size; to a pipeline they go as they were uploaded."""
        return self.width > 0

    @cached_property
    def tag(self) -> str:
        """Its values in one word, such as `224-224-3-crop`: pictures of one tag are prepared alike.

        A value that is its default is left out.
        """
        values = ((of.default, getattr(self, of.name)) for of in fields(self))
        words = [str(value) for default, value in values if default is MISSING or value != default]
        return "-".join([*words, *([FRACTIONS] if self.keeps_fractions else [])])


AS_UPLOADED: Final = InputSpec(width=0, height=0, channels=3, fit=Fit.STRETCH)
"""Of a pipeline: a picture of any size. Each of its models has an input of its own."""


@dataclass(frozen=True, slots=True)
class Label:
    """A class's name, and its id where the data set has one (ImageNet: the WordNet id)."""

    class_id: str
    label: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline: a model, and what of the picture it is asked about."""

    name: str
    model: str
    crop: str = ""
    """The earlier step whose boxes are cut out; empty: the whole picture."""
    labels: tuple[str, ...] = ()
    """Only boxes with one of these labels; empty: all."""
    least: float = 0.0
    """Only boxes of this probability or more."""
    most: int = 16
    """Of a picture's boxes the most probable, so many at most."""
    margin: float = 0.0
    """So many times its width and height are added to a box on each side, inside of the picture."""
    top: int = 0
    """How many predictions the answer has; 0: as many as the model gives."""


@dataclass(frozen=True, slots=True)
class Card:
    """What the web tier must know of a model to prepare a picture and to describe the model."""

    model: str
    task: str
    input: InputSpec
    classes: int
    top: int
    """How many predictions an answer has when the client names no number."""
    top_max: int
    engine: str
    precision: str
    weights: str
    """Where the weights came from: `imagenet`, `random`, a file's name."""
    model_version: str
    """Changes with the content of the model's folder."""
    steps: tuple[Step, ...] = ()
    """Of a pipeline, each after the step whose boxes it gets; no other model has any."""
    shards: int = 1
    """Over how many shards new jobs are spread; 1: the queue is not split."""
    shards_served: int = 1
    """How many shards workers claim from, those of an earlier setting among them."""

    def __post_init__(self) -> None:
        """Raise ValueError for more shards than there can be."""
        if not (1 <= self.shards <= MOST_SHARDS and 1 <= self.shards_served <= MOST_SHARDS):
            raise ValueError(f"a queue has 1 to {MOST_SHARDS} shards")


@dataclass(frozen=True, slots=True)
class State:
    """What one worker says of itself."""

    state: WorkerState
    version: str
    reason: str = ""
    """Why it failed, or why it has not taken up its changed folder; empty otherwise."""
    rate: float = 0.0
    """Pictures a second while busy, a moving average; 0 until measured."""
    latency_ms: float = 0.0
    """Milliseconds a batch takes, a moving average; 0 until measured."""
    waiting_ms: float = 0.0
    """Milliseconds a picture waits in the queue, a moving average; 0 until measured."""
    pictures: int = 0
    """Pictures that went through the network since its process started."""
    input: str = ""
    """The tag of the pictures that it takes; this and what follows is added when it is announced."""
    since: float = 0.0
    """Redis' time of its first registration: of several versions the newest worker's card counts."""
    heartbeat: float = 0.0
    """Redis' time at which it said this."""
    card: Card | None = None
    """Its own card."""

    def __post_init__(self) -> None:
        """Raise ValueError for what nobody has counted: no sum or average could be made of it."""
        if not 0 <= self.pictures <= MOST_PICTURES:
            raise ValueError(f"a worker has run 0 to {MOST_PICTURES} pictures")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a model's ready workers are, together."""

    rate: float = 0.0
    """Pictures a second; 0 while unmeasured."""
    batch_s: float = 0.0
    """Seconds that a batch takes on the slowest of them."""

    def wait_s(self, waiting: int) -> float:
        """Seconds until a picture behind so many others is answered; 0 while the rate is unmeasured.

        Those before it, the rest of the batch that runs, then its own: two batches at most.
        """
        return waiting / self.rate + 2 * self.batch_s if self.rate > 0 else 0.0


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture and its deadline. Times are Redis' own, in seconds since 1970.

    The order of its fields is that of its JSON, where the Lua scripts read the first four.
    """

    id: str
    polled: bool = False
    """Its client polls: it stands in a list of its own, from which a claim takes its share."""
    lane: str = ""
    """`OWNER@WEIGHT`: whose job it is, and that owner's share; empty: nobody's in particular."""
    input: str = ""
    """The tag of the InputSpec that the picture was prepared for; empty: any worker may run it."""
    image: NDArray[np.uint8]
    """uint8 of InputSpec.shape, already fitted; never normalised."""
    accepted_at: float = msgspec.field(name="accepted")
    deadline: float
    reply_to: str | None
    """The web process whose channel gets the result; None: nobody waits there."""
    original_size: tuple[int, int]
    """(width, height) of the upload."""
    top: int
    traceparent: str | None
    notice: str = ""
    """What its answer must say, such as that another model answers than was asked for."""
    request_id: str = ""
    """Of the request that it came with, 128 characters at most: for the logs."""
    scores: bool = False
    """Its result has the probability of every label, too."""

    @property
    def owner(self) -> str:
        """Whose job it is; empty: nobody's in particular."""
        return owner_of(self.lane)


class PicturelessJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a dead letter keeps of a job where it does not keep its picture."""

    id: str
    image: Literal[""]
    shape: tuple[int, int, int]
    accepted_at: float = msgspec.field(name="accepted")
    original_size: tuple[int, int]
    request_id: str = ""


def owner_of(lane: str) -> str:
    """Whose lane it is: what stands before the @. A lane describes itself, so its weight needs no look-up."""
    return lane.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where the end of a job is announced. Times are Redis' own, in seconds since 1970."""

    url: str
    accepted_at: float
    deadline: float
    """The job's. After it no result comes, and that is announced."""
    request_id: str = ""
    attempts: int = 0
    """Calls that failed."""
    owner: str | UnsetType = UNSET
    """Whose job it is, where it is somebody's: nobody else may end it."""


Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the photo as uploaded, upright; x and y are the upper left corner."""


class Mask(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which pixels belong to a thing, as COCO's run lengths, or as a PNG (see pictures/rle.py)."""

    size: tuple[int, int]
    """(height, width): the photo's as uploaded, or less of a large one."""
    counts: str = ""
    """COCO's compressed run lengths, as pycocotools writes them; empty where there is a PNG."""
    form: Literal["rle", "png"] = "rle"
    """What the client gets; the model server always sends run lengths."""
    png: bytes = b""
    """White on black; base64 in JSON."""


class Keypoint(msgspec.Struct, frozen=True):
    """A point of a thing, such as a person's left knee, in pixels of the photo as uploaded."""

    name: str
    x: float
    y: float
    probability: float


class Skeleton(msgspec.Struct, frozen=True):
    """How keypoints are drawn."""

    lines: tuple[tuple[int, int], ...]
    """Pairs of points that a line connects, by their places among the keypoints."""
    least: float
    """The probability from which a point is drawn."""


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One class that the picture may show, and where, if the task says. `probability` is in 0..1.

    A struct, because a dataclass can't leave a field out of its JSON: without a box there is none.
    """

    label: str
    class_id: str
    probability: float
    box: Box | None = None
    area: float | None = None
    """The share of the picture, 0..1, that the class has; the prediction stands for all of its pixels."""
    mask: Mask | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    steps: dict[str, Any] | None = None
    """What the later steps of a pipeline say of the box, by their names: answers, as JSON."""


class Pixels(msgspec.Struct, frozen=True):
    """A picture that a network made: uint8 (height, width, channels), channels 1 or 3 (RGB)."""

    shape: tuple[int, int, int]
    data: bytes
    """In C order; base64 in JSON."""


class RawOutput(msgspec.Struct, frozen=True):
    """One output of a network, as it is: its numbers in C order."""

    shape: tuple[int, ...]
    data: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task reads from a network's outputs for one picture. What it has none of is None."""

    predictions: tuple[Prediction, ...] = ()
    values: dict[str, float] | None = None
    """A regression's numbers, by label."""
    embedding: tuple[float, ...] | None = None
    image: Pixels | None = None
    """A picture that the network made."""
    outputs: dict[str, RawOutput] | None = None
    """All outputs, by name."""
    result: dict[str, Any] | None = None
    """What the model's own code made of the outputs."""
    skeleton: Skeleton | None = None
    """How the predictions' keypoints are drawn."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no predictions: the code and message of a ServiceError."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a job's time went, in milliseconds: in the queue, forming its batch, in the network."""

    waiting: float = 0.0
    batch: float = 0.0
    model: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """The one answer of a job: predictions, or an error."""

    id: str
    model: str
    model_version: str
    predictions: tuple[Prediction, ...] = ()
    values: dict[str, float] | None = None
    embedding: tuple[float, ...] | None = None
    image: Pixels | None = None
    outputs: dict[str, RawOutput] | None = None
    result: dict[str, Any] | None = None
    skeleton: Skeleton | None = None
    """These and `predictions`: see TaskResult."""
    steps: dict[str, Any] | None = None
    """What the steps of a pipeline say of the whole picture, by their names: answers, as JSON."""
    error: Failure | None = None
    notice: str = ""
    """What a client should know of the answer, such as that the weights are random."""
    timings_ms: Timings = field(default_factory=Timings)
    batch_size: int = 0
    """Pictures in the batch that it rode in."""
    attempts: int = 0
    """How often it was recovered from a lost worker before."""
    engine: str = ""
    """What ran the network, as ENGINE spells it."""
    precision: str = ""
    """What it computed in: fp32, bf16, fp16 or int8."""
    scores: tuple[float, ...] | None = None
    """The probability of every label, in their order; only where the job asks, of a model that has such."""
    best_index: int | None = None
    """The place of the best prediction's class among the model's labels; None without predictions."""
    owner: str | UnsetType = UNSET
    """Whose job it was, where it was somebody's: no other may poll it. No answer shows it."""

    @property
    def is_empty(self) -> bool:
        """Whether the model found nothing, which is an answer too."""
        fields_ = (self.values, self.embedding, self.image, self.outputs, self.result, self.steps)
        return not self.predictions and fields_ == (None,) * 6
