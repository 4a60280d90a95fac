"""What a server tells of itself, asked of a small one in this process."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.sending.messages import Target, Traffic
from loadtest.sending.model_facts import NotReady, Server

T = TypeVar("T")
Seen = list[tuple[str, str | None]]


def model(name: str, **changes: object) -> dict[str, object]:
    facts = {"model": name, "state": "ready", "task": "classification", "classes": 10, "top": 5}
    return {**facts, **changes}


def models(*each: dict[str, object], default: str = "m") -> dict[str, object]:
    return {"default_model": default, "models": list(each)}


def ask(
    said: object,
    does: Callable[[Server], Awaitable[T]],
    *,
    path: str = "",
    top: int | None = None,
    seen: Seen | None = None,
) -> T:
    """Do something with a Server whose every path says this: JSON, bytes, or a status alone."""

    async def tell(request: web.Request) -> web.Response:
        if seen is not None:
            seen.append((request.path, request.headers.get("X-Key")))
        if isinstance(said, int):
            return web.json_response(models(model("m")), status=said, headers={"Location": "/"})
        return web.Response(body=said) if isinstance(said, bytes) else web.json_response(said)

    async def run() -> T:
        app = web.Application()
        app.router.add_get("/{path:.*}", tell)
        async with TestServer(app) as test_server:
            url = f"http://127.0.0.1:{test_server.port}{path}"
            async with Server(Target(url, top=top, headers=(("X-Key", "k"),))) as server:
                return await does(server)

    return asyncio.run(run())


def counts(
    said: object, *names: str, top: int | None = None, path: str = "", seen: Seen | None = None
) -> object:
    traffic = Traffic(models=tuple((name, 1 / len(names)) for name in names) or (("", 1.0),))
    return ask(said, lambda server: server.counts(traffic), top=top, path=path, seen=seen)


@pytest.mark.parametrize(
    ("facts", "top", "bounds"),
    [
        ({}, None, (5, 5)),  # the model's own number
        ({}, 3, (3, 3)),
        ({}, 99, (10, 10)),  # no more than there are
        ({"top": 0}, None, (10, 10)),
        ({"classes": 2}, None, (2, 2)),
        ({"task": "detection"}, None, (0, 10**6)),
        ({"task": "detection"}, 3, (0, 3)),
        ({"task": "a new one"}, 3, (0, 3)),
    ],
)
def test_bounds_of_an_answer(facts: dict[str, object], top: int | None, bounds: tuple[int, int]) -> None:
    assert counts(models(model("m", **facts)), top=top) == {"m": bounds}


def test_models_without_classes_are_not_bounded_and_all_others_are() -> None:
    said = models(model("m"), model("x", classes=0), model("y", state="failed", top=1))
    assert counts(said) == {"m": (5, 5), "y": (1, 1)}
    assert counts(models({"model": "m", "state": "ready"})) == {}


def test_the_models_are_asked_for_once_with_the_users_headers() -> None:
    seen: Seen = []
    assert counts(models(model("m")), path="/", seen=seen) == {"m": (5, 5)}
    assert seen == [("/models", "k")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x"], "Model x is unknown to the server. Ready: a, b (--model a)."),
        (["a", "x"], "Model x is unknown to the server. Ready: a, b (--model a)."),
        (["bad"], "Model bad is not ready but failed: out of memory. Ready: a, b (--model a)."),
        (["new"], "Model new is not ready but loading. Ready: a, b (--model a)."),
        ([], "The server's default model, no, is not ready but failed: lost. Ready: a, b (--model a)."),
        (["a", "no"], "The server's default model, no, is not ready but failed: lost. Ready: a, b"),
    ],
)
def test_a_model_that_can_not_answer_is_said_with_its_reason_and_what_is_ready(
    names: list[str], said: str
) -> None:
    known = [model("b"), model("a"), model("bad", state="failed", reason="out of memory.")]
    known += [model("no", state="failed", reason="lost"), model("new", state="loading")]
    with pytest.raises(NotReady, match=re.escape(said)):
        counts(models(*known, default="no"), *names)


def test_models_that_are_ready_pass() -> None:
    assert counts(models(model("a"), model("b"), default="gone"), "a", "b") == {"a": (5, 5), "b": (5, 5)}


def test_who_falls_in_for_the_default_is_measured_and_told() -> None:
    said = models(model("no", state="failed", reason="lost"), model("b", top=2), default="no")
    said["default_answered_by"] = "b"

    async def counted(server: Server) -> tuple[object, str]:
        return await server.counts(Traffic(models=(("", 1.0),))), server.caveat

    bounds, caveat = ask(said, counted)
    assert bounds == {"no": (5, 5), "b": (2, 2)}
    assert caveat.startswith("The server's default model, no, failed to load: the figures are of b,")

    async def named(server: Server) -> str:
        await server.counts(Traffic(models=(("b", 1.0),)))
        return server.caveat

    assert ask(said, named) == ""


@pytest.mark.slow
def test_the_queue_of_who_falls_in_is_watched() -> None:
    said = models(model("no", state="failed", queue_length=7), model("b", queue_length=3), default="no")
    said["default_answered_by"] = "b"
    seen: list[int] = []

    async def watched(server: Server) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                server.watch(Traffic(models=(("", 1.0),)), lambda _, length: seen.append(length)), 1.2
            )

    ask(said, watched)
    assert set(seen) == {3}


def test_no_model_is_ready() -> None:
    with pytest.raises(NotReady, match=r"default model, m, is unknown to the server\. No model is ready\."):
        counts(models(default="m"))


@pytest.mark.parametrize(
    "said",
    [302, 401, 404, 500, b"<html>", b"", b"\xff", b'{"default_model": "\xff"}', [1], {"models": []}],
)
def test_a_server_that_is_not_batchwires_is_asked_nothing_more(said: object) -> None:
    assert counts(said, "x") == {}


def test_another_services_address_is_connected_to_but_asked_for_nothing() -> None:
    seen: Seen = []
    assert counts(models(model("m")), "x", path="/v1/predict", seen=seen) == {}
    assert seen == []


def counts_at(url: str) -> object:
    async def run() -> object:
        async with Server(Target(url)) as server:
            return await server.counts(Traffic())

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["", "/v1/predict"])
def test_an_unreachable_server_is_said_in_one_sentence(path: str) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}{path}"
        with pytest.raises(NotReady, match=re.escape(f"The server at {url} can't be reached: ")) as caught:
            counts_at(url)
    assert "\n" not in str(caught.value)
    assert "no answer" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://h/x", "h", 80),
        ("https://h/x", "h", 443),
        ("https://h:8443/x", "h", 8443),
        ("http://[::1]:81/x", "::1", 81),
    ],
)
def test_where_another_service_is_connected_to(
    url: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def connect(*address: object) -> object:
        asked.append(address)
        raise OSError

    monkeypatch.setattr("loadtest.sending.model_facts.asyncio.open_connection", connect)
    with pytest.raises(NotReady):
        counts_at(url)
    assert asked == [(host, port)]


def test_a_server_that_does_not_answer_is_waited_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.sending.model_facts._PATIENCE_S", 0.02)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(NotReady, match=r"can't be reached: no answer within 5 s\. Start it"):
            counts_at(f"http://127.0.0.1:{silent.getsockname()[1]}")


def watched(said: object, traffic: Traffic, *, path: str = "", enough: int = 3) -> list[tuple[float, int]]:
    """What is noted until it is enough, or the watch ends by itself."""
    noted: list[tuple[float, int]] = []

    async def does(server: Server) -> None:
        done = asyncio.Event()

        def note(at: float, jobs: int) -> None:
            noted.append((at, jobs))
            if len(noted) >= enough:
                done.set()

        watch = asyncio.create_task(server.watch(traffic, note))
        waiting = asyncio.create_task(done.wait())
        await asyncio.wait([watch, waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in (watch, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    ask(said, does, path=path)
    return noted


def test_the_queues_of_the_models_that_are_sent_to_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted_sleep(delay: float) -> None:
        slept.append(delay)
        await sleep(0)

    monkeypatch.setattr("loadtest.sending.model_facts.asyncio.sleep", noted_sleep)
    queues = {"m": 3, "a": 4, "b": 100}
    said = models(*(model(name, queue_length=jobs) for name, jobs in queues.items()), model("c"))
    begin = time.monotonic()
    noted = watched(said, Traffic(models=(("", 0.5), ("a", 0.25), ("c", 0.25))))
    assert [jobs for _, jobs in noted] == [7, 7, 7]
    assert begin < noted[0][0] < noted[1][0] < noted[2][0] < time.monotonic()
    assert slept[:3] == [0.5] * 3


@pytest.mark.parametrize(("said", "path"), [(404, ""), (models(model("m")), "/v1/predict")])
def test_without_batchwires_queue_nothing_is_watched(
    said: object, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.sending.model_facts._SAMPLE_S", 0.001)
    assert watched(said, Traffic(), path=path) == []


def test_the_watch_outlives_a_server_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.sending.model_facts._SAMPLE_S", 0.001)
    facts, failures = Server._facts, [NotReady("gone"), NotReady("gone")]

    async def fail_twice(server: Server) -> object:
        if failures:
            raise failures.pop()
        return await facts(server)

    monkeypatch.setattr(Server, "_facts", fail_twice)
    assert [jobs for _, jobs in watched(models(model("m", queue_length=2)), Traffic())] == [2, 2, 2]
