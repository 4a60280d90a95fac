"""An answer that its client does not read at once: nothing is lost, and nothing overtakes."""

import contextlib
import socket

from web.server.answer_socket import AnswerSocket


def test_what_is_kept_goes_first_and_all_arrives_in_order() -> None:
    ours, theirs = socket.socketpair()
    with AnswerSocket(ours.family, ours.type, fileno=ours.detach()) as answering, theirs:
        parts = [bytes([number]) * 700_000 for number in range(4)]
        answering.sendall(parts[0])
        assert answering.left > 0
        received = bytearray(theirs.recv(2_000_000))  # there is room again, but a part is kept
        for part in parts[1:]:
            answering.sendall(part)
        assert len(received) + answering.left >= 2_800_000 - 700_000
        theirs.setblocking(False)
        while answering.left or len(received) < 2_800_000:
            answering.go_on(0.0)
            with contextlib.suppress(BlockingIOError):
                received += theirs.recv(2_000_000)
        assert bytes(received) == b"".join(parts)
