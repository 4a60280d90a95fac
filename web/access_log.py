"""One line an answered request, at the level info (ACCESS_LOG=on): of HTTP, gRPC, and refusals of the loop.

Owns the line's words and fields, and how many lines refusals may have. Not Gunicorn's access log: that one
knows no model, no pictures and no request's id, writes the whole query, where a user's words may be, and
hears nothing of what web/server refuses without a thread.

An overloaded service refuses by the thousand. Refusals for want of room (429, 503) have `_REFUSALS_PER_S`
lines a second in a process; the others are counted, and the next line of any kind says how many it follows
(`refusals_left_out`).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from telemetry import logs
from web.question import Question

_LOG: Final = logging.getLogger(__name__)

_REFUSALS_PER_S: Final = 10
_FOR_WANT_OF_ROOM: Final = frozenset((429, 503))
_WANTS_ROOM: Final = frozenset(("UNAVAILABLE", "RESOURCE_EXHAUSTED"))

_PATH_MOST: Final = 200
_MODEL_MOST: Final = 64
"""Characters."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer."""

    what: str
    """Method and path, or gRPC's method; without a query."""
    status: int | str
    bytes_in: int
    bytes_out: int
    """Of the bodies."""
    seconds: float
    request_id: str
    client: str
    """The peer's address, or the one that a trusted proxy names."""
    dialect: str = ""
    key: str = ""
    """The name of the API key, where the request had one."""


class _Ration:
    """Lines that refusals may have."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changing = threading.Lock()
        self._second = 0
        self._written = 0
        self._left_out = 0

    def take(self, *, is_refusal: bool) -> int:
        """-1: no line for this one. Else how many refusals have had none since the last line."""
        with self._changing:
            second = int(self._monotonic())
            if second != self._second:
                self._second, self._written = second, 0
            if is_refusal and self._written >= _REFUSALS_PER_S:
                self._left_out += 1
                return -1
            self._written += is_refusal
            left_out, self._left_out = self._left_out, 0
            return left_out


_ration: Final = _Ration()
_switch: Final = {"is_on": False}


def set_up(*, is_on: bool) -> None:
    """Whether this process writes such lines."""
    _switch["is_on"] = is_on


def is_on() -> bool:
    """Whether this process writes such lines."""
    return _switch["is_on"]


def path(method: str, address: str, model: str) -> str:
    """Method and path as the log has them, with the model that the query names."""
    text = f"{method} {quote(address)[:_PATH_MOST]}"  # it may hold line feeds
    return f"{text}?model={quote(model, safe='')[:_MODEL_MOST]}" if model else text


def answered(exchange: Exchange, question: Question) -> None:
    """Write the line of a request, where it gets one."""
    is_refusal = exchange.status in _FOR_WANT_OF_ROOM or exchange.status in _WANTS_ROOM
    if not is_on() or (left_out := _ration.take(is_refusal=is_refusal)) < 0:
        return
    fields: dict[str, logs.Field] = {
        "status": exchange.status,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "seconds": round(exchange.seconds, 6),
        "client": exchange.client or logs.NONE,
    }
    if question.model:
        fields |= {"model": question.model, "pictures": question.pictures}
    for name, text in (("dialect", exchange.dialect), ("key", exchange.key)):
        if text:
            fields[name] = text
    if left_out:
        fields["refusals_left_out"] = left_out
    words = " ".join(f"{name}={value}" for name, value in fields.items() if name != "status")
    method, _, place = exchange.what.partition(" ")
    extra = logs.about(method=method, path=place, **fields, request_id=exchange.request_id)
    _LOG.info("%s: %s %s", exchange.what, exchange.status, words, extra=extra)
