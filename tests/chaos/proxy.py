"""A TCP proxy in front of Redis whose network can be cut: nothing passes, nobody is told.

Owns one listening port in a thread of its own.
"""

import asyncio
import contextlib
import threading


class Proxy:
    """Forwards 127.0.0.1:`port` to a Unix socket while `flows` is set."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._forward, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Let nothing through, in either direction; connections stay open, as when a cable is pulled."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def mend(self) -> None:
        """Let everything through again, what was held back first."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def close(self) -> None:
        """End it; its connections are dropped."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._flows.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._socket_path)
        self._writers |= {writer, upstream_writer}
        pumps = [self._pump(reader, upstream_writer), self._pump(upstream_reader, writer)]
        try:
            await asyncio.gather(*pumps)
        finally:
            writer.close()
            upstream_writer.close()
            self._writers -= {writer, upstream_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
            writer.close()
