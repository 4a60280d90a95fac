"""The loops that send a load, open and closed: connections, and one record for every request.

Owns what leaves and what comes back. Judges each answer by itself only.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import count, islice
from time import monotonic as now
from typing import Final

import aiohttp

from loadtest.measuring.answers import Reader, ServerAnswer, WrongAnswer
from loadtest.sending.arrivals import Alarm, due_times, share_of
from loadtest.sending.connections import connector, content, joined
from loadtest.sending.failures import failure
from loadtest.sending.messages import INTERRUPTED, Begin, LoadEnd, LoadPlan, Record, plain
from loadtest.sending.target import PreparedRequest
from loadtest.sending.traffic import RequestChoice, Requests

_LAG_SAMPLE_S: Final = 0.02

_POLL_FIRST_S: Final = 0.02
_POLL_LONGEST_S: Final = 0.5


class Client:
    """Sends what one point asks for, over connections that outlive it."""

    def __init__(
        self, plan: LoadPlan, requests: Requests, prepared: dict[RequestChoice, PreparedRequest]
    ) -> None:
        self._target = plan.target
        self._seed = plan.traffic.seed
        self._requests = requests
        self._prepared = prepared
        self._reader = Reader(plan.target, plan.counts)
        self._slots = asyncio.Semaphore(plan.target.connections)
        # No time-out of its own (ours counts from when a request was due) and no proxy of the environment.
        self._session = aiohttp.ClientSession(
            connector=connector(plan.target),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )
        self._ended: list[Record] = []
        self._halted = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._queued = 0

    def halt(self, *, abandon: bool) -> None:
        """Send no more; with `abandon`, end what is under way as interrupted."""
        self._halted.set()
        if abandon:
            # In the loop's next turn: a task that is cancelled before its first step would leave no record.
            asyncio.get_running_loop().call_soon(self._abandon)

    def _abandon(self) -> None:
        for task in self._sending:
            task.cancel()

    def arm(self) -> None:
        """Forget an earlier halt: called before `run`, so that a halt between the two is not lost."""
        self._halted.clear()

    def taken(self) -> list[Record]:
        """The records of what ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    async def run(self, begin: Begin) -> LoadEnd:
        """Apply one load until its limits, or a halt; every request has ended then."""
        self._begun = self._queued = 0
        lags: list[float] = []
        watch = asyncio.create_task(self._watch_lag(lags))
        await asyncio.sleep(max(0.0, begin.start - now()))
        cpu, wall = time.process_time(), now()
        loop = self._open_loop(begin) if begin.load.is_open else self._closed_loop(begin)
        producing = asyncio.create_task(loop)
        halted = asyncio.create_task(self._halted.wait())
        await asyncio.wait([producing, halted], return_when=asyncio.FIRST_COMPLETED)
        if begin.load.is_open:
            producing.cancel()
        stopped = now()
        if begin.duration_s is not None:
            stopped = min(stopped, begin.start + begin.duration_s)
        await asyncio.wait([producing])
        while self._sending:
            await asyncio.wait(self._sending)
        watch.cancel()
        halted.cancel()
        if not producing.cancelled():
            producing.result()
        return LoadEnd(
            begun=self._begun,
            stopped=stopped,
            queued=self._queued,
            cpu_s=time.process_time() - cpu,
            wall_s=now() - wall,
            lags_ms=_summary(lags),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _open_loop(self, begin: Begin) -> None:
        """Send each request when it is due, whatever the server does."""
        alarm = Alarm()
        times = due_times(begin.load, self._seed)
        limits = {"requests": begin.requests, "duration_s": begin.duration_s}
        try:
            for number, due in share_of(times, begin.share, begin.shares, **limits):  # type: ignore[arg-type]
                await alarm.sleep_until(begin.start + due)
                if self._halted.is_set():
                    return  # what is begun after the halt would not be abandoned with the rest
                self._start(number, begin.start + due)
        finally:
            alarm.close()

    async def _closed_loop(self, begin: Begin) -> None:
        """Be several clients that each send the next request when the last was answered."""
        clients = int(begin.load.value)
        bounds = [(begin.share + n) * clients // begin.shares for n in (0, 1)]
        numbers: Iterator[int] = count(begin.share, begin.shares)
        if begin.requests:
            # In proportion to its clients: evenly, the share with fewer clients would end last, alone.
            first, last = (bound * begin.requests // clients for bound in bounds)
            numbers = islice(numbers, last - first)
        end = begin.start + begin.duration_s if begin.duration_s is not None else None

        async def client() -> None:
            for number in numbers:
                if self._halted.is_set() or (end is not None and now() >= end):
                    return
                await asyncio.wait([self._start(number, now())])

        await asyncio.gather(*(client() for _ in range(bounds[1] - bounds[0])))

    def _start(self, number: int, due: float) -> asyncio.Task[None]:
        self._begun += 1
        task = asyncio.create_task(self._send(number, due))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _send(self, number: int, due: float) -> None:
        """Send one request and record what became of it; its time-out counts from when it was due."""
        choice = self._requests.choice(number)
        record = Record(number, choice.picture, choice.model, due, polled=choice.polled)
        try:
            async with asyncio.timeout_at(due + self._target.timeout_s):
                answer = await self._exchange(choice, record)
            record.id, record.label = plain(answer.id), plain(answer.label)
            record.batch_size, record.stages_ms = answer.batch_size, answer.stages_ms
            self._compare(choice, answer)
        except asyncio.CancelledError:
            record.outcome = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must have its one record
            record.outcome, record.message = (
                plain(text) for text in failure(error, record, self._target.timeout_s)
            )
        record.ended = record.ended or now()
        self._ended.append(record)

    async def _exchange(self, choice: RequestChoice, record: Record) -> ServerAnswer:
        """Send, and poll if it is an asynchronous job; note the moment at which the answer was whole."""
        prepared = self._prepared[choice]
        status, body, location = await self._fetch(
            "POST", prepared.url, prepared.headers, prepared.body, record
        )
        record.status, record.ended = status, now()
        if not choice.polled:
            return self._reader.read(status, body, choice.model)
        record.ended = 0.0  # ends later: a time-out while it is polled must not keep this moment
        place = self._reader.location(status, body, location)
        wait = _POLL_FIRST_S
        while True:
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _POLL_LONGEST_S)
            headers = dict(self._target.headers)
            status, body, _ = await self._fetch("GET", joined(prepared.url, place), headers, None, record)
            if status != 202:
                record.status, record.ended = status, now()
                return self._reader.read(status, body, choice.model)

    async def _fetch(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, record: Record
    ) -> tuple[int, bytes, str | None]:
        """Send one HTTP request over one of the connections, and note when the first of a job left."""
        self._queued += self._slots.locked()
        async with self._slots:
            record.sent = record.sent or now()
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await content(response), response.headers.get("Location")

    def _compare(self, choice: RequestChoice, answer: ServerAnswer) -> None:
        expected = self._requests.expected.get((choice.model, choice.picture))
        if expected is not None and answer.label != expected:
            raise WrongAnswer("wrong label", f"{choice.picture}: {answer.label}, not {expected}")

    async def _watch_lag(self, lags: list[float]) -> None:
        """Note how late the event loop wakes; a lag is time that answers waited for us."""
        alarm = Alarm()
        try:
            while True:
                wake = now() + _LAG_SAMPLE_S
                await alarm.sleep_until(wake)
                lags.append((now() - wake) * 1000)
        finally:
            alarm.close()


def _summary(lags_ms: list[float]) -> list[float]:
    ordered = sorted(lags_ms) or [0.0]
    return [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]]
