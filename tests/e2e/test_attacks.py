"""Requests that try to be two, or another than they seem, against a real web process, and through nginx."""

import contextlib
import socket
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from tests.e2e.attacks import ATTACKS, CLOSED, OPEN, Attack
from tests.support.nginx import running_nginx
from tests.support.redis_server import running_redis
from tests.support.stack import Stack, web_up

pytestmark = pytest.mark.slow

_MARKER = b"the-next-request"
_NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: %b\r\n\r\n" % _MARKER


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One web process for all of them: it must bear each after the others."""
    with running_redis() as redis, web_up(Stack(tmp_path_factory.mktemp("attacks"), redis.url)) as stack:
        yield stack


@pytest.fixture(scope="module")
def nginx(web: Stack) -> Iterator[int]:
    """The port of nginx in front of it."""
    with running_nginx(web.folder / "nginx", web.port) as url:
        yield int(url.rpartition(":")[2])


def _answers(port: int, sent: bytes) -> tuple[tuple[int, ...], str]:
    """The statuses of all answers to what is sent, and what becomes of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            client.sendall(sent)
            client.sendall(_NEXT)
        statuses: list[int] = []
        with client.makefile("rb") as file:
            while answer := _answer(file):
                if answer[1].get(b"x-request-id") == _MARKER:
                    return tuple(statuses), OPEN
                statuses.append(answer[0])
        return tuple(statuses), CLOSED


def _answer(file: BinaryIO) -> tuple[int, dict[bytes, bytes]] | None:
    """The next answer's status and fields, passing over interim ones; None where there is none any more."""
    try:
        first = file.readline()
    except ConnectionError:
        return None
    if not first:
        return None
    assert first.startswith(b"HTTP/1."), first  # or the end of the answer before was another
    fields = {}
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    file.read(int(fields.get(b"content-length", 0)))
    status = int(first.split()[1])
    return (status, fields) if status >= 200 else _answer(file)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_gets_its_answers_and_nothing_else_is_answered(web: Stack, attack: Attack) -> None:
    assert _answers(web.port, attack.sent) == (attack.statuses, attack.ends)
    assert _answers(web.port, b"") == ((), OPEN)  # others are served


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.smuggles], ids=lambda attack: attack.name
)
def test_through_nginx_no_second_request_is_answered_either(nginx: int, attack: Attack) -> None:
    statuses, _ = _answers(nginx, attack.sent)
    assert len(statuses) == 1
    assert statuses[0] >= 400 or attack.statuses == (200,)
    assert _answers(nginx, b"") == ((), OPEN)
