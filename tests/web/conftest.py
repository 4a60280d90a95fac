"""The web tier over a real Redis, with a worker whose network tells dark from bright."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from werkzeug.routing.rules import Rule

from broker.keys import Keys
from settings import Settings
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.service import Service, disconnect
from tests.web.rpc.client import RpcClient
from tests.web.server.serving import Serving
from web.app import create_app
from web.rpc.server import RpcServer
from web.server import request_reader, stages


@pytest.fixture(autouse=True, scope="session")
def _compiled_once() -> Iterator[None]:
    """Werkzeug compiles two functions for each rule of each application: 16 of the 18 ms that one takes.

    Such a function is given its rule, and depends on nothing but these.
    """
    made: dict[object, Any] = {}
    compiled = Rule._compile_builder

    def compiled_once(self: Rule, append_unknown: bool = True) -> Any:  # noqa: ANN401
        key = (self.rule, tuple(self._trace), repr(self.defaults), append_unknown)
        if key not in made:
            made[key] = compiled(self, append_unknown)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", compiled_once)
        yield


@pytest.fixture
def environment() -> dict[str, str]:
    """Variables of the service; a test may parametrise it."""
    return {}


@pytest.fixture
def changes() -> dict[str, object]:
    """Fields of the model's spec; a test may parametrise it."""
    return {}


@pytest.fixture
def service(
    redis_url: str,
    client: redis.Redis,
    keys: Keys,
    tmp_path: Path,
    environment: dict[str, str],
    changes: dict[str, object],
) -> Iterator[Service]:
    """The service, its worker running."""
    settings = Settings.from_env(
        {"REDIS_URL": redis_url, "MODELS": f"{MODEL},never", "REQUEST_TIMEOUT_S": "20", **environment}
    )
    app = create_app(settings)
    replies = app.extensions["jobs"].replies
    replies.start()
    assert replies.is_subscribed(20)
    engine = FakeEngine()
    worker = fakes.worker(client, keys, engine, tmp_path, changes=changes)
    thread = threading.Thread(target=worker.run)
    with app.test_client() as http:
        yield Service(app, http, engine, worker, thread.start)
    worker.stopping.set()
    served = str(changes.get("name", MODEL))
    client.rpush(keys.of(served).bell, "1")  # so that an idle worker looks at once
    if thread.ident is not None:
        thread.join()
    replies.stop()
    disconnect(app)


@pytest.fixture
def running(service: Service) -> Service:
    """The service with its worker at work."""
    service.start_worker()
    return service


@pytest.fixture
def connections() -> int:
    """At most so many at once; a test may parametrise it."""
    return 500


@pytest.fixture
def serving(connections: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A worker that lets nobody linger for long; it is as patient as ever with what arrives."""
    monkeypatch.setattr(stages, "LINGER_S", 0.3)
    running = Serving(connections)
    yield running
    running.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short bounds on heads and bodies, for tests that wait for their end."""
    for name in ("HEAD_S", "SILENCE_S", "GRACE_S"):
        monkeypatch.setattr(request_reader, name, 0.3)


@pytest.fixture
def server(service: Service, redis_url: str, environment: dict[str, str]) -> Iterator[RpcServer]:
    """A server with the settings of the web tier; the worker may be at work or not."""
    assert service
    settings = Settings.from_env(
        {"REDIS_URL": redis_url, "MODELS": f"{MODEL},never", "REQUEST_TIMEOUT_S": "20", **environment}
    )
    server = RpcServer(settings, port=0, patience_s=2.0)
    server.start()
    assert server.jobs.replies.is_subscribed(20)
    yield server
    server.stop(within_s=0)
    server.jobs.producer._redis.close()


@pytest.fixture
def rpc(server: RpcServer) -> Iterator[RpcClient]:
    """A client of it."""
    with RpcClient(server.port) as client:
        yield client
