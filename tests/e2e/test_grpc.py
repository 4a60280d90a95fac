"""The process of gRPC: killed under load, drained, turned off, and what is in its way."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from settings import EXIT_CONFIG
from tests.e2e.test_serve import SMALL, Serving, project
from tests.support import ROOT, http
from tests.support.pictures import drawn_digit
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, SHADE, Stack, free_port, shade
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded, is_closed, read
from web.dialects.open_inference.tensors import HEADER
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.protos import tensorflow_serving_pb2 as tf

__all__ = ["project"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENTS = 8


class Load:
    """Clients that ask for digits, each its own, and count what they are told."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each,)) for each in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, digit: int) -> None:
        picture = drawn_digit(digit)
        with RpcClient(self._port, **{"grpc.max_reconnect_backoff_ms": 200}) as client:
            while not self._over.is_set():
                try:
                    answer = client.ask("ModelInfer", timeout=15, **encoded(picture, model_name="digits"))
                except grpc.RpcError as error:
                    self.answers[error.code().name] += 1
                    time.sleep(0.02)
                else:
                    best = read(answer)["probabilities"].argmax()
                    self.answers["right" if best == digit else f"{best} for a {digit}"] += 1


def test_killed_under_load_it_is_back_and_nothing_is_wrong(project: Path) -> None:
    grpc_port = free_port()
    serving = Serving(project, **SMALL | {"GRPC_PORT": str(grpc_port)})
    try:
        serving.wait_ready()
        with Load(grpc_port) as load:
            eventually(lambda: load.answers["right"] > 50, within_s=60)
            victim = serving.pid("web.rpc")
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            eventually(lambda: load.answers["UNAVAILABLE"] > 0)
            before = load.answers["right"]
            eventually(lambda: load.answers["right"] > before + 50, within_s=60)
            back_s = time.monotonic() - began
        assert serving.pid("web.rpc") != victim
        assert set(load.answers) == {"right", "UNAVAILABLE"}
        assert back_s < 20  # one or two, where nobody else has the cores
    finally:
        assert serving.end() == 0


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The web tier, gRPC's process, and no model server yet."""
    stack = Stack(tmp_path, own_redis.url)
    try:
        stack.start_web()
        yield stack
    finally:
        stack.stop()


def _asked(client: RpcClient) -> grpc.Future:
    call: grpc.Future = client.method("ModelInfer").future(
        pb.ModelInferRequest(**encoded(shade(SHADE), model_name=MODEL)), timeout=30
    )
    return call


def test_sigterm_answers_what_is_in_flight_and_takes_nothing_new(stack: Stack) -> None:
    stack.start_model_server(delay_s=1.5)
    process = stack.start_grpc()
    with RpcClient(stack.grpc_port) as client, RpcClient(stack.grpc_port) as other:
        eventually(lambda: client.ask("Check").status == 1)
        call = _asked(client)
        eventually(lambda: stack.executed() == [SHADE])
        process.send_signal(signal.SIGTERM)
        eventually(lambda: is_closed(stack.grpc_port))
        assert other.refused("ServerLive", timeout=5).code() is grpc.StatusCode.UNAVAILABLE
        rows = read(call.result())["probabilities"]
        assert rows.argmax(axis=1).tolist() == [SHADE]
    assert process.wait(timeout=10) == 0


def test_answers_are_those_of_both_doors_whatever_the_picture(stack: Stack) -> None:
    stack.start_model_server()
    stack.start_grpc()
    with RpcClient(stack.grpc_port) as client:
        values = [0, 7, 128, 200, 253]
        answer = client.ask("ModelInfer", **encoded(*map(shade, values), model_name=MODEL))
        rows = read(answer)["probabilities"]
        assert np.abs(rows - np.eye(256)[values]).max() <= 1e-6


def _inferred(client: RpcClient, value: int) -> NDArray[Any]:
    """The probabilities by the Open Inference Protocol."""
    answer = client.ask("ModelInfer", **encoded(shade(value), model_name=MODEL))
    probabilities: NDArray[Any] = read(answer)["probabilities"][0]
    return probabilities


def _predicted(client: RpcClient, value: int) -> NDArray[Any]:
    """The same by TensorFlow Serving's."""
    picture = {"dtype": tf.DT_STRING, "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [shade(value)]}
    answer = client.ask("Predict", model_spec={"name": MODEL}, inputs={"image_bytes": picture})
    return np.frombuffer(answer.outputs["probabilities"].tensor_content, "<f4")


@pytest.mark.parametrize("ask", [_inferred, _predicted])
def test_a_killed_model_server_costs_no_call(
    stack: Stack, ask: Callable[[RpcClient, int], NDArray[Any]]
) -> None:
    victim = stack.start_model_server(delay_s=0.2)
    stack.start_model_server(delay_s=0.2)
    stack.start_grpc()
    told: list[str] = []
    over = threading.Event()

    def calls(first: int) -> None:
        shades = itertools.cycle(range(first, 240, CLIENTS))  # no two clients have one of the same shade
        with RpcClient(stack.grpc_port) as client:
            while not over.is_set():
                value = next(shades)
                try:
                    rows = ask(client, value)
                except grpc.RpcError as error:
                    told.append(error.code().name)
                else:
                    told.append("right" if np.abs(rows - np.eye(256)[value]).max() <= 1e-6 else "wrong")

    threads = [threading.Thread(target=calls, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(told) > 2 * CLIENTS)
        executed = len(stack.executed())
        eventually(lambda: len(stack.executed()) > executed)  # some batch has just begun
        victim.kill()
        before = len(told)
        eventually(lambda: len(told) > before + 4 * CLIENTS, within_s=30)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(told) == {"right"}
    assert len(stack.executed()) >= len(told)


def test_an_answer_is_kept_for_both_doors(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["RESULT_CACHE_S"] = "60"
    try:
        stack.start_web()
        stack.start_model_server()
        stack.start_grpc()
        with RpcClient(stack.grpc_port) as client:
            first, again = (
                client.ask("ModelInfer", **encoded(shade(SHADE), model_name=MODEL)) for _ in range(2)
            )
        assert first == again
        address = f"{stack.url}/v2/models/{MODEL}/infer"
        over_http = http.post(address, content=shade(SHADE), headers={HEADER: "0"}, timeout=20)
        assert over_http.headers["X-Cache"] == "hit"
        assert stack.executed() == [SHADE]
    finally:
        stack.stop()


def test_connections_that_say_nothing_are_closed(stack: Stack) -> None:
    process = psutil.Process(stack.start_grpc().pid)
    idle = [socket.create_connection(("127.0.0.1", stack.grpc_port)) for _ in range(50)]

    def established() -> int:
        return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))

    try:
        eventually(lambda: established() >= 50)
        with RpcClient(stack.grpc_port) as client:
            assert client.ask("ServerLive").live
        eventually(lambda: established() < 5, within_s=30)
    finally:
        for each in idle:
            each.close()


def _started(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "web.rpc"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_turned_off_it_waits_to_be_stopped() -> None:
    process = _started(GRPC_PORT="0", REDIS_URL="redis://127.0.0.1:9/0")
    assert process.stderr is not None
    assert "GRPC_PORT is 0" in process.stderr.readline()
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [({}, "REDIS_URL is not set"), ({"GRPC_PORT": "x"}, "GRPC_PORT='x' is not 0 or a whole number from 1")],
)
def test_a_wrong_setting_is_said_and_not_tried_again(environment: dict[str, str], words: str) -> None:
    process = _started(**environment)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, words in said) == (EXIT_CONFIG, True), said


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = _started(GRPC_PORT=str(port), REDIS_URL="redis://127.0.0.1:9/0")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"port {port} on 127.0.0.1 can't be opened" in said
    assert "Traceback" not in said
