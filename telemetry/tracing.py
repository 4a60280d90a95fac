"""The spans of this process, for OpenTelemetry: none at all, and nothing loaded, unless `start` was called.

Owns what the service knows of a span, and which span this thread works for. Whoever has a span asks it for
children; one that is not recorded has none but itself, so that nothing else asks whether tracing is on.
telemetry/otlp.py records and exports, and is the only module that loads OpenTelemetry.

Times are seconds since 1970 by the clock of `follow`: Redis', which all processes share, so that the spans of
hosts whose clocks disagree are in order.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from telemetry.otlp import Recorder

Attributes = Mapping[str, str | int | float | bool]

STOP_S: Final = 2.0
"""What a process that ends gives its last spans, at most."""

_PACKAGE: Final = "opentelemetry"

_SAMPLED: Final = 1
_FLAGS: Final = slice(53, 55)
_TRACE: Final = slice(3, 35)
"""Of a traceparent, which is well-formed."""

TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""A well-formed one: https://www.w3.org/TR/trace-context/#traceparent-header"""


class Kind(Enum):
    """What a span is to its parent."""

    INTERNAL = "internal"
    SERVER = "server"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(AbstractContextManager["Span", None]):
    """A span that nobody records, as all are while tracing is off."""

    __slots__ = ()

    is_recorded = False

    traceparent: str | None = None
    """Its context for another process (W3C Trace Context); None: tracing is off."""

    def child(
        self,
        name: str,  # noqa: ARG002 - here and below: it records nothing
        attributes: Attributes | None = None,  # noqa: ARG002
        *,
        kind: Kind = Kind.INTERNAL,  # noqa: ARG002
        at: float | None = None,  # noqa: ARG002
    ) -> Span:
        """A span within this one, that begins now, or at that time."""
        return self

    def rename(self, name: str) -> None:
        """Call it so."""

    def set(self, attributes: Attributes) -> None:
        """Say so of it."""

    def event(self, name: str, attributes: Attributes | None = None, *, at: float | None = None) -> None:
        """Say that something happened in it."""

    def link(self, other: Span) -> None:
        """Say that the other belongs to it, without being its parent."""

    def fail(self, code: str, message: str = "") -> None:
        """Say that what it did failed."""

    def end(self, error: BaseException | None = None, *, at: float | None = None) -> None:
        """It is over, because of an error or without one. A second end changes nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Its end, because of an error or without one."""


NOT_RECORDED: Final = Span()

_process: Final[dict[str, Recorder]] = {}
CURRENT: Final[ContextVar[Span]] = ContextVar("span", default=NOT_RECORDED)
"""The span that this thread works for."""


def hold_back() -> None:
    """Have nobody load OpenTelemetry in this process before `start` does.

    redis-py does so wherever it is installed, for nothing that this project uses: 60 ms and 3 MB a process.
    """
    sys.modules.setdefault(_PACKAGE, None)  # type: ignore[arg-type] # None: "it is not there"


def start(service: str) -> None:
    """Record and export from now on, in this process and none that it forks; `service` is its usual name."""
    if sys.modules.get(_PACKAGE, sys) is None:
        del sys.modules[_PACKAGE]
    from telemetry.otlp import Recorder  # noqa: PLC0415 - 10 MB, for those who want it

    stop(within_s=STOP_S)
    _process["recorder"] = Recorder(service)


def stop(*, within_s: float) -> None:
    """Record no more, and export what is left, for so long at most."""
    if (recorder := _process.pop("recorder", None)) is not None:
        recorder.stop(within_s=within_s)


def is_on() -> bool:
    """Whether this process records."""
    return bool(_process)


def follow(now: Callable[[], float]) -> None:
    """Take the time from there, from now on."""
    if (recorder := _process.get("recorder")) is not None:
        recorder.now = now


def begin(
    name: str,
    parent: str | None,
    attributes: Attributes | None = None,
    *,
    tracestate: str = "",
    kind: Kind = Kind.INTERNAL,
    at: float | None = None,
    links: Sequence[Span] = (),
) -> Span:
    """A span of a parent in another process, by its traceparent; None: a new trace."""
    recorder = _process.get("recorder")
    if recorder is None:
        return NOT_RECORDED
    return recorder.begin(name, parent, attributes, tracestate=tracestate, kind=kind, at=at, links=links)


def well_formed(header: str) -> str | None:
    """What a traceparent header says, where it is well-formed."""
    return header if TRACEPARENT.fullmatch(header) else None


def is_sampled(traceparent: str | None) -> bool:
    """Whether this process records spans of that parent, which may be no traceparent at all."""
    if not _process or not traceparent or TRACEPARENT.fullmatch(traceparent) is None:
        return False
    return bool(int(traceparent[_FLAGS], 16) & _SAMPLED)


def trace_id(traceparent: str | None) -> str:
    """The id of a well-formed traceparent's trace, where this process records; else an empty text."""
    return traceparent[_TRACE] if _process and traceparent else ""


def host_time() -> float:
    """The host's own clock, until there is another."""
    return time.time()
