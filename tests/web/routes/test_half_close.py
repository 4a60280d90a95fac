"""A client that has closed its sending side waits for its answer; one that has closed both does not."""

import socket
import time
from collections.abc import Iterator

import pytest
from flask import Flask

from tests.support.waiting import eventually
from web.routes import predict

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The two ends of a TCP connection: the service's, the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=10)
        served, _ = listener.accept()
    with served, client:
        yield served, client


def _looks(served: socket.socket, *, version: str = "HTTP/1.1", most_s: float = 0.5) -> list[bool]:
    """What is seen of the client within a time, until it is seen to be gone."""
    environ = {"gunicorn.socket": served, "SERVER_PROTOCOL": version}
    seen: list[bool] = []
    with Flask("x").test_request_context("/", environ_overrides=environ):
        until = time.monotonic() + most_s
        while time.monotonic() < until and True not in seen:
            seen.append(predict.is_client_gone())
            time.sleep(0.01)
    return seen


def test_a_client_that_waits_is_there(pair: Pair) -> None:
    assert not any(_looks(pair[0], most_s=0.1))


def test_one_that_has_closed_its_sending_side_waits_still(pair: Pair) -> None:
    served, client = pair
    client.shutdown(socket.SHUT_WR)
    assert not any(_looks(served))
    served.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"


def test_one_that_has_closed_both_is_gone(pair: Pair) -> None:
    served, client = pair
    client.close()
    assert _looks(served, most_s=10)[-1]


def test_while_an_answer_is_sent_both_count_as_gone(pair: Pair) -> None:
    served, client = pair
    environ = {"gunicorn.socket": served, "SERVER_PROTOCOL": "HTTP/1.1"}
    assert not predict.has_client_gone(environ, has_begun=True)
    client.shutdown(socket.SHUT_WR)
    eventually(lambda: predict.has_client_gone(environ, has_begun=True))
    served.close()
    assert client.recv(100) == b""


def test_in_http_1_0_there_is_no_way_to_ask(pair: Pair) -> None:
    served, client = pair
    client.shutdown(socket.SHUT_WR)
    assert _looks(served, version="HTTP/1.0") == [True]
