"""`python -m benchmarks.null_server`: an HTTP server that does nothing, to measure clients against.

Owns a route that costs as little as pure Python can: any request gets the same small answer once its body is
in. Must not parse more than it needs. Says its port on stdout, ends when stdin does.
"""

import asyncio
import re
import sys
from typing import Final

_BUFFER_BYTES: Final = 2**18
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_BODY: Final = b'{"success":true,"predictions":[]}'
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


class _Answering(asyncio.BufferedProtocol):
    """One connection, kept alive. Bodies are received over each other: nobody reads them."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._kept = 0
        """Bytes of an unfinished head, at the buffer's start."""
        self._left = 0
        """Bytes of the body that are still to come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.WriteTransport):
            raise TypeError("a TCP connection is written to. This is a bug")
        self._write = transport.write

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._view[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        begin, end, self._kept = 0, self._kept + nbytes, 0
        while begin < end:
            if not self._left:
                blank = self._buffer.find(_HEAD_END, begin, end)
                if blank < 0:
                    self._keep(begin, end)
                    return
                length = _LENGTH.search(self._buffer, begin, blank)
                begin = blank + len(_HEAD_END)
                self._left = int(length[1]) if length else 0
            taken = min(self._left, end - begin)
            begin += taken
            self._left -= taken
            if not self._left:
                self._write(_ANSWER)

    def _keep(self, begin: int, end: int) -> None:
        self._view[: end - begin] = self._buffer[begin:end]
        self._kept = end - begin


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answering, "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
