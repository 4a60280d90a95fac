"""What a Batchwire server tells of itself: its models before the load, its queue during it.

Owns GET /models and nothing else. Another service's address is never asked for it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from loadtest.sending.messages import Target, Traffic
from loadtest.sending.target import is_batchwire

_SAMPLE_S: Final = 0.5
_PATIENCE_S: Final = 5.0

_ANSWERED_IN_FULL: Final = frozenset({"classification"})
"""The tasks whose answers always have as many predictions as were asked for."""


class NotReady(Exception):
    """The server can't be tested now; the text says why and what to do."""


class ModelFacts(msgspec.Struct):
    """What /models says of one model, as far as it matters here."""

    model: str
    state: str = ""
    reason: str = ""
    task: str = ""
    classes: int = 0
    top: int = 0
    queue_length: int = 0


class _Models(msgspec.Struct):
    default_model: str
    models: list[ModelFacts]
    default_answered_by: str = ""
    """Another model, that answers as the fallback, where the default failed."""

    @property
    def answering(self) -> str:
        """The model of a request that names none."""
        return self.default_answered_by or self.default_model


class Server:
    """An asynchronous context around one HTTP session of the coordinator's own."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.url.rstrip("/")
        self._is_failing = False
        self.caveat = ""
        """Of a load that names no model: which other one answers it; known once `counts` has returned."""

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        headers = dict(self._target.headers)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def counts(self, traffic: Traffic) -> dict[str, tuple[int, int]]:
        """Return how many predictions an answer of each model may have, empty if the server does not tell.

        Raises NotReady when it can't be reached, or can't serve a model that is asked for.
        """
        facts = await self._facts()
        if facts is None:
            return {}
        known = {each.model: each for each in facts.models}
        for name, _ in traffic.models:
            _check(known, name or facts.answering, facts.answering)
        if facts.answering != facts.default_model and any(not name for name, _ in traffic.models):
            self.caveat = (
                f"The server's default model, {facts.default_model}, failed to load: the figures are of "
                f"{facts.answering}, which answers for it. --model names one."
            )
        return {name: _bounds(each, self._target.top) for name, each in known.items() if each.classes}

    async def watch(self, traffic: Traffic, note: Callable[[float, int], None]) -> None:
        """Note (monotonic time, jobs waiting) twice a second, until cancelled."""
        if not is_batchwire(self._target.url):
            return
        while True:
            await asyncio.sleep(_SAMPLE_S)
            try:
                facts = await self._facts()
            except NotReady:
                continue  # the requests' own records tell of it
            if facts is None:
                if self._is_failing:
                    continue
                return
            names = {name or facts.answering for name, _ in traffic.models}
            note(time.monotonic(), sum(each.queue_length for each in facts.models if each.model in names))

    async def _facts(self) -> _Models | None:
        """Ask /models; None where there is none. Raises NotReady when nobody answers."""
        try:
            if not is_batchwire(self._target.url):
                await self._connect()
                return None
            async with self._session.get(self._url + "/models", allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error).replace(" ssl:default", "") or "no answer within 5 s"
            raise NotReady(
                f"The server at {self._target.url} can't be reached: {reason}. "
                "Start it, or choose another with --url."
            ) from error
        self._is_failing = response.status >= 500
        try:
            return msgspec.json.decode(content, type=_Models) if response.status == 200 else None
        except ValueError:  # msgspec's own, and UnicodeDecodeError
            return None

    async def _connect(self) -> None:
        """See that somebody listens; sends nothing, since another service may count every request."""
        parts = urlsplit(self._target.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()


def _check(known: dict[str, ModelFacts], name: str, default: str) -> None:
    facts = known.get(name)
    ready = sorted(each for each, other in known.items() if other.state == "ready")
    others = f" Ready: {', '.join(ready)} (--model {ready[0]})." if ready else " No model is ready."
    which = f"The server's default model, {name}," if name == default else f"Model {name}"
    if facts is None:
        raise NotReady(f"{which} is unknown to the server.{others}")
    if facts.state != "ready":
        reason = f": {facts.reason.rstrip('.')}." if facts.reason else "."
        raise NotReady(f"{which} is not ready but {facts.state}{reason}{others}")


def _bounds(facts: ModelFacts, top: int | None) -> tuple[int, int]:
    """A classifier answers exactly `top` of its classes, a model of another task what it finds."""
    wanted = min(top or facts.top or facts.classes, facts.classes)
    if facts.task in _ANSWERED_IN_FULL:
        return wanted, wanted
    return 0, top or 10**6
