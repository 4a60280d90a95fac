"""What strangers are told when Redis or a model is broken: what they can do, and nothing of the inside.

Every address, in each dialect and over gRPC. No answer may have an address, a key, a path, a command,
or another library's class or version in it; the log has all that.
"""

import contextlib
import json
import logging
import os
import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from flask import Flask
from numpy.typing import NDArray
from redis import Redis

from broker.connection import connect
from broker.keys import Keys
from model_server.engines.engine import Engine, Outputs
from model_server.serving.worker import Worker
from settings import Settings
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.pictures import png
from tests.support.redis_server import RedisServer, running_redis
from tests.support.service import disconnect
from tests.support.waiting import eventually
from tests.web.rpc.client import METHODS, RpcClient, encoded
from web.app import create_app
from web.responses import VERSION
from web.rpc.server import RpcServer

pytestmark = pytest.mark.slow

TELLTALE = re.compile(
    r"(?i:redis|valkey|werkzeug|keras|errno|/tmp|/srv|/usr|/home)|\bbw:|[A-Z]\w+(Error|Exception)\b|Traceback"
    r"|\b\d+\.\d+\.\d+|0x[0-9a-f]{4}"
    r"|\b(OOM|READONLY|WRONGTYPE|NOAUTH|NOPERM|MISCONF|MULTI|RPUSH|SETRANGE|LLEN|EVALSHA)\b"
)

BLUNDER = "ValueError at /srv/w.h5 of redis://u:p@10.0.0.5:6379, <keras.Layer at 0x7f3e01>, TensorFlow 2.21.0"
"""What a broken network says."""

SAID = "The service can't use its queue at the moment; come back in 1 s."

_JOB = uuid.uuid4()
_PICTURE = png(0)
_TENSOR = {"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0, 0, 0, 0]}
REQUESTS: list[tuple[str, str, object]] = [
    ("POST", "/predict", _PICTURE),
    ("POST", f"/predict?model={MODEL}", _PICTURE),
    ("POST", "/similarity", _PICTURE),
    ("POST", f"/v2/models/{MODEL}/infer", {"inputs": [_TENSOR]}),
    ("POST", f"/v1/models/{MODEL}:predict", {"instances": [[[[0], [0]], [[0], [0]]]]}),
    ("POST", f"/predictions/{MODEL}", _PICTURE),
    ("POST", "/infer", _PICTURE),
    ("POST", "/upload", _PICTURE),
    ("POST", "/run", _PICTURE),
    ("GET", "/classify", None),
    ("GET", f"/predictions/{_JOB}?model={MODEL}", None),
    ("GET", f"/predictions/{_JOB}/events?model={MODEL}", None),
    ("DELETE", f"/predictions/{_JOB}?model={MODEL}", None),
    ("GET", "/readyz", None),
    ("GET", f"/readyz?model={MODEL}", None),
    ("GET", "/models", None),
    ("GET", "/", None),
    ("GET", "/status", None),
    ("GET", "/status/history", None),
    ("GET", "/ping", None),
    ("GET", "/v2/health/ready", None),
    ("GET", "/v2", None),
    ("GET", f"/v2/models/{MODEL}", None),
    ("GET", f"/v2/models/{MODEL}/ready", None),
    ("GET", f"/v1/models/{MODEL}", None),
    ("GET", f"/v1/models/{MODEL}/metadata", None),
    ("GET", "/v1/models", None),
    ("POST", f"/v1/models/{MODEL}:classify", {"examples": [{"image": {"b64": "AA=="}}]}),
    ("POST", f"/v1/models/{MODEL}:regress", {"examples": [{"image": {"b64": "AA=="}}]}),
    ("POST", "/classify", _PICTURE),
    ("GET", "/run", None),
    ("GET", "/upload", None),
    ("PUT", f"/predictions/{MODEL}", _PICTURE),
    ("GET", "/v2/models", None),
    ("GET", "/v2/models/stats", None),
    ("GET", f"/v2/models/{MODEL}/config", None),
    ("GET", f"/v2/models/{MODEL}/stats", None),
    ("POST", "/v2/repository/index", None),
    ("POST", f"/v2/repository/models/{MODEL}/load", None),
    ("GET", "/v2/health/live", None),
    ("GET", "/healthz", None),
    ("GET", "/livez", None),
    ("GET", "/scaling", None),
]
OTHERS = ("files.", "docs.", "metrics.exposed")
"""Addresses that tell the same whatever is broken, or figures for their operator alone."""

_SPEC = {"name": MODEL}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("ModelInfer", encoded(_PICTURE)),
    ("ServerLive", {}),
    ("ServerReady", {}),
    ("ServerMetadata", {}),
    ("ModelReady", _SPEC),
    ("ModelMetadata", _SPEC),
    ("ModelConfig", _SPEC),
    ("ModelStatistics", _SPEC),
    ("RepositoryIndex", {}),
    ("Predict", {"model_spec": _SPEC, "inputs": {"image": {"dtype": 7, "string_val": [_PICTURE]}}}),
    ("GetModelMetadata", {"model_spec": _SPEC, "metadata_field": ["signature_def"]}),
    ("GetModelStatus", {"model_spec": _SPEC}),
    ("Check", {}),
]


def _asked(app: Flask, method: str, path: str, body: object) -> tuple[int, str]:
    """Status and body of an answer."""
    how: dict[str, object] = {"data": body, "content_type": "image/png"} if isinstance(body, bytes) else {}
    if isinstance(body, dict):
        how = {"json": body}
    response = app.test_client().open(path, method=method, **how)  # type: ignore[arg-type]
    return response.status_code, response.get_data(as_text=True)


def _called(rpc: RpcClient, method: str, fields: dict[str, Any]) -> str:
    """A call's answer, or the words of its error."""
    try:
        return str(rpc.ask(method, **fields))
    except grpc.RpcError as error:
        return str(error.details())


def _sweep(app: Flask, rpc: RpcClient) -> dict[str, tuple[int, str]]:
    """All answers by request."""
    with ThreadPoolExecutor(8) as pool:
        answers = dict(
            zip(
                (f"{method} {path}" for method, path, _ in REQUESTS),
                pool.map(lambda request: _asked(app, *request), REQUESTS),
                strict=True,
            )
        )
        told = pool.map(lambda call: _called(rpc, *call), CALLS)
        return answers | {call: (0, text) for (call, _), text in zip(CALLS, told, strict=True)}


def _telltales(answers: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """What of the inside the answers tell."""
    found = {}
    for request, (_, text) in answers.items():
        # Of a page only what it says of the trouble; its scripts have names and numbers of their own.
        problem = " ".join(re.findall(r"<p[^>]*>[^<]*", text)) if text.startswith("<!") else text
        # Ours, and TorchServe's names of its failures, which its clients know.
        problem = re.sub(rf'"{re.escape(VERSION)}"|"type":"\w+"', "", problem)
        if match := TELLTALE.search(problem):
            found[request] = problem[max(0, match.start() - 80) : match.end() + 80]
    return found


@dataclass
class Broken:
    """A service whose Redis and whose model are to be broken."""

    redis: RedisServer
    client: Redis
    engine: FakeEngine
    worker: Worker
    """It has a lease, but does not run yet."""
    app: Flask
    rpc: RpcClient


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """One for all ways: it must recover from each."""
    with running_redis() as server, connect(server.url, timeout_s=5) as client:
        settings = Settings.from_env({"REDIS_URL": server.url, "MODELS": MODEL, "REQUEST_TIMEOUT_S": "1"})
        engine = FakeEngine()
        worker = fakes.worker(client, Keys("bw:"), engine, tmp_path_factory.mktemp("model"), lease_s=300)
        app = create_app(settings)
        replies = app.extensions["jobs"].replies
        replies.start()
        rpc_server = RpcServer(settings, port=0, patience_s=2.0)
        rpc_server.start()
        with RpcClient(rpc_server.port) as rpc:
            yield Broken(server, client, engine, worker, app, rpc)
        rpc_server.stop(within_s=0)
        rpc_server.jobs.producer._redis.close()
        replies.stop()
        disconnect(app)


def _gone(broken: Broken) -> Callable[[], object]:
    broken.redis.stop(kill=True)
    return broken.redis.start


def _password(broken: Broken) -> Callable[[], object]:
    broken.client.config_set("requirepass", "other")
    broken.client.execute_command("CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal")  # type: ignore[no-untyped-call]

    def mend() -> None:
        broken.client.config_set("requirepass", "")

    return mend


def _full(broken: Broken) -> Callable[[], object]:
    broken.client.config_set("maxmemory", "1")
    return lambda: broken.client.config_set("maxmemory", "0")


def _replica(broken: Broken) -> Callable[[], object]:
    broken.client.replicaof("127.0.0.1", 1)
    return lambda: broken.client.replicaof("NO", "ONE")


def _misplaced(broken: Broken) -> Callable[[], object]:
    keys = Keys("bw:").of(MODEL)
    broken.client.set(keys.queue, "x")
    broken.client.set(keys.result(str(_JOB)), '{"id": 5}')
    return lambda: broken.client.delete(keys.queue, keys.result(str(_JOB)))


def _silent(broken: Broken) -> Callable[[], object]:
    os.kill(broken.redis.pid, signal.SIGSTOP)
    return lambda: os.kill(broken.redis.pid, signal.SIGCONT)


WAYS: dict[str, Callable[[Broken], Callable[[], object]]] = {
    "gone": _gone,
    "password": _password,
    "full": _full,
    "replica": _replica,
    "misplaced": _misplaced,
    "silent": _silent,
}


def test_every_address_and_method_is_asked(broken: Broken) -> None:
    addresses = broken.app.url_map.bind("localhost")
    asked = {addresses.match(path.partition("?")[0], method)[0] for method, path, _ in REQUESTS}
    rules = {rule.endpoint for rule in broken.app.url_map.iter_rules()}
    missing = {endpoint for endpoint in rules - asked if not endpoint.startswith(OTHERS)}
    assert not missing, f"add these to REQUESTS: {missing}"
    assert {method for method, _ in CALLS} == METHODS.keys(), "add these to CALLS"


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_redis_is_told_without_a_word_of_the_inside(
    broken: Broken, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken.app.extensions["jobs"].producer._refusals._troubles.clear()  # so soon it would not be told again
    mend = WAYS[way](broken)
    try:
        answers = _sweep(broken.app, broken.rpc)
    finally:
        mend()
    assert _telltales(answers) == {}
    status, text = answers["POST /predict"]
    assert (status, json.loads(text)["error"]["message"]) == (503, SAID)
    assert answers["ModelInfer"][1] == SAID
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any(message.startswith(("Redis can't", f"{MODEL}: Redis can't")) for message in said)
    eventually(lambda: "broker_unavailable" not in _asked(broken.app, "GET", "/readyz", None)[1])


@contextlib.contextmanager
def _at_work(worker: Worker) -> Iterator[None]:
    """A context: the worker runs in a thread; at its end it has left."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield
    worker.stopping.set()
    thread.join()


def test_a_model_that_fails_on_a_picture_and_one_that_fails_to_load_are_told_so_too(
    broken: Broken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: NDArray[np.uint8]) -> Outputs:
        raise ValueError(BLUNDER)

    def load() -> Engine:
        raise ValueError(BLUNDER)

    broken.engine.network = fails
    with _at_work(broken.worker):
        answers = _sweep(broken.app, broken.rpc)
    assert _telltales(answers) == {}
    status, text = answers["POST /predict"]
    assert (status, json.loads(text)["error"]["code"]) == (500, "inference_failed")
    assert BLUNDER in caplog.text

    failed = fakes.unregistered_worker(broken.client, Keys("bw:"), fakes.spec(tmp_path), load)
    with _at_work(failed):
        eventually(lambda: "model_unavailable" in _asked(broken.app, *REQUESTS[0])[1])
        answers = _sweep(broken.app, broken.rpc)
    assert _telltales(answers) == {}
    assert "its model.toml says" in answers["GET /models"][1]
    assert answers["POST /predict"][0] == 503


def test_a_model_that_only_a_redis_without_writes_silenced_is_not_said_to_have_no_worker(
    broken: Broken,
) -> None:
    def told() -> str:
        return str(json.loads(_asked(broken.app, *REQUESTS[0])[1])["error"]["code"])

    eventually(lambda: told() == "no_worker")  # its last worker has left
    mend = _replica(broken)
    try:
        eventually(lambda: told() == "broker_unavailable")
    finally:
        mend()
    eventually(lambda: told() == "no_worker")
