"""The messages between a model server and the process of a model's own code, over a real socket."""

import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from model_server.hooks import wire
from model_server.hooks.wire import ArrayHeader, MalformedFrame, Message

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def _sent(pair: Pair, header: bytes, body: bytes) -> None:
    pair[0].sendall(struct.pack("<IQ", len(header), len(body)) + header + body)


def _header(*arrays: ArrayHeader) -> bytes:
    return msgspec.json.encode(Message(kind="done", arrays=arrays))


def test_arrays_of_every_kind_arrive_as_they_are_and_may_be_written_to(pair: Pair) -> None:
    arrays: list[NDArray[Any]] = [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::-1],
        np.array(2.5, np.float32),
        np.zeros((0, 3), np.int64),
        np.array([True, False]),
        np.linspace(0, 1, 100_000),
    ]
    names = ["a", "b", "c", "d", "e"]
    message = Message(kind="predict", arrays=wire.headers(arrays, names), context={"top": 5})
    sender = threading.Thread(target=wire.send, args=(pair[0], message, arrays))
    sender.start()
    received, copies = wire.receive(pair[1], most_bytes=10_000_000)
    sender.join()
    assert received == message
    assert [header.name for header in received.arrays] == names
    for array, copy in zip(arrays, copies, strict=True):
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(copy, array)
        assert copy.flags.writeable


def test_an_object_never_travels(pair: Pair) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        wire.headers([np.array([object()])])
    _sent(pair, _header(ArrayHeader("|O", (1,))), pickle.dumps(1).ljust(64))
    with pytest.raises(MalformedFrame, match="not a type of numbers"):
        wire.receive(pair[1], most_bytes=1000)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"{", b""),
        (b'{"kind": 1}', b""),
        (_header(ArrayHeader("<f4", (100,))), bytes(64)),
        (_header(ArrayHeader("<f4", (-1, -16))), bytes(64)),
        (_header(ArrayHeader("nonsense", (1,))), bytes(64)),
        (_header(), bytes(64)),
        (_header(), bytes(2000)),
    ],
)
def test_what_is_not_a_message_is_refused(pair: Pair, header: bytes, body: bytes) -> None:
    _sent(pair, header, body)
    with pytest.raises(MalformedFrame):
        wire.receive(pair[1], most_bytes=1000)


def test_the_end_and_the_time_limit_are_noticed(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        wire.receive(pair[1], most_bytes=0, until=began + 0.05)
    assert time.monotonic() - began < 1
    pair[0].sendall(b"abc")
    pair[0].close()
    with pytest.raises(EOFError):
        wire.receive(pair[1], most_bytes=0, until=time.monotonic() + 5)


def test_a_sender_whom_nobody_reads_gives_up(pair: Pair) -> None:
    picture = np.zeros((4000, 4000), np.uint8)
    with pytest.raises(TimeoutError):
        wire.send(
            pair[0],
            Message(kind="predict", arrays=wire.headers([picture])),
            [picture],
            until=time.monotonic() + 0.05,
        )
