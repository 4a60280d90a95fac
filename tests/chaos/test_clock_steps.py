"""Redis' clock steps by an hour under real processes: every accepted picture is answered, in its time."""

import time
from pathlib import Path

import pytest

from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HOUR_S = 3600.0
JOBS = 30


def _submit(stack: Stack, value: int) -> str:
    """Where the result of a picture will be."""
    response = http.post(
        f"{stack.url}/predict",
        files={"image": ("x.png", shade(value))},
        headers={"Prefer": "respond-async"},
        timeout=30,
    )
    assert response.status_code == 202, response.text
    return response.headers["Location"]


class Results:
    """What polling has brought so far."""

    def __init__(self, stack: Stack, locations: list[str]) -> None:
        self._stack = stack
        self._waiting = dict(enumerate(locations))
        self.labels: dict[int, str] = {}

    def are_complete(self) -> bool:
        """Poll each that is missing; fail where one is refused or gone."""
        for value, location in tuple(self._waiting.items()):
            response = http.get(self._stack.url + location, timeout=10)
            assert response.status_code in (200, 202), response.text
            if response.status_code == 200:
                self.labels[value] = response.json()["predictions"][0]["label"]
                del self._waiting[value]
        return not self._waiting


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_polled_jobs_are_answered_though_the_clock_steps_and_a_worker_dies(
    step_s: float, tmp_path: Path, stepping_redis: RedisServer
) -> None:
    with web_up(Stack(tmp_path, stepping_redis.url)) as stack:
        first = stack.start_model_server(delay_s=5)  # no result is written before the step
        results = Results(stack, [_submit(stack, value) for value in range(JOBS)])
        stepping_redis.step_clock(step_s)
        # It dies with what it holds, just after the step; its peer begins after both.
        first.kill()
        stack.start("tests.e2e.shades_server", str(stack.executions), "0", log="second")
        began = time.monotonic()
        eventually(results.are_complete, within_s=30)
        assert results.labels == {value: str(value) for value in range(JOBS)}
        # It has to start, and to wait for two leases of a second.
        assert time.monotonic() - began < 20
        response = http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(7))}, timeout=30)
        assert response.status_code == 200
    assert "Redis' clock has stepped by" in (tmp_path / "web.log").read_text()
