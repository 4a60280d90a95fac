"""Who gives way and who is late, of connections that only say what they hold."""

from dataclasses import dataclass, field
from typing import cast

import pytest

from web.server.connection import Connection
from web.server.stages import HELD_BYTES, Arriving, Lingering, Sending


@dataclass(eq=False)
class FakeSocket:
    """So many bytes of its answer are left."""

    left: int = 0
    deadline: float = 0.0

    def begin(self, now: float) -> None:
        self.deadline = now + 5

    def shutdown(self, how: int) -> None:
        pass


@dataclass(eq=False)
class FakeConnection:
    """A connection that nobody is at the other end of."""

    sock: FakeSocket = field(default_factory=FakeSocket)
    held: int = 0
    deadline: float = 0.0
    discarded: int = 0

    def begin(self, *, at_most: int, now: float) -> None:
        self.deadline = now + at_most

    def feed(self, data: bytes, _: float) -> bool:
        self.held += len(data)
        return data.endswith(b".")

    def done(self) -> bytes:
        self.held = 0
        return b""


def _sending(*left: int) -> tuple[Sending, list[Connection]]:
    sending = Sending(0)
    connections = [cast(Connection, FakeConnection(FakeSocket(each))) for each in left]
    for each in connections:
        sending.begin(each, 0.0)
    return sending, connections


def test_of_too_much_that_is_unread_the_most_gives_way() -> None:
    sending, (_, most, _) = _sending(10, 30, 20)
    assert sending.too_much() is None
    sending.unsent_most = 59
    assert sending.too_much() is most
    sending.leave(most)
    assert (sending.unsent, sending.too_much(), len(sending)) == (30, None, 2)


def test_of_too_much_that_arrives_the_largest_gives_way_and_nobody_at_work() -> None:
    arriving = Arriving(100)
    arriving.held_most = 50
    connections = [cast(Connection, FakeConnection()) for _ in range(3)]
    for each, size in zip(connections, (10, 25, 15), strict=True):
        arriving.begin(each, 0.0)
        assert not arriving.feed(each, b"x" * size, 0.0)
    assert arriving.too_much() is None
    assert arriving.feed(connections[1], b".", 0.0)
    assert (arriving.held, arriving.too_much()) == (51, connections[2])
    arriving.done(connections[1])
    assert (arriving.held, arriving.too_much(), len(arriving)) == (25, None, 2)


@pytest.mark.parametrize(("one", "most"), [(0, HELD_BYTES), (HELD_BYTES, 2 * HELD_BYTES)])
def test_two_of_the_largest_requests_always_have_room(one: int, most: int) -> None:
    assert (Arriving(one).held_most, Sending(one).unsent_most) == (most, most)


def test_who_is_late() -> None:
    sending, connections = _sending(1, 1)
    assert (sending.late(4.9), sending.late(5.0)) == ([], connections)


def test_what_a_client_sends_after_its_answer_is_thrown_away_up_to_a_bound() -> None:
    lingering, conn = Lingering(100), cast(Connection, FakeConnection())
    lingering.begin(conn, 0.0)
    assert [lingering.discard(conn, count) for count in (300, 100, 1)] == [True, True, False]
    assert not lingering.discard(cast(Connection, FakeConnection()), 0)  # it has closed
