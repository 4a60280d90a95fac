"""A call from its first byte to its status: what is the same for every method.

Owns a call's id and its trace, the reading of its message within bounds, the status of an error, and how many
calls are in flight. A method is a function from a message and a Call to an answer, and raises ServiceError.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, Self, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from broker.errors import ClientError, ServiceError, Unavailable
from telemetry import tracing
from web import access_log, errors, metrics, question
from web.access_log import Exchange
from web.inference import Caller
from web.jobs import JobClient, JobOptions
from web.keys import access
from web.keys.guard import Credentials, Guard, require_right, unauthorized
from web.middleware import request_ids
from web.rpc import fields
from web.rpc.arrival import ARRIVAL_S, ArrivalWatch, MessageMemory, MessagePlace
from web.server.refusals import UploadTimeout
from web.uploads.parameters import PRIORITY
from web.uploads.reader import Upload

_LOG = logging.getLogger(__name__)

_REQUEST_ID: Final = request_ids.HEADER.lower()
_RETRY_AFTER: Final = "retry-after"
"""Metadata have names in lower case."""

_DETAILS: Final = 2000
_OTHER_DETAILS: Final = 600
"""Characters of a status' message: it travels in metadata, of which clients take 8 KB. One that is not ASCII
takes up to twelve bytes there."""


class ProtoMessage(Protocol):
    """A message of protoc's."""

    DESCRIPTOR: Any

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802 - protobuf's
        """Read one. Raises DecodeError."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's
        """Its bytes."""


_Request = TypeVar("_Request", bound=ProtoMessage)


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose message is here."""

    context: Any
    """gRPC's."""
    request_id: str
    traceparent: str | None
    started_at: float
    """Monotonic time at which its message was here."""
    most_s: float
    """For so long its client may wait."""

    def caller(self, upload: Upload, *, timeout_s: float = math.inf) -> Caller:
        """Whose pictures they are; `timeout_s`: the message says so, and the call may have less.

        Raises ClientError, Forbidden.
        """
        left_s = min(self.most_s, timeout_s, self.context.time_remaining())
        options = JobOptions(
            started_at=self.started_at,
            wait_until=self.started_at + left_s,
            traceparent=self.traceparent,
            span=tracing.CURRENT.get(),
            request_id=self.request_id,
            scores=True,
            lane=access.lane(access.KEY.get(), upload.parameters.get(PRIORITY, "")),
        )
        return Caller(options, self.is_gone)

    def is_gone(self) -> bool:
        """Whether the client has cancelled the call, or its connection broke."""
        return not self.context.is_active()


class Calls:
    """Makes methods of functions, and bounds and counts their calls."""

    def __init__(self, jobs: JobClient, *, largest: int, patience_s: float = ARRIVAL_S) -> None:
        self._jobs = jobs
        self._memory = MessageMemory(largest)
        self._watch = ArrivalWatch(self._memory, patience_s)
        self._counting = threading.Lock()
        self._in_flight = 0
        self._guard = Guard(jobs.api_keys.known) if jobs.api_keys is not None else None

    def start(self) -> None:
        """Begin to look for messages that do not come."""
        self._watch.start()

    def stop(self) -> None:
        """Look no more."""
        self._watch.stop()

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return self._in_flight

    def method(
        self,
        kind: type[_Request],
        answer: Callable[[_Request, Call], ProtoMessage],
        *,
        asks_models: bool = False,
        is_open: bool = False,
    ) -> Any:  # noqa: ANN401 - gRPC has no types
        """The handler of a method; one that `asks_models` takes a place among the requests in flight.

        One that `is_open` needs no API key. The key is judged before the message is read.

        To gRPC it is one that takes a stream, which looks the same on the wire: so the message is not read
        before there is memory for it, and a call whose message does not come can be cancelled.
        """
        name, most_s = kind.__name__.removesuffix("Request"), self._jobs.limits.request_timeout_s

        def handle(messages: Iterator[bytes], context: Any) -> bytes:  # noqa: ANN401 - gRPC has no types
            began, code = time.perf_counter(), "OK"
            metadata = _texts(context)
            request_id = request_ids.chosen(metadata.get(_REQUEST_ID, ""))
            request_ids.CURRENT.set(request_id)
            question.CURRENT.set(question.NOTHING)
            trailing, place, reply = [(_REQUEST_ID, request_id)], MessagePlace(0), b""
            try:
                self._judge(metadata, is_open=is_open)
                with self._counted(), self._place(asks_models=asks_models) as place:
                    trace = tracing.well_formed(metadata.get("traceparent", ""))
                    # Without a name: the method drops its message, which may be large, before it waits.
                    reply = answer(
                        _parsed(kind, self._read(messages, context, place)),
                        Call(context, request_id, trace, time.monotonic(), most_s),
                    ).SerializeToString()
            except Exception as error:  # noqa: BLE001 - whatever it is becomes a status
                failure = _known(error)
                code = _status(failure)
                _abort(context, failure, trailing, name)
            else:
                context.set_trailing_metadata(trailing)
                _LOG.debug("%s: OK", name)
                return reply
            finally:
                seconds = time.perf_counter() - began
                metrics.called(name, code=code, seconds=seconds)
                _write(name, code, seconds, context, request_id, sizes=(place.received, len(reply)))
                request_ids.CURRENT.set(request_ids.NONE)
                access.carry(None)

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(
        self,
        kind: type[_Request],
        begin: Callable[[_Request, Any, Callable[[ProtoMessage], None]], None],
        *,
        is_open: bool = False,
    ) -> Any:  # noqa: ANN401 - gRPC has no types
        """The handler of a method with many answers; `begin` gets gRPC's context and what sends one.

        One that `is_open` needs no API key.

        The call goes on once `begin` has returned, and takes no thread. To send takes as long as the client
        likes: do it within `sending`.
        """

        def handle(messages: Iterator[bytes], context: Any, send: Callable[[ProtoMessage], None]) -> None:  # noqa: ANN401
            name, began = kind.__name__.removesuffix("Request"), time.perf_counter()

            def write(code: str = "OK") -> None:
                _write(name, code, time.perf_counter() - began, context)

            try:
                self._judge(_texts(context), is_open=is_open)
                with self._counted(), self._place(asks_models=False) as place:
                    request = _parsed(kind, self._read(messages, context, place))
                begin(request, context, send)
                context.add_callback(write)
            except Exception as error:  # noqa: BLE001 - whatever it is becomes a status
                failure = _known(error)
                write(_status(failure))
                _abort(context, failure, [], name)

        handle.experimental_non_blocking = True  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(
            handle, response_serializer=lambda answer: answer.SerializeToString()
        )

    def sending(self, context: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - gRPC has no types
        """A context in which an answer of a stream leaves, or the call is cancelled."""
        return self._watch.watching(context)

    def _judge(self, metadata: Mapping[str, str], *, is_open: bool) -> None:
        """Have the call's API key judged, where calls need one. Raises Unauthorized, Forbidden."""
        access.carry(None)
        if self._guard is not None and not is_open:
            credentials = Credentials(metadata.get("authorization", ""), metadata.get("x-api-key", ""))
            if credentials.is_basic:  # browsers alone have it
                raise unauthorized()
            key = self._guard.recognise(credentials)
            access.carry(key)
            require_right(key, "predict")

    @contextlib.contextmanager
    def _place(self, *, asks_models: bool) -> Iterator[MessagePlace]:
        """A place for a call and its message. Raises Overloaded."""
        slot = self._jobs.places.slot() if asks_models else contextlib.nullcontext()
        with slot, self._memory.place() as place:
            yield place

    def _read(self, messages: Iterator[bytes], context: Any, place: MessagePlace) -> bytes:  # noqa: ANN401 - gRPC has no types
        with self._watch.watching(context):
            try:
                data = next(messages)
            except StopIteration:
                if context.is_active():
                    raise ClientError("The call has no message.") from None
                data = None
            except grpc.RpcError:
                data = None
        if data is None:
            raise UploadTimeout("The call was cancelled, or its message was too large or took too long.")
        place.received = len(data)
        self._memory.shrink(place, len(data))
        return data

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._counting:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._counting:
                self._in_flight -= 1


def _texts(context: Any) -> dict[str, str]:  # noqa: ANN401 - gRPC has no types
    """The call's metadata that are text."""
    return {name: text for name, text in context.invocation_metadata() if isinstance(text, str)}


def _parsed(kind: type[_Request], data: bytes) -> _Request:
    fields.require_few(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise fields.unreadable() from None


def _known(error: Exception) -> ServiceError:
    """The error that its client sees; what is no ServiceError is a bug, and logged."""
    if isinstance(error, ServiceError):
        return error.as_outcome()
    _LOG.error("unexpected error; this is a bug", exc_info=error)
    return ServiceError("The service failed on this request; its log says why.")


def _write(
    name: str,
    code: str,
    seconds: float,
    context: Any,  # noqa: ANN401 - gRPC has no types
    request_id: str = "",
    sizes: tuple[int, int] = (0, 0),
) -> None:
    """The line of a call; `sizes` are the bytes that came and that left."""
    if access_log.is_on():
        client, key = _peer(context), access.owner()
        exchange = Exchange(name, code, *sizes, seconds, request_id, client, "grpc", key)
        access_log.answered(exchange, question.CURRENT.get())


def _peer(context: Any) -> str:  # noqa: ANN401 - gRPC has no types
    """The client's address, as gRPC writes it, less its kind and its port: ipv4:127.0.0.1:5000."""
    kind, _, place = unquote(context.peer()).partition(":")
    return place.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


def _status(error: ServiceError) -> str:
    """The name of gRPC's status of an error."""
    return errors.RPC_STATUS.get(error.code, "INTERNAL")


def _abort(
    context: Any,  # noqa: ANN401 - gRPC has no types
    error: ServiceError,
    trailing: list[tuple[str, str]],
    about: str,
) -> NoReturn:
    """End the call with the error's status."""
    status = _status(error)
    if isinstance(error, Unavailable):
        trailing.append((_RETRY_AFTER, str(error.retry_after_s)))
    # An overloaded service refuses by the thousand, and has no time to log each refusal.
    _LOG.log(logging.INFO if status == "INTERNAL" else logging.DEBUG, "%s: %s", about, status)
    context.set_trailing_metadata(trailing)
    most = _DETAILS if error.message.isascii() else _OTHER_DETAILS
    context.abort(grpc.StatusCode[status], error.message[:most])
    raise error  # not reached: gRPC raises an exception of its own
