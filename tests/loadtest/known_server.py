"""`python -m tests.loadtest.known_server LOG HOLD_MS...`: latencies that are known by the server's own clock.

The n-th picture (drawn-N.jpg) is answered after the N-th of the latencies given, in turn. With
`--stall FROM FOR` nothing is answered for FOR seconds, FROM seconds after the first request. At the end of
its stdin it writes to LOG what it saw: for each picture when it arrived and when its answer was written, in
seconds of CLOCK_MONOTONIC.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from itertools import count
from pathlib import Path

from aiohttp import web

from tests.loadtest.stub import answer


class KnownServer:
    """Holds every request for its latency, and through the stall."""

    def __init__(self, holds_ms: list[float], stall: list[float]) -> None:
        self._holds_ms = holds_ms
        self._stall = stall
        self._stall_ends: float | None = None
        self._ids = count()
        self.seen: dict[int, list[float]] = {}

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answer one picture."""
        arrived = time.monotonic()
        if self._stall_ends is None:
            self._stall_ends = arrived + sum(self._stall)
        name = re.search(rb"drawn-([0-9]+)", await request.read())
        number = int(name[1]) if name else -1
        ends = arrived + self._holds_ms[number % len(self._holds_ms)] / 1000
        if self._stall and self._stall_ends - self._stall[1] < ends < self._stall_ends:
            ends = self._stall_ends
        await asyncio.sleep(ends - time.monotonic())
        self.seen[number] = [arrived, time.monotonic()]
        return web.json_response(answer(number, id=f"id-{next(self._ids)}"))


async def main() -> None:
    """Serve until stdin ends; say the port first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("holds_ms", type=float, nargs="+")
    parser.add_argument("--stall", type=float, nargs=2, default=[])
    options = parser.parse_args()
    server = KnownServer(options.holds_ms, options.stall)
    app = web.Application()
    app.router.add_post("/predict", server.predict)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    options.log.write_text(json.dumps(server.seen))
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
