"""What the coordinator and its client processes say to each other, as JSON lines, and the nouns in it.

Owns the shapes and their encoding. Times are seconds of CLOCK_MONOTONIC, which
all processes of one host share.
"""

from collections.abc import Callable
from typing import Final

import msgspec

OK: Final = "ok"
"""The outcome of a request whose answer is right; every other outcome is a kind of error."""

INTERRUPTED: Final = "interrupted"
"""The outcome of a request that the user stopped: neither right nor wrong."""


class Load(msgspec.Struct, frozen=True):
    """How hard to press: requests a second (open loop) or clients that each wait (closed loop)."""

    value: float
    is_open: bool
    poisson: bool = False

    @property
    def name(self) -> str:
        """As people say it: `20/s`, `20/s Poisson`, `8 clients`."""
        if self.is_open:
            return f"{self.value:g}/s{' Poisson' if self.poisson else ''}"
        return f"{self.value:g} client{'' if self.value == 1 else 's'}"


class Traffic(msgspec.Struct, frozen=True):
    """What is sent: which pictures, to which models, expecting which labels."""

    paths: tuple[str, ...] = ()
    draw: tuple[int, int] = (640, 480)
    """(width, height) in pixels of the pictures drawn where no path is given."""
    draw_count: int = 8
    models: tuple[tuple[str, float], ...] = (("", 1.0),)
    """(name, share) pairs; the empty name is the server's default model."""
    polled: float = 0.0
    """The share of requests sent as asynchronous jobs, 0..1."""
    expect: str = ""
    """Path of a CSV file with the columns file, label and perhaps model; empty for none."""
    seed: int = 0


class Target(msgspec.Struct, frozen=True):
    """Where to, in which form, and how an answer is judged."""

    url: str
    """May hold {model}."""
    field: str = "image"
    body: str = "multipart"
    """`multipart`, `raw`, or a template with $image_base64, $name, $model."""
    headers: tuple[tuple[str, str], ...] = ()
    check: str = "predictions"
    """`predictions`: Batchwire's answer; `label`: JSON with a label; `status`: only 2xx."""
    label: str = ""
    """JMESPath of the label in another service's answer."""
    top: int | None = None
    timeout_s: float = 15.0
    connections: int = 1000
    """How many a client process may hold at once; what waits for one is late."""
    keep_alive: bool = True


class LoadPlan(msgspec.Struct, frozen=True, tag=True):
    """The first message to a client process."""

    target: Target
    traffic: Traffic
    counts: dict[str, tuple[int, int]] = {}
    """The least and the most predictions in an answer of each model, as far as the server said."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Apply a load. This client is number `share` of `shares`."""

    load: Load
    start: float
    duration_s: float | None
    requests: int | None
    share: int
    shares: int


class Halt(msgspec.Struct, frozen=True, tag=True):
    """Send no more; with `abandon`, do not wait for what was sent either."""

    abandon: bool = False


Command = LoadPlan | Begin | Halt


class Record(msgspec.Struct):
    """What became of one request."""

    number: int
    """Counts from 0 within its point, across all client processes."""
    picture: str
    model: str
    due: float
    """When it should have left: latency counts from here."""
    sent: float | None = None
    """When it left; None when it never did."""
    ended: float = 0.0
    outcome: str = OK
    """`ok`, `interrupted`, or the kind of error."""
    message: str = ""
    status: int = 0
    """The HTTP status of the answer; 0 when there was none."""
    id: str = ""
    """The job's id, as the server sent it."""
    label: str = ""
    batch_size: int = 0
    stages_ms: dict[str, float] = {}
    """Milliseconds of the server's own stages, as the answer has them."""
    polled: bool = False


class ClientReady(msgspec.Struct, frozen=True, tag=True):
    """The client has prepared its requests."""


class Records(msgspec.Struct, frozen=True, tag=True):
    """What ended since the last such message."""

    records: list[Record]


class LoadEnd(msgspec.Struct, frozen=True, tag=True):
    """All that was begun has ended."""

    begun: int
    """How many requests it began; each of them has one record."""
    stopped: float
    """When it stopped beginning requests."""
    queued: int
    """Requests that found all connections in use."""
    cpu_s: float
    wall_s: float
    lags_ms: list[float]
    """How late the event loop woke, sampled 50 times a second: p50, p99, the largest."""


class PlanRefusal(msgspec.Struct, frozen=True, tag=True):
    """The client can't follow its orders, and ends."""

    reason: str


Report = ClientReady | Records | LoadEnd | PlanRefusal

encode = msgspec.json.Encoder().encode
decode_command: Callable[[bytes], Command] = msgspec.json.Decoder(Command).decode
decode_report: Callable[[bytes], Report] = msgspec.json.Decoder(Report).decode

_MOST_CHARACTERS: Final = 200


def plain(text: str) -> str:
    """Return a text from outside as it may be written anywhere: short, in one line, no control characters."""
    printable = (c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MOST_CHARACTERS])
    return "".join(printable).encode("utf-8", "replace").decode()
