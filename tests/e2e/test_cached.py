"""The response cache through real processes: two of the web tier's, and a model server that is killed."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import SHADE, Stack, shade, web_up
from tests.support.waiting import eventually
from web.responses import CACHE_FIELD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENTS = 24


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """Two web processes, which keep results."""
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"WEB_WORKERS": "2", "RESULT_CACHE_S": "60", "REQUEST_TIMEOUT_S": "60"}
    with web_up(stack):
        yield stack


def _post(stack: Stack, picture: bytes = shade(SHADE)) -> httpx.Response:
    """Ask over a connection of its own: either process may take it."""
    return http.post(f"{stack.url}/predict", files={"image": ("x.png", picture)}, timeout=90)


def _know_the_model(stack: Stack) -> bool:
    """Whether both processes do: each learns of it within two seconds of its own."""
    return all(_post(stack, b"broken").status_code == 400 for _ in range(20))


def test_those_that_share_a_run_outlive_the_model_server_that_had_it(stack: Stack) -> None:
    killed = stack.start_model_server(delay_s=3.0)
    eventually(lambda: _know_the_model(stack))
    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = [threads.submit(_post, stack) for _ in range(CLIENTS)]
        eventually(lambda: stack.executed() == [SHADE])
        killed.kill()
        stack.start_model_server()
        responses = [each.result() for each in answers]
    assert [each.status_code for each in responses] == [200] * CLIENTS
    sources = Counter(each.headers[CACHE_FIELD] for each in responses)
    # One that came late, to a process that was busy, may find the result kept.
    assert sources["miss"] == 1, sources
    assert stack.executed() == [SHADE, SHADE]  # the one that was killed, and its repeat
    # Until then a process may still have the card of a worker that loads, whose engine is not yet known.
    eventually(lambda: [_post(stack).headers[CACHE_FIELD] for _ in range(4)] == ["hit"] * 4)
