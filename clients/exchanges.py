"""What the client does, without doing it: requests made, answers read, pauses and retries decided.

Owns the exchanges with the service. Does no I/O: each exchange is a generator of steps, which a client of
clients/client.py takes and answers, with threads or with asyncio. So both have one logic.
"""

import math
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from os import PathLike
from typing import Any, BinaryIO, Final, TypeVar, cast

import httpx
import msgspec

from clients.answers import Answer, ErrorDetail, ModelList
from clients.errors import (
    AnswerTimeout,
    BatchwireError,
    ConnectionFailure,
    RequestRefusal,
    UnreadableAnswer,
    class_for,
)
from clients.retrying import Retrying, may_pass

Picture = bytes | str | PathLike[str] | BinaryIO
"""A picture's bytes, the path of its file, or an open file."""

_T = TypeVar("_T")
_USER: Final = re.compile(r"//[^/@]*@")
"""The user and the password of an address, which belong into no message."""

_SHOWN: Final = 200
"""So many characters of an answer that is not the service's are repeated in an error."""


@dataclass(frozen=True, slots=True)
class ReadPicture:
    """A step: read a picture. Its reply is the bytes; an OSError is raised where the step is taken."""

    picture: Picture


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A step: send a request, once. Its reply is an httpx.Response or an httpx.RequestError."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait. Its reply is None."""

    seconds: float


Step = ReadPicture | SendRequest | Pause
Exchange = Generator[Step, Any, _T]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The exchanges of one client."""

    retrying: Retrying
    hold_s: int = 8
    """For so long the service may hold a request for a result, which is less than one may be silent."""
    clock: Clock = time.monotonic

    def predict(self, picture: Picture, model: str | None, top: int | None) -> Exchange[Answer]:
        """Send a picture, and read its answer."""
        response = yield from self._send_picture(picture, model, top, {})
        return _answer(response)

    def submit(
        self, picture: Picture, model: str | None, top: int | None, callback_url: str | None
    ) -> Exchange[Answer]:
        """Send a picture as a job; the answer has its `id` and its `model`, and no result yet."""
        headers = {"Prefer": "respond-async"}
        response = yield from self._send_picture(picture, model, top, headers, callback_url)
        return _answer(response)

    def result(self, job_id: str, model: str, wait_s: float) -> Exchange[Answer]:
        """Ask for a job's result until it is there, for `wait_s` at most; the service holds each request."""
        now = self.clock()
        ends_at = now + wait_s
        while True:
            hold_s = max(0, min(self.hold_s, math.floor(ends_at - now)))
            response = yield from self._poll(job_id, model, hold_s)
            if response.status_code != 202:
                return _answer(response)
            # Where the request was held, that was a pause.
            asked_at, now = now, self.clock()
            pause_s = max(0.0, (_retry_after_s(response) or 1.0) - (now - asked_at))
            if now + pause_s >= ends_at:
                raise AnswerTimeout(
                    "job_pending", f"The job has no result after {wait_s:g} s; ask again.", job_id=job_id
                )
            if pause_s:
                yield Pause(pause_s)
                now = self.clock()

    def _poll(self, job_id: str, model: str, hold_s: int) -> Exchange[httpx.Response]:
        """Ask once, held for so long; at once where the service has no place for another that waits."""
        request = SendRequest("GET", f"/predictions/{job_id}", _query(model, None))
        if hold_s:
            reply = yield replace(request, query=request.query | {"wait": str(hold_s)})
            failure = _failure(reply)
            if failure is None:
                return cast(httpx.Response, reply)
            if failure.job_id or not may_pass(failure):
                raise failure
        return (yield from self._send(request))

    def cancel(self, job_id: str, model: str) -> Exchange[bool]:
        """End a job, or drop its result; whether there was one."""
        try:
            yield from self._send(SendRequest("DELETE", f"/predictions/{job_id}", _query(model, None)))
        except RequestRefusal as refusal:
            if refusal.code not in ("not_found", "job_lost", "result_expired"):
                raise
            return False
        return True

    def models(self) -> Exchange[ModelList]:
        """List the models."""
        response = yield from self._send(SendRequest("GET", "/models"))
        return _read(response, ModelList)

    def is_ready(self, model: str | None) -> Exchange[bool]:
        """Ask once whether a model, or any, is ready."""
        reply = yield SendRequest("GET", "/readyz", _query(model, None))
        failure = _failure(reply)
        if failure is None:
            return True
        if isinstance(failure, ConnectionFailure | AnswerTimeout) or failure.status in (502, 503):
            return False
        raise failure

    def _send_picture(
        self,
        picture: Picture,
        model: str | None,
        top: int | None,
        headers: dict[str, str],
        callback_url: str | None = None,
    ) -> Exchange[httpx.Response]:
        content = yield ReadPicture(picture)
        query = _query(model, top) | ({"callback_url": callback_url} if callback_url else {})
        # Without a Content-Type: the service finds the format in the picture itself.
        return (yield from self._send(SendRequest("POST", "/predict", query, headers, content)))

    def _send(self, request: SendRequest) -> Exchange[httpx.Response]:
        """Send a request until it succeeds. Raises what can't be helped by sending it again."""
        began_at = self.clock()
        for attempt in count():
            reply = yield request
            failure = _failure(reply)
            if failure is None:
                break
            elapsed_s = self.clock() - began_at
            pause_s = self.retrying.pause_s(failure, attempt=attempt, elapsed_s=elapsed_s)
            # A job that is polled has failed for good, whatever its status.
            if pause_s is None or (failure.job_id and request.method == "GET"):
                raise failure
            yield Pause(pause_s)
        return reply  # type: ignore[no-any-return]


def _query(model: str | None, top: int | None) -> dict[str, str]:
    query = {"model": model or "", "top": "" if top is None else str(top)}
    return {name: value for name, value in query.items() if value}


@dataclass(frozen=True, slots=True)
class _FailureBody:
    """The JSON of a failure."""

    error: ErrorDetail
    id: str = ""
    request_id: str = ""


def _failure(reply: httpx.Response | httpx.RequestError) -> BatchwireError | None:
    """The error that a reply is; None for a good answer."""
    if isinstance(reply, httpx.RequestError):
        return _of_connection(reply)
    if reply.is_success:
        return None
    if reply.status_code < 400:
        target = _USER.sub("//", reply.headers.get("Location", "elsewhere"))
        return UnreadableAnswer(
            "redirected",
            f"{_address(reply.url)} redirects to {target}: use that address.",
            status=reply.status_code,
        )
    try:
        failure = msgspec.json.decode(reply.content, type=_FailureBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = reply.text[:_SHOWN].strip() or reply.reason_phrase
        failure = _FailureBody(ErrorDetail(code=f"http_{reply.status_code}", message=text))
    return class_for(reply.status_code, failure.error.code)(
        failure.error.code,
        failure.error.message,
        status=reply.status_code,
        request_id=failure.request_id or reply.headers.get("X-Request-ID", ""),
        retry_after_s=_retry_after_s(reply),
        job_id=failure.id,
    )


def _of_connection(error: httpx.RequestError) -> BatchwireError:
    url = error.request.url
    detail = (str(error) or type(error).__name__).rstrip(".")
    match error:
        # No answer in time; but a connection that takes too long to open is one that failed.
        case httpx.ReadTimeout() | httpx.WriteTimeout() | httpx.PoolTimeout():
            return AnswerTimeout("timeout", f"{url.host} did not answer in time.")
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return ConnectionFailure("no_connection", f"No connection to {_address(url)}: {detail}.")
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError() | httpx.DecodingError():
            return UnreadableAnswer("unreadable_answer", f"{_address(url)}: {detail}.")
    return ConnectionFailure("connection_lost", f"The connection to {_address(url)} broke: {detail}.")


def _address(url: httpx.URL) -> str:
    """Scheme, host and port; a URL may have a password, which belongs into no message."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _retry_after_s(response: httpx.Response) -> float | None:
    """The seconds of Retry-After, which may be a number or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _answer(response: httpx.Response) -> Answer:
    raw = _read(response, dict[str, Any])
    try:
        answer = msgspec.convert(raw, Answer)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _unreadable(response, str(error)) from error
    if not answer.success:
        raise _unreadable(response, "its `success` is false")
    return replace(answer, raw=raw, request_id=response.headers.get("X-Request-ID", ""))


def _read(response: httpx.Response, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(response, str(error)) from error


def _unreadable(response: httpx.Response, why: str) -> UnreadableAnswer:
    kind = response.headers.get("Content-Type", "no type")
    return UnreadableAnswer(
        "unreadable_answer",
        f"{_address(response.url)} gives no answer of this service ({response.status_code}, {kind}): {why}.",
        status=response.status_code,
        request_id=response.headers.get("X-Request-ID", ""),
    )
