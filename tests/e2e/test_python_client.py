"""The client of clients/ and its command with the real service: answers, jobs, refusals, overload, kills."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import AsyncClient, Client, RequestRefusal, ServiceFault
from tests.e2e.shades_server import RAISE
from tests.support import ROOT
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, SHADE, Stack, shade, web_up, whole_service
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service, whose network tells shades."""
    with whole_service(tmp_path_factory.mktemp("service")) as stack:
        yield stack


def test_answers_jobs_and_models(url: str, picture: Path) -> None:
    with Client(url) as client:
        assert client.is_ready()
        assert client.is_ready(MODEL)
        models = client.models()
        assert (models.default_model, [model.state for model in models.models]) == (MODEL, ["ready"])
        answer = client.predict(picture, model=MODEL, top=2)
        assert answer.best is not None
        assert (answer.best.label, len(answer.predictions)) == (str(SHADE), 2)
        assert answer.request_id
        assert set(answer.raw) == {
            *("success", "model", "id", "predictions", "model_version", "engine", "precision"),
            *("batch_size", "timings_ms"),
        }
        job = client.submit(picture)
        polled = client.job(job.id, job.model).result(wait_s=60)
        assert (polled.id, polled.best and polled.best.label) == (job.id, str(SHADE))
        assert [job.cancel(), job.cancel()] == [True, False]  # its result is dropped
        with pytest.raises(RequestRefusal, match="not_found"):
            job.result()


def test_refusals_have_the_service_s_codes(url: str) -> None:
    with Client(url) as client:
        for content, model, code in (
            (b"no picture", None, "invalid_image"),
            (shade(SHADE), "nobody", "unknown_model"),
            (bytes(21_000_000), None, "too_large"),
        ):
            with pytest.raises(RequestRefusal) as raised:
                client.predict(content, model=model)
            assert raised.value.code == code
        with pytest.raises(RequestRefusal, match="unknown_model"):
            client.is_ready("nobody")
        with pytest.raises(RequestRefusal, match="not_found"):
            client.job("d6f4e92e-2485-43fc-b68c-cc2c1ff641e6", MODEL).result()
        with pytest.raises(ServiceFault, match="inference_failed") as failed:
            client.predict(shade(RAISE))
        assert failed.value.job_id


def test_many_pictures_and_the_one_that_fails(service: Stack) -> None:
    async def run() -> dict[bytes, str]:
        pictures = [shade(value) for value in range(40)] + [b"no picture"]
        async with AsyncClient(service.url) as client:
            return {
                bytes(reply.picture): reply.answer.best.label  # type: ignore[arg-type]
                if reply.answer and reply.answer.best
                else str(reply.error)
                async for reply in client.predict_many(pictures, concurrency=16)
            }

    labels = asyncio.run(run())
    assert labels.pop(b"no picture").startswith("invalid_image: The upload is not a picture")
    assert labels == {shade(value): str(value) for value in range(40)}


def test_a_full_queue_is_waited_out(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"QUEUE_LIMIT": "2", "BATCH_SIZE": "1", "LOG_LEVEL": "debug"}
    with web_up(stack), Client(stack.url) as client:
        stack.start_model_server(delay_s=0.1)
        replies = list(client.predict_many([shade(value) for value in range(24)], concurrency=24))
        assert [reply.error for reply in replies] == [None] * 24
    assert "POST /predict: 503" in (tmp_path / "web.log").read_text()


@pytest.mark.parametrize("part", ["model server", "web"])
def test_the_service_may_be_killed_and_started_again_meanwhile(
    own_redis: RedisServer, tmp_path: Path, part: str
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    try:
        web, model_server = stack.start_web(), stack.start_model_server(delay_s=0.05)
        with Client(stack.url) as client:
            replies = client.predict_many([shade(value) for value in range(60)], concurrency=4)
            first = [next(replies) for _ in range(10)]
            killed = web if part == "web" else model_server
            killed.kill()
            killed.wait()
            if killed is web:
                stack.start_web()
            else:
                stack.start_model_server()
            errors = [reply.error for reply in (*first, *replies)]
    finally:
        stack.stop()
    assert errors == [None] * 60


def test_the_command_goes_on_where_it_was_killed(own_redis: RedisServer, tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "answers.jsonl"
    photos.mkdir()
    for value in range(60):
        (photos / f"{value}.png").write_bytes(shade(value))
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["BATCH_SIZE"] = "1"
    words = [sys.executable, "-m", "clients", str(photos), "--url", stack.url, "-o", str(output), "-c", "4"]
    with web_up(stack):
        stack.start_model_server(delay_s=0.1)
        first = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        eventually(lambda: output.exists() and output.read_bytes().count(b"\n") >= 10)
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        answered = output.read_bytes().count(b"\n")
        again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert again.returncode == 0, again.stderr
        executed = stack.executed()
    assert 10 <= answered < 60
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    labels = {Path(line["file"]).stem: line["predictions"][0]["label"] for line in lines}
    assert (len(lines), labels) == (60, {str(value): str(value) for value in range(60)})
    assert len(executed) <= 60 + 4  # what was under way at the kill ran twice, or not at all
