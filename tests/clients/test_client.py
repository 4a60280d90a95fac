"""Both clients over real sockets: files, jobs, many pictures, and a server that fails in every way."""

import asyncio
import contextlib
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clients import (
    AnswerTimeout,
    AsyncClient,
    BatchwireError,
    Client,
    ConnectionFailure,
    PictureReply,
    RequestRefusal,
    UnreadableAnswer,
)
from tests.clients.scripted import RESET, HttpRequest, Reply, failed, good, scripted
from tests.support.stack import free_port

pytestmark = pytest.mark.slow  # together they wait for seconds


class Sync:
    """The synchronous client: one call, or one job."""

    def call(self, url: str, name: str, *args: object, **options: Any) -> Any:  # noqa: ANN401 - each has its own
        with Client(url, **options) as client:
            return getattr(client, name)(*args)

    def job(self, url: str, picture: bytes) -> Any:  # noqa: ANN401
        with Client(url) as client:
            return client.submit(picture, model="m").result(wait_s=30)

    def announced(self, url: str, picture: bytes, callback_url: str) -> Any:  # noqa: ANN401
        with Client(url) as client:
            return client.submit(picture, callback_url=callback_url)

    def many(self, url: str, pictures: list[Any], **options: Any) -> list[PictureReply]:  # noqa: ANN401
        with Client(url, retry_s=0) as client:
            return list(client.predict_many(pictures, **options))


class Async:
    """The same of the asynchronous one."""

    def call(self, url: str, name: str, *args: object, **options: Any) -> Any:  # noqa: ANN401
        async def run() -> object:
            async with AsyncClient(url, **options) as client:
                return await getattr(client, name)(*args)

        return asyncio.run(run())

    def job(self, url: str, picture: bytes) -> Any:  # noqa: ANN401
        async def run() -> object:
            async with AsyncClient(url) as client:
                return await (await client.submit(picture, model="m")).result(wait_s=30)

        return asyncio.run(run())

    def announced(self, url: str, picture: bytes, callback_url: str) -> Any:  # noqa: ANN401
        async def run() -> object:
            async with AsyncClient(url) as client:
                return await client.submit(picture, callback_url=callback_url)

        return asyncio.run(run())

    def many(self, url: str, pictures: list[Any], **options: Any) -> list[PictureReply]:  # noqa: ANN401
        async def run() -> list[PictureReply]:
            async with AsyncClient(url, retry_s=0) as client:
                return [reply async for reply in client.predict_many(pictures, **options)]

        return asyncio.run(run())


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Sync | Async:
    """Each test runs with both."""
    made: Sync | Async = request.param()
    return made


def test_a_picture_may_be_bytes_a_path_or_a_file(kind: Sync, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    with scripted() as server:
        for picture in (b"picture", path, str(path), io.BytesIO(b"picture")):
            assert kind.call(server.url, "predict", picture).best.label == "cat"
    assert [request.body for request in server.posts] == [b"picture"] * 4
    assert {request.path for request in server.posts} == {"/predict"}
    # Without one the service finds the format; with httpx's default for bytes it would, too.
    assert all("content-type" not in request.headers for request in server.posts)


def test_a_file_that_is_missing_or_open_for_text_is_python_s_own_error(kind: Sync, tmp_path: Path) -> None:
    with scripted() as server:
        with pytest.raises(FileNotFoundError):
            kind.call(server.url, "predict", tmp_path / "a.png")
        with pytest.raises(TypeError, match='with mode "rb"'):
            kind.call(server.url, "predict", io.StringIO("picture"))
    assert server.posts == []


def test_the_address_may_have_a_path_and_requests_may_have_headers(kind: Sync) -> None:
    with scripted() as server:
        kind.call(f"{server.url}/vision/", "predict", b"x", headers={"Authorization": "Bearer x"})
    (request,) = server.posts
    assert (request.path, request.headers["authorization"]) == ("/vision/predict", "Bearer x")


@pytest.mark.parametrize(
    ("options", "sent"), [({}, "of the variable"), ({"api_key": "own"}, "own"), ({"api_key": ""}, None)]
)
def test_the_api_key_goes_with_each_request_and_to_no_other_host(
    kind: Sync, options: dict[str, str], sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHWIRE_API_KEY", "of the variable")
    with scripted() as elsewhere:
        away = Reply(b"", 307, {"Location": f"{elsewhere.url}/predict"})
        with scripted(lambda *_: away) as server, pytest.raises(BatchwireError):
            kind.call(server.url, "predict", b"x", **options)
    assert [request.headers.get("x-api-key") for request in server.posts] == [sent]
    assert elsewhere.posts == []


def test_an_api_key_that_can_be_none_is_refused_and_not_shown(kind: Sync) -> None:
    with pytest.raises(ValueError, match="characters that no key has") as error:
        kind.call("http://localhost:9", "models", api_key="sec\nret")
    assert "sec" not in str(error.value)


def test_a_path_that_can_be_none_fails_as_a_file_does(kind: Sync) -> None:
    with pytest.raises(OSError, match="null"):
        kind.call("http://localhost:1", "predict", "a\0b")


@pytest.mark.parametrize("url", ["localhost:5000", "ftp://x", "http://", "", "http://[::"])
def test_an_address_that_is_none_is_refused_at_once(kind: Sync, url: str) -> None:
    with pytest.raises(ValueError, match="is not an address like http://localhost:5000"):
        kind.call(url, "predict", b"x")


def test_a_503_is_waited_out_as_retry_after_says(kind: Sync) -> None:
    def script(number: int, _: HttpRequest) -> Reply:
        return failed(503, "overloaded", "1") if number == 0 else good(number)

    began_at = time.monotonic()
    with scripted(script) as server:
        assert kind.call(server.url, "predict", b"x").id == "id-1"
    assert time.monotonic() - began_at >= 1
    assert len(server.posts) == 2


def test_a_connection_that_is_reset_and_an_answer_that_is_cut_are_tried_again(kind: Sync) -> None:
    def script(number: int, _: HttpRequest) -> Reply | None:
        return (RESET, Reply(good().body, cut=True), good(number))[number]

    with scripted(script) as server:
        assert kind.call(server.url, "predict", b"x").id == "id-2"
    assert [request.body for request in server.posts] == [b"x"] * 3


def test_what_never_ends_ends_in_its_error(kind: Sync) -> None:
    with scripted(lambda *_: RESET) as server:
        with pytest.raises(ConnectionFailure, match="connection_lost"):
            kind.call(server.url, "predict", b"x", retry_s=0)
        assert len(server.posts) == 1
        with pytest.raises(ConnectionFailure):
            kind.call(server.url, "predict", b"x", retry_s=1)
        assert len(server.posts) > 2
    with pytest.raises(ConnectionFailure, match="No connection to http://127"):
        kind.call(f"http://127.0.0.1:{free_port()}", "models", retry_s=0)


def test_a_proxy_s_page_is_no_answer(kind: Sync) -> None:
    page = Reply(b"<html>Welcome</html>", headers={"Content-Type": "text/html"})
    with scripted(lambda *_: page) as server, pytest.raises(UnreadableAnswer, match="text/html"):
        kind.call(server.url, "predict", b"x")
    assert len(server.posts) == 1


def test_a_silent_service_is_given_up_and_not_asked_twice(kind: Sync) -> None:
    release = threading.Event()

    def script(number: int, _: HttpRequest) -> Reply:
        release.wait(30)
        return good(number)

    with scripted(script) as server:
        with pytest.raises(AnswerTimeout):
            kind.call(server.url, "predict", b"x", timeout_s=0.3)
        release.set()
    assert len(server.posts) == 1


def test_a_refusal_is_raised_at_once_with_all_that_the_service_said(kind: Sync) -> None:
    refusal = failed(400, "invalid_image", "1")
    with scripted(lambda *_: refusal) as server, pytest.raises(RequestRefusal) as raised:
        kind.call(server.url, "predict", b"x")
    assert str(raised.value) == "invalid_image: Why. (request r)"
    assert (raised.value.code, raised.value.status, len(server.posts)) == ("invalid_image", 400, 1)


def test_a_job_is_submitted_and_its_result_polled(kind: Sync) -> None:
    def polled(number: int, _: HttpRequest) -> Reply:
        pending = Reply(b'{"success": true, "status": "pending"}', 202, {"Retry-After": "1"})
        return good(7) if number else pending

    with scripted(lambda *_: good(7), polled) as server:
        assert kind.job(server.url, b"x").id == "id-7"
    (post,) = server.posts
    assert (post.path, post.headers["prefer"]) == ("/predict?model=m", "respond-async")
    polls = [request.path for request in server.requests if request.method == "GET"]
    assert polls == ["/predictions/id-7?model=m&wait=8"] * 2


def test_a_job_may_be_announced(kind: Sync) -> None:
    with scripted(lambda *_: good(7)) as server:
        assert kind.announced(server.url, b"x", "https://hooks.example.org/done?a=b&c=d").id == "id-7"
    (post,) = server.posts
    query = "callback_url=https%3A%2F%2Fhooks.example.org%2Fdone%3Fa%3Db%26c%3Dd"
    assert (post.path, post.headers["prefer"]) == (f"/predict?{query}", "respond-async")


def test_models_are_listed(kind: Sync) -> None:
    with scripted() as server:
        models = kind.call(server.url, "models")
        assert kind.call(server.url, "is_ready") is True
    assert (models.default_model, models.named("m").state, models.named("x")) == ("m", "ready", None)


def test_each_of_many_pictures_fails_alone(kind: Sync, tmp_path: Path) -> None:
    def script(number: int, request: HttpRequest) -> Reply:
        return failed(400, "invalid_image") if request.body == b"bad" else good(number)

    pictures = [b"1", b"bad", tmp_path / "missing.png", b"2"]
    with scripted(script) as server:
        replies = kind.many(server.url, pictures, model="m", top=2, concurrency=2)
    assert {str(reply.picture): type(reply.error) for reply in replies} == {
        "b'1'": type(None),
        "b'bad'": RequestRefusal,
        str(tmp_path / "missing.png"): FileNotFoundError,
        "b'2'": type(None),
    }
    assert {request.path for request in server.posts} == {"/predict?model=m&top=2"}
    assert all((reply.answer is None) is (reply.error is not None) for reply in replies)


def test_no_more_pictures_are_asked_about_at_once_than_is_said(kind: Sync) -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3)

    def script(number: int, _: HttpRequest) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(30)  # three are under way at once, or this breaks
        with lock:
            running -= 1
        return good(number)

    with scripted(script) as server:
        replies = kind.many(server.url, [b"%d" % number for number in range(12)], concurrency=3)
    assert [type(reply.error) for reply in replies] == [type(None)] * 12
    assert most == 3


def test_pictures_are_taken_as_they_are_needed_and_closing_sends_no_more() -> None:
    numbers = iter(range(1000))
    with scripted() as server, Client(server.url) as client:
        replies = client.predict_many((b"%d" % number for number in numbers), concurrency=2)
        next(replies)
        replies.close()
        sent = len(server.posts)
        assert sent <= 2
        assert next(numbers) == 2
    assert len(server.posts) == sent


def test_closing_ends_a_wait_for_a_service_that_is_away() -> None:
    def script(number: int, _: HttpRequest) -> Reply:
        return good() if number == 0 else failed(503, "overloaded", "20")

    began_at = time.monotonic()
    with scripted(script) as server, Client(server.url) as client:
        replies = client.predict_many([b"1", b"2"], concurrency=2)
        next(replies)
        replies.close()
    assert time.monotonic() - began_at < 10


def test_closing_the_asynchronous_one_cancels_what_was_sent() -> None:
    release = threading.Event()

    def script(number: int, _: HttpRequest) -> Reply:
        if number:
            release.wait(30)
        return good(number)

    async def run(url: str) -> float:
        pictures = [b"1", b"2", b"3"]
        async with (
            AsyncClient(url) as client,
            contextlib.aclosing(client.predict_many(pictures, concurrency=2)) as replies,
        ):
            await anext(replies)
            closing_at = time.monotonic()
        return time.monotonic() - closing_at

    with scripted(script) as server:
        assert asyncio.run(run(server.url)) < 10
        release.set()


def test_every_error_is_caught_by_one_name() -> None:
    for error in (AnswerTimeout, ConnectionFailure, RequestRefusal, UnreadableAnswer):
        assert issubclass(error, BatchwireError)
