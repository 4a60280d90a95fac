"""`Client` and `AsyncClient`: the same calls, with threads and with asyncio.

Owns connections, files and waiting. What is sent, read and tried again is decided in exchanges.py.
"""

import asyncio
import math
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import httpx

from clients.answers import Answer, ModelList
from clients.errors import BatchwireError
from clients.exchanges import Exchange, Exchanges, Pause, Picture, ReadPicture, Step
from clients.retrying import Retrying

_T = TypeVar("_T")

URL: Final = "http://localhost:5000"
"""Where `make serve` listens."""

API_KEY: Final = "BATCHWIRE_API_KEY"
"""The variable that has the API key, so that no command line has it."""

WAIT_S: Final = 300.0
"""For so long a service keeps a job that waits, by default (ASYNC_TIMEOUT_S)."""

_HOLD_S: Final = 8
"""For so long a request for a result may be held: less than the service's REQUEST_TIMEOUT_S, by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureReply:
    """What became of one of many pictures: an answer, or the error of this picture alone."""

    picture: Picture
    answer: Answer | None = None
    error: BatchwireError | OSError | None = None


def _content(picture: Picture) -> bytes:
    """A picture's bytes."""
    if isinstance(picture, bytes):
        return picture
    try:
        content = Path(picture).read_bytes() if isinstance(picture, str | PathLike) else picture.read()
    except ValueError as error:  # a path with a NUL; a file that is closed
        raise OSError(str(error)) from error
    if not isinstance(content, bytes):
        raise TypeError('the picture\'s file was opened for text: open it with mode "rb"')
    return content


def _require_some(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError("concurrency is 1 or more: so many pictures are asked about at once")


class _Connection:
    """What both clients are made from: where to, and how patiently."""

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = 30.0,
        retry_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        """A client of the service at `url`.

        `timeout_s` bounds the silence of one attempt. Where the service can't take a request now, or there is
        no connection, the request is sent again for `retry_s` in all, after the pauses that Retry-After names
        (0: never). `headers` go with each request: an Authorization that a proxy asks for, say. So does
        `api_key`, by default that of the variable BATCHWIRE_API_KEY; empty: none. No redirect is followed, so
        neither leaves for another host.
        """
        key = os.environ.get(API_KEY, "") if api_key is None else api_key
        if not (key.isascii() and key.isprintable()):
            raise ValueError("the API key has characters that no key has")  # not which: it is a secret
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL:
            base = httpx.URL()
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"{url!r} is not an address like {URL}")
        hold_s = min(_HOLD_S, math.floor(timeout_s / 2))
        self._exchanges = Exchanges(Retrying(total_s=retry_s), hold_s=hold_s)
        limits = httpx.Limits(max_connections=None)  # predict_many bounds them
        fields = dict(headers or {}) | ({"X-API-Key": key} if key else {})
        self._open(base_url=base, headers=fields, timeout=timeout_s, limits=limits, follow_redirects=False)

    def _open(self, **options: Any) -> None:  # noqa: ANN401 - those of httpx.Client
        raise NotImplementedError


class Client(_Connection):
    """A synchronous client: a context manager, which threads may share."""

    def _open(self, **options: Any) -> None:  # noqa: ANN401
        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, picture: Picture, *, model: str | None = None, top: int | None = None) -> Answer:
        """The answer for one picture. Raises a BatchwireError, or OSError for a file that can't be read."""
        return self._run(self._exchanges.predict(picture, model, top))

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        model: str | None = None,
        top: int | None = None,
        concurrency: int = 8,
    ) -> Generator[PictureReply, None, None]:
        """What becomes of each picture, as it is known: in any order, each failing alone.

        Of `pictures` no more are taken than are asked about at once. Closing the generator waits for the
        requests that have been sent, and sends no more.
        """
        stopping = threading.Event()

        def reply(picture: Picture) -> PictureReply:
            try:
                answer = self._run(self._exchanges.predict(picture, model, top), stopping)
            except (BatchwireError, OSError) as error:
                return PictureReply(picture=picture, error=error)
            return PictureReply(picture=picture, answer=answer)

        _require_some(concurrency)
        source = iter(pictures)
        running: set[Future[PictureReply]] = set()
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                while True:
                    running |= {
                        pool.submit(reply, each) for each in islice(source, concurrency - len(running))
                    }
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for each in done:
                        yield each.result()
            finally:
                stopping.set()

    def submit(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        top: int | None = None,
        callback_url: str | None = None,
    ) -> "Job":
        """Send a picture and do not wait: its result can be asked for once it is ready, for a minute.

        With `callback_url` the service sends it there as well, signed.
        """
        accepted = self._run(self._exchanges.submit(picture, model, top, callback_url))
        return self.job(accepted.id, accepted.model)

    def job(self, job_id: str, model: str) -> "Job":
        """A job that was submitted before, by another process perhaps."""
        return Job(id=job_id, model=model, client=self)

    def models(self) -> ModelList:
        """The service's models."""
        return self._run(self._exchanges.models())

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a model (without a name, any) is ready; asked once. Raises RequestRefusal: unknown."""
        return self._run(self._exchanges.is_ready(model))

    def _result(self, job_id: str, model: str, wait_s: float) -> Answer:
        return self._run(self._exchanges.result(job_id, model, wait_s))

    def _cancel(self, job_id: str, model: str) -> bool:
        return self._run(self._exchanges.cancel(job_id, model))

    def _run(self, exchange: Exchange[_T], stopping: threading.Event | None = None) -> _T:
        reply: object = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                return cast(_T, end.value)
            reply = self._take(step, stopping or threading.Event())

    def _take(self, step: Step, stopping: threading.Event) -> object:
        match step:
            case ReadPicture(picture):
                return _content(picture)
            case Pause(seconds):
                if stopping.wait(seconds):
                    raise BatchwireError("cancelled", "The iteration over the pictures has ended.")
                return None
        try:
            return self._http.request(
                step.method, step.path, params=step.query, headers=step.headers, content=step.content
            )
        except httpx.RequestError as error:
            return error


class AsyncClient(_Connection):
    """An asynchronous client: a context manager of one event loop."""

    def _open(self, **options: Any) -> None:  # noqa: ANN401
        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, picture: Picture, *, model: str | None = None, top: int | None = None) -> Answer:
        """The answer for one picture. Raises a BatchwireError, or OSError for a file that can't be read."""
        return await self._run(self._exchanges.predict(picture, model, top))

    async def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        model: str | None = None,
        top: int | None = None,
        concurrency: int = 8,
    ) -> AsyncGenerator[PictureReply, None]:
        """What becomes of each picture, as it is known: in any order, each failing alone.

        Of `pictures` no more are taken than are asked about at once. Closing the generator (`aclose`) cancels
        what has been sent.
        """

        async def reply(picture: Picture) -> PictureReply:
            try:
                return PictureReply(picture=picture, answer=await self.predict(picture, model=model, top=top))
            except (BatchwireError, OSError) as error:
                return PictureReply(picture=picture, error=error)

        _require_some(concurrency)
        source = iter(pictures)
        running: set[asyncio.Task[PictureReply]] = set()
        try:
            while True:
                batch = islice(source, concurrency - len(running))
                running |= {asyncio.create_task(reply(each)) for each in batch}
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def submit(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        top: int | None = None,
        callback_url: str | None = None,
    ) -> "AsyncJob":
        """Send a picture and do not wait: its result can be asked for once it is ready, for a minute.

        With `callback_url` the service sends it there as well, signed.
        """
        accepted = await self._run(self._exchanges.submit(picture, model, top, callback_url))
        return self.job(accepted.id, accepted.model)

    def job(self, job_id: str, model: str) -> "AsyncJob":
        """A job that was submitted before, by another process perhaps."""
        return AsyncJob(id=job_id, model=model, client=self)

    async def models(self) -> ModelList:
        """The service's models."""
        return await self._run(self._exchanges.models())

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether a model (without a name, any) is ready; asked once. Raises RequestRefusal: unknown."""
        return await self._run(self._exchanges.is_ready(model))

    async def _result(self, job_id: str, model: str, wait_s: float) -> Answer:
        return await self._run(self._exchanges.result(job_id, model, wait_s))

    async def _cancel(self, job_id: str, model: str) -> bool:
        return await self._run(self._exchanges.cancel(job_id, model))

    async def _run(self, exchange: Exchange[_T]) -> _T:
        reply: object = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                return cast(_T, end.value)
            reply = await self._take(step)

    async def _take(self, step: Step) -> object:
        match step:
            case ReadPicture(picture):
                return await asyncio.to_thread(_content, picture)
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None
        try:
            return await self._http.request(
                step.method, step.path, params=step.query, headers=step.headers, content=step.content
            )
        except httpx.RequestError as error:
            return error


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A picture that was submitted; with `id` and `model` another process can ask for its result."""

    id: str
    model: str
    client: Client = field(repr=False, compare=False)

    def result(self, *, wait_s: float = WAIT_S) -> Answer:
        """The answer, once it is there. Raises a BatchwireError: AnswerTimeout after `wait_s`."""
        return self.client._result(self.id, self.model, wait_s)

    def cancel(self) -> bool:
        """End the job: what no batch has yet is not run. False: there is none (any more)."""
        return self.client._cancel(self.id, self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class AsyncJob:
    """A picture that was submitted; with `id` and `model` another process can ask for its result."""

    id: str
    model: str
    client: AsyncClient = field(repr=False, compare=False)

    async def result(self, *, wait_s: float = WAIT_S) -> Answer:
        """The answer, once it is there. Raises a BatchwireError: AnswerTimeout after `wait_s`."""
        return await self.client._result(self.id, self.model, wait_s)

    async def cancel(self) -> bool:
        """End the job: what no batch has yet is not run. False: there is none (any more)."""
        return await self.client._cancel(self.id, self.model)
