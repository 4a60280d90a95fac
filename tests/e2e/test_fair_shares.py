"""Two clients with keys on one model: how many pictures a call of the network has, on real processes."""

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.connection import connect
from broker.keys import Keys
from tests.support import http
from tests.support.api_keys import add_key
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, START_S, Stack, shade
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_BATCH = 8


class Service(Stack):
    """The stack, with a network that takes 0.04 s a picture, and a key each for ann and bob."""

    keys: dict[str, str]

    def sizes(self) -> list[int]:
        """How many pictures each call of the network had."""
        return [int(line) for line in self.executions.with_suffix(".calls").read_text().split()]

    def ask(self, name: str, pictures: int) -> list[int]:
        """One request with so many pictures. Returns the sizes of all calls until its answer."""
        files = [("image", (f"{number}.png", shade(number))) for number in range(pictures)]
        answer = http.post(
            f"{self.url}/predict", files=files, headers={"X-API-Key": self.keys[name]}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return self.sizes()


@pytest.fixture
def service(own_redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, own_redis.url)
    made.environment |= {"API_KEYS": "required", "BATCH_SIZE": str(_BATCH), "REQUEST_TIMEOUT_S": "60"}
    with connect(own_redis.url, timeout_s=5) as client:
        made.keys = {name: add_key(client, Keys("bw:"), name) for name in ("ann", "bob")}
    try:
        arguments = (str(made.executions), "0+0.04", "mended", "forgetful")
        made.start("tests.e2e.shades_server", *arguments, log="model_server")
        made.start_web()
        eventually(lambda: made.answers(f"/readyz?model={MODEL}"), within_s=START_S)
        yield made
    finally:
        made.stop()


def test_batches_are_small_while_two_share_and_as_large_as_ever_before_and_after(service: Service) -> None:
    for _ in range(2):
        assert max(service.ask("ann", 40)) == _BATCH
        service.executions.with_suffix(".calls").write_text("")
        with ThreadPoolExecutor(2) as pool:
            flood = [pool.submit(service.ask, "ann", 60) for _ in range(2)]
            eventually(lambda: len(service.sizes()) > 1, within_s=START_S)
            # A first call may have begun before it; its own has no other eight.
            before = len(service.ask("bob", 1))
            shared = [service.ask("bob", 1) for _ in range(6)][-1][before:]
            assert not any(each.done() for each in flood)
            assert statistics.median(shared) <= 2, shared
            for each in flood:
                each.result()
        eventually(lambda: max(service.ask("ann", 30)[-3:]) == _BATCH, within_s=30)
