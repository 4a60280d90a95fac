"""`grpc.health.v1.Health`: whether the service can be asked, for the server and for each of its services.

Owns the answer and its age: a thread looks it up once a second, and a check costs Redis nothing. Ready means
what /readyz means.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from grpc_health.v1 import health, health_pb2

from broker.errors import Overloaded, ServiceError
from web.dialects.open_inference import models
from web.errors import NotFound
from web.jobs import JobClient
from web.rpc.calls import Call, Calls

_LOG = logging.getLogger(__name__)

SERVICE: Final = health.SERVICE_NAME

_LOOK_S: Final = 1.0

_WATCHERS: Final = 1200
"""One a connection."""

_SENDERS: Final = 8
"""Threads that tell those who watch. A client that does not read keeps one until its call is cancelled."""

_Status = health_pb2.HealthCheckResponse

_Send = Callable[[Any], None]


class _Watcher:
    """A client that watches a service."""

    def __init__(self, context: Any, send: _Send, *, is_known: bool) -> None:  # noqa: ANN401 - gRPC has no types
        self.context = context
        self.send = send
        self.is_known = is_known
        """Whether there is such a service."""
        self.told: Any = None
        self.telling = threading.Lock()


class ServiceHealth:
    """The state of the services, and the two methods that tell it."""

    def __init__(self, jobs: JobClient, services: Sequence[str]) -> None:
        self._jobs = jobs
        self._services = ("", *services)
        self._status: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health", daemon=True)
        self._watchers: set[_Watcher] = set()
        self._watching = threading.Lock()
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="watchers")
        self._tell(_Status.NOT_SERVING)

    def start(self) -> None:
        """Look now, and then once a second."""
        self.look()
        self._thread.start()

    def drain(self) -> None:
        """Say from now on that nothing can be asked."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._tell(_Status.NOT_SERVING)

    def handlers(self, calls: Calls) -> dict[str, Any]:
        """Method -> gRPC's handler of it."""

        def watch(request: Any, context: Any, send: _Send) -> None:  # noqa: ANN401 - gRPC has no types
            def send_in_time(answer: Any) -> None:  # noqa: ANN401 - a message
                with calls.sending(context):
                    send(answer)

            self.watch(request, context, send_in_time)

        return {
            "Check": calls.method(health_pb2.HealthCheckRequest, self.check, is_open=True),
            "Watch": calls.stream(health_pb2.HealthCheckRequest, watch, is_open=True),
        }

    def check(self, request: Any, _: Call) -> Any:  # noqa: ANN401 - gRPC has no types
        """Tell the state. Raises NotFound for a service that there is not."""
        if request.service not in self._services:
            raise NotFound(
                f"Unknown service {request.service[:60]!r}. Known: {', '.join(self._services[1:])}."
            )
        return _Status(status=self._status)

    def watch(self, request: Any, context: Any, send: _Send) -> None:  # noqa: ANN401 - gRPC has no types
        """Tell the state, and from then on each other one. Raises Overloaded where too many watch."""
        watcher = _Watcher(context, send, is_known=request.service in self._services)
        with self._watching:
            if len(self._watchers) >= _WATCHERS:
                raise Overloaded(f"{_WATCHERS} clients watch the health already: ask Check.")
            self._watchers.add(watcher)
        # False: the call is over already.
        if not context.add_callback(lambda: self._forget(watcher)):
            self._forget(watcher)
        self._tell_one(watcher)

    def look(self) -> None:
        """Find out the state."""
        try:
            models.require_any_ready(self._jobs)
        except ServiceError as error:
            _LOG.debug("not ready: %s", error.detail)
            self._tell(_Status.NOT_SERVING)
        else:
            self._tell(_Status.SERVING)

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - the thread must go on
                _LOG.exception("unexpected error; this is a bug")

    def _tell(self, status: Any) -> None:  # noqa: ANN401 - gRPC has no types
        if status != self._status:
            self._status = status
            with self._watching:
                watchers = [*self._watchers]
            for watcher in watchers:
                self._senders.submit(self._tell_one, watcher)

    def _forget(self, watcher: _Watcher) -> None:
        with self._watching:
            self._watchers.discard(watcher)

    def _tell_one(self, watcher: _Watcher) -> None:
        with watcher.telling:
            status = self._status if watcher.is_known else _Status.SERVICE_UNKNOWN
            if status != watcher.told:
                watcher.told = status
                watcher.send(_Status(status=status))
