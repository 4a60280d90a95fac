"""Who gives way and who is late, of connections that only say what they hold."""

from dataclasses import dataclass, field
from typing import cast

import pytest
from gunicorn.config import Config

from web.server.connection import Connection, Stage
from web.server.stages import (
    HELD_BYTES,
    ArrivingConnections,
    LingeringConnections,
    SendingConnections,
)


@dataclass(eq=False)
class FakeSocket:
    """So many bytes of its answer are left."""

    left: int = 0
    deadline: float = 0.0

    def begin(self, now: float) -> None:
        self.deadline = now + 5

    def shutdown(self, how: int) -> None:
        pass


HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n"


@dataclass(eq=False)
class FakeConnection:
    """A connection that nobody is at the other end of."""

    sock: FakeSocket = field(default_factory=FakeSocket)
    cfg: Config = field(default_factory=Config)
    client: tuple[str, int] = ("127.0.0.1", 1)
    peer: tuple[str, int] = ("127.0.0.1", 1)
    requests: int = 0
    discarded: int = 0
    stage: Stage = Stage.IDLE


def _sending(*left: int) -> tuple[SendingConnections, list[Connection]]:
    sending = SendingConnections(0)
    connections = [cast(Connection, FakeConnection(FakeSocket(each))) for each in left]
    for each in connections:
        sending.begin(each, 0.0)
    return sending, connections


def test_of_too_much_that_is_unread_the_most_gives_way() -> None:
    sending, (_, most, _) = _sending(10, 30, 20)
    assert (sending.unsent, sending.largest()) == (60, most)
    sending.leave(most)
    assert (sending.unsent, len(sending)) == (30, 2)


def test_of_too_much_that_arrives_the_largest_gives_way_and_nobody_at_work() -> None:
    arriving = ArrivingConnections(100)
    connections = [cast(Connection, FakeConnection()) for _ in range(3)]
    for each, size in zip(connections, (10, 25, 15), strict=True):
        assert not arriving.feed(each, HEAD + b"x" * size, 0.0)
    assert (arriving.held, arriving.largest()) == (50, connections[1])
    assert arriving.feed(connections[1], b"x" * 1, 0.0)
    assert (arriving.held, arriving.largest()) == (51, connections[2])
    assert arriving.done(connections[1]) == b""
    assert (arriving.held, len(arriving)) == (25, 2)
    arriving.leave(connections[2])
    assert (arriving.held, arriving.largest()) == (10, connections[0])


@pytest.mark.parametrize(("one", "most"), [(0, HELD_BYTES), (HELD_BYTES, 2 * HELD_BYTES)])
def test_two_of_the_largest_requests_always_have_room(one: int, most: int) -> None:
    assert (ArrivingConnections(one).held_most, SendingConnections(one).unsent_most) == (most, most)


def test_who_is_late() -> None:
    sending, connections = _sending(1, 1)
    assert (sending.late(4.9), sending.late(5.0)) == ([], connections)


def test_what_a_client_sends_after_its_answer_is_thrown_away_up_to_a_bound() -> None:
    lingering, conn = LingeringConnections(100), cast(Connection, FakeConnection())
    lingering.begin(conn, 0.0)
    conn.linger_until = 0.5
    assert [lingering.discard(conn, count, 0.0) for count in (300, 100, 1)] == [True, True, False]
    assert conn.timeout == conn.linger_until  # not for ever, whatever it sends
