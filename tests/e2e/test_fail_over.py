"""Redis fails over under real processes: every waiting request is answered, and no answer is another's."""

import functools
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support import http
from tests.support.redis_server import faketime_library
from tests.support.sentinels import SentinelService, running_sentinels
from tests.support.stack import Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_SENDERS = 6


@pytest.fixture
def service() -> Iterator[SentinelService]:
    """A primary, a replica and three Sentinels of this test's own."""
    with running_sentinels() as service:
        yield service


class Load:
    """A few clients that send distinct pictures, one after the other, and keep every answer."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._values = itertools.cycle(range(254))  # the last two are poison
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.right = 0
        self.refused = 0
        self.others: list[str] = []
        """What is neither the right answer nor a refusal at once."""
        self._pool = ThreadPoolExecutor(_SENDERS)
        self._senders: list[Future[None]] = [self._pool.submit(self._send) for _ in range(_SENDERS)]

    def _send(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                value = next(self._values)
            began = time.monotonic()
            answer = predict(self._stack, value)
            with self._lock:
                self._count(value, answer, time.monotonic() - began)
            if answer.status_code == 503:
                self._stopping.wait(0.1)

    def _count(self, value: int, answer: httpx.Response, took_s: float) -> None:
        if answer.status_code == 200 and label(answer) == str(value):
            self.right += 1
        elif answer.status_code == 503 and answer.json()["error"]["code"] == "broker_unavailable":
            self.refused += 1
        else:
            self.others.append(f"{value}: {answer.status_code} after {took_s:.1f} s: {answer.text[:200]}")

    def await_right(self, count: int) -> None:
        """Until so many more are answered rightly."""
        wanted = self.right + count
        eventually(lambda: self.right >= wanted, within_s=40)

    def stop(self) -> None:
        """Send no more, and take the last answers."""
        self._stopping.set()
        for sender in self._senders:
            sender.result()
        self._pool.shutdown()


def predict(stack: Stack, value: int) -> httpx.Response:
    return http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(value))}, timeout=30)


def submit(stack: Stack, value: int) -> httpx.Response:
    return http.post(
        f"{stack.url}/predict",
        files={"image": ("x.png", shade(value))},
        headers={"Prefer": "respond-async"},
        timeout=30,
    )


def is_there(place: str) -> bool:
    """Whether a polled job has its result. Fails where it is gone."""
    answer = http.get(place, timeout=10)
    assert answer.status_code in (200, 202, 503), answer.text
    return answer.status_code == 200


def label(answer: httpx.Response) -> str:
    return str(answer.json()["predictions"][0]["label"])


@pytest.mark.parametrize("how", ["killed", "demoted", "cut off"])
def test_no_waiting_request_is_lost_when_another_server_becomes_the_primary(
    how: str, service: SentinelService, tmp_path: Path
) -> None:
    with web_up(Stack(tmp_path, service.url)) as stack:
        stack.start_model_server(delay_s=0.05)
        stack.start_model_server(delay_s=0.05)
        load = Load(stack)
        load.await_right(20)
        before = service.primary()
        if how == "demoted":
            service.fail_over()
        else:
            before.stop() if how == "killed" else service.cut_off(before)
            service.await_other_than(before)
        load.await_right(50)
        if how == "cut off":
            service.rejoin(before)  # its writes since are gone, with what nobody waits for
            load.await_right(20)
        load.stop()
        assert load.others == []
        log = (tmp_path / "web.log").read_text()
        assert f"is 127.0.0.1:{service.primary().port} now; it was 127.0.0.1:{before.port}." in log
        with service.primary().client() as client:
            assert client.llen("bw:{shades}:queue") == 0


def test_polled_jobs_that_replicas_had_to_have_are_kept(service: SentinelService, tmp_path: Path) -> None:
    stack = Stack(tmp_path, service.url)
    stack.environment["REDIS_REPLICAS"] = "1"
    with web_up(stack):
        stack.start_model_server(delay_s=0.5)
        places = {}
        for value in range(20):
            answer = submit(stack, value)
            assert answer.status_code == 202, answer.text
            places[value] = stack.url + answer.headers["Location"]
        before = service.primary()
        before.stop()
        # A replica that is gone takes no job: it would be lost with the next server.
        service.await_other_than(before)
        eventually(lambda: submit(stack, 99).status_code == 503, within_s=20)
        for value, place in places.items():
            eventually(functools.partial(is_there, place), within_s=30)
            assert label(http.get(place, timeout=10)) == str(value)
        assert "0 of 1 (REDIS_REPLICAS) had it within 500 ms" in (tmp_path / "web.log").read_text()


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_the_clock_of_the_next_primary_may_differ(ahead_s: float, tmp_path: Path) -> None:
    library = faketime_library()
    if isinstance(library, str):
        pytest.skip(library)
    with (
        running_sentinels(faketime=library, offsets_s=(0.0, ahead_s)) as service,
        web_up(Stack(tmp_path, service.url)) as stack,
    ):
        stack.start_model_server(delay_s=0.05)
        load = Load(stack)
        load.await_right(20)
        before = service.primary()
        before.stop()
        service.await_other_than(before)
        load.await_right(50)
        load.stop()
        assert load.others == []
