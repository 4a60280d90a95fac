"""What a refusal costs the web tier: `python -m benchmarks.refusals [--kinds full,rate]`. Linux alone.

Owns the measurement: the service's processes over a Redis of their own, and clients that send the same
request again as soon as it is refused. The cost is the CPU time of the one web process, its loop's and all
threads' together, less what it takes while nobody sends. Must not judge the figures; docs/decisions.md has
them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from broker.connection import connect
from broker.keys import Keys
from loadtest.cli.units import number
from tests.support.api_keys import add_key
from tests.support.redis_server import running_redis
from tests.support.stack import Stack, shade
from tests.support.waiting import eventually

_LIMITS: Final[dict[str, dict[str, float]]] = {
    "full": {},
    "rate": {"rate": 0.01, "burst": 1},
    "jobs": {"jobs": 1},
}
"""The keys by what refuses them: the queue (503), their rate or their number of jobs (429)."""

_UNKNOWN: Final = "unknown"
"""A key that nobody has (401)."""

_FILLING: Final = 12
"""Requests that fill the queue, of 6 places, and the call that never ends."""

_BOUNDARY: Final = "----------------------------4c1f2a93b1d2"
_CLIENTS: Final = 300
_SIZES_KB: Final = (20, 100)


@dataclass(frozen=True)
class CpuTime:
    """Milliseconds of a process so far."""

    loop: float
    """Of its first thread."""
    all: float

    @classmethod
    def of(cls, pid: int) -> "CpuTime":
        """That of a process that runs."""
        spent = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                spent[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e6
        return cls(spent[str(pid)], sum(spent.values()))


def upload(address: str, key: str, picture: bytes) -> bytes:
    """A request with a picture in a form, as curl sends it."""
    part = 'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg'
    form = f"--{_BOUNDARY}\r\n{part}\r\n\r\n".encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST /predict?model=shades HTTP/1.1\r\nHost: {address}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(form)}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
    )
    return head.encode() + form


async def client(port: int, request: bytes, until: float, *, is_kept: bool) -> Counter[str]:
    """Send it again and again; return the answers by status and code."""
    answers: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as connection:
        writer = None
        while time.monotonic() < until:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                connection.callback(writer.close)
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            error = json.loads(body).get("error", {})
            answers[f"{head.split()[1].decode()} {error.get('code', '')}"] += 1
            if not is_kept or b"connection: close" in head:
                await connection.aclose()
                writer = None
    return answers


async def clients(port: int, request: bytes, seconds: float, *, is_kept: bool) -> Counter[str]:
    """So many at once, for so long."""
    until = time.monotonic() + seconds
    each = await asyncio.gather(
        *(client(port, request, until, is_kept=is_kept) for _ in range(_CLIENTS)), return_exceptions=True
    )
    return sum((answers for answers in each if isinstance(answers, Counter)), Counter())


@contextlib.contextmanager
def service() -> Iterator[tuple[Stack, int, dict[str, str]]]:
    """Run the service, its queue full; give it, its web process, and the keys by what refuses them."""
    with tempfile.TemporaryDirectory() as folder, running_redis() as redis, contextlib.ExitStack() as waiting:
        stack = Stack(Path(folder), redis.url)
        stack.environment |= {"API_KEYS": "required", "QUEUE_LIMIT": "6", "BATCH_SIZE": "4"}
        stack.environment |= {"REQUEST_TIMEOUT_S": "600", "MODEL_CALL_MAX_S": "3000"}
        with connect(redis.url, timeout_s=5) as store:
            keys = {kind: add_key(store, Keys("bw:"), kind, **limits) for kind, limits in _LIMITS.items()}
        keys[_UNKNOWN] = f"{keys['full'][:-8]}AAAAAAAA"
        try:
            master = stack.start_web()
            stack.start("tests.e2e.shades_server", str(stack.executions), "1000", log="model_server")
            eventually(lambda: stack.answers(f"/readyz?model={stack.model}"), within_s=60)
            time.sleep(3)  # until the web process knows the model
            for kind in ("full",) * _FILLING + ("jobs", "rate"):
                connection = waiting.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
                connection.sendall(upload(f"127.0.0.1:{stack.port}", keys[kind], shade(7)))
                time.sleep(0.4)  # longer than a refusal is remembered
            (web,) = psutil.Process(master.pid).children()
            yield stack, web.pid, keys
        finally:
            stack.stop()


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refusals", description=__doc__)
    kinds = [*_LIMITS, _UNKNOWN]
    parser.add_argument("--kinds", default=",".join(kinds), help=f"of {', '.join(kinds)} (default: all)")
    parser.add_argument("--seconds", type=number, default=5.0, help="of each run (default: 5)")
    asked = parser.parse_args()
    with service() as (stack, pid, keys):
        before = CpuTime.of(pid)
        time.sleep(asked.seconds)
        idle_ms = CpuTime.of(pid).all - before.all
        for kind in asked.kinds.split(","):
            for size_kb in _SIZES_KB:
                request = upload(f"127.0.0.1:{stack.port}", keys[kind], os.urandom(size_kb * 1024))
                for is_kept in (True, False):
                    before = CpuTime.of(pid)
                    answers = asyncio.run(clients(stack.port, request, asked.seconds, is_kept=is_kept))
                    after, count = CpuTime.of(pid), answers.total()
                    sys.stdout.write(
                        f"{kind:8}{size_kb:4} KB {'kept' if is_kept else 'new '} "
                        f"{(after.all - before.all - idle_ms) / count:6.3f} CPU ms each, the loop's "
                        f"{(after.loop - before.loop) / count:.3f}: {dict(answers)}\n"
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
