"""A client driven in this process, against the tests' own small server."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from loadtest.sending.load_loop import Client
from loadtest.sending.messages import Begin, Load, LoadEnd, LoadPlan, Record, Target, Traffic
from loadtest.sending.target import prepare
from loadtest.sending.traffic import Requests
from tests.loadtest.stub import Script, StubServer, stub_server

Doing = Callable[[Client], Coroutine[Any, Any, LoadEnd]]


def begin(
    *,
    rate: float = 0,
    clients: int = 0,
    requests: int | None = None,
    duration_s: float | None = None,
    start: float | None = None,
    share: tuple[int, int] = (0, 1),
) -> Begin:
    load = Load(rate or clients, is_open=bool(rate))
    return Begin(load, time.monotonic() if start is None else start, duration_s, requests, *share)


def drive(
    script: Script,
    doing: Doing,
    *,
    server_does: Callable[[StubServer], None] | None = None,
    connections: int = 100,
    keep_alive: bool = True,
    polled: float = 0.0,
) -> tuple[LoadEnd, list[Record]]:
    """Make a client, let it do something, and return its report and records in the order of their numbers."""

    async def run(url: str) -> tuple[LoadEnd, list[Record]]:
        target = Target(url, connections=connections, keep_alive=keep_alive)
        plan = LoadPlan(target, Traffic(polled=polled))
        requests = Requests(plan.traffic)
        client = Client(plan, requests, await prepare(plan.target, requests, [""]))
        try:
            return await doing(client), sorted(client.taken(), key=lambda record: record.number)
        finally:
            await client.close()

    with stub_server(script) as server:
        if server_does:
            server_does(server)
        return asyncio.run(run(server.url))
