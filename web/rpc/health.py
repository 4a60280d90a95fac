"""`grpc.health.v1.Health`: whether the service can be asked, for the server and for each of its services.

Owns the answer and its age: a thread looks it up once a second, and a check costs Redis nothing. Ready means
what /readyz means.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2

from broker.errors import ServiceError
from web.dialects.open_inference import models
from web.errors import NotFound
from web.jobs import JobClient
from web.rpc.calls import Call, Calls

_LOG = logging.getLogger(__name__)

SERVICE: Final = health.SERVICE_NAME

_LOOK_S: Final = 1.0

_WATCHERS: Final = 2
"""Threads that begin to watch; one that watches takes none."""

_Status = health_pb2.HealthCheckResponse


class ServiceHealth:
    """The state of the services, and the two methods that tell it."""

    def __init__(self, jobs: JobClient, services: Sequence[str]) -> None:
        self._jobs = jobs
        self._services = ("", *services)
        self._status: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health", daemon=True)
        self._servicer = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(_WATCHERS)
        )
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
        return {
            "Check": calls.method(health_pb2.HealthCheckRequest, self.check),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._servicer.Watch,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=_Status.SerializeToString,
            ),
        }

    def check(self, request: Any, _: Call) -> Any:  # noqa: ANN401 - gRPC has no types
        """Tell the state. Raises NotFound for a service that there is not."""
        if request.service not in self._services:
            raise NotFound(
                f"Unknown service {request.service[:60]!r}. Known: {', '.join(self._services[1:])}."
            )
        return _Status(status=self._status)

    def look(self) -> None:
        """Find out the state."""
        try:
            models.require_any_ready(self._jobs)
        except ServiceError as error:
            _LOG.debug("not ready: %s", error.message)
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
            for service in self._services:
                self._servicer.set(service, status)
