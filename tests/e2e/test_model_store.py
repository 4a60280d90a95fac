"""Models from a store, on real processes: the first copy, a change under load, a store that is away."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import versions
from tests.e2e.told_server import write
from tests.support import http_server
from tests.support.archive_server import ArchiveServer, zipped
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with http_server.running(ArchiveServer(b"")) as running:
        yield running


@pytest.fixture
def stack(own_redis: RedisServer, server: ArchiveServer, tmp_path: Path) -> Iterator[Stack]:
    """A web tier; its model servers' models come from the archive."""
    made = Stack(tmp_path, own_redis.url, versions.MODEL)
    made.environment |= {
        "MODELS_DIR": server.url.replace("127.0.0.1", "someone:hunter2@127.0.0.1"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "STORE_LOOK_S": "1",
        "LOG_LEVEL": "debug",
    }
    with web_up(made):
        yield made


def test_a_store_is_awaited_followed_and_not_needed_once_its_models_are_here(
    stack: Stack, server: ArchiveServer, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    server.status = 403
    stack.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: "refuses access" in stack.text("/models"), within_s=60)
    shown = versions.shown(stack)
    assert shown["state"] == "failed"
    assert shown["reason"] == (
        "told: the model store refuses access: its credentials are missing, wrong or expired. "
        "It is tried again."
    )
    assert versions.post(stack, 7).status_code == 503

    write(packed / versions.MODEL)
    server.content, server.status = zipped(packed), 200
    eventually(lambda: bool(stack.ready_workers()), within_s=60)
    marks = {versions.served(stack): 0}
    stack.start("tests.e2e.told_server", log="model_server")  # it shares the copies
    eventually(lambda: len(stack.ready_workers()) == 2, within_s=60)
    with versions.Load(stack) as load:
        write(packed / versions.MODEL, mark=9)
        server.content = zipped(packed)
        version = versions.version(packed / versions.MODEL)
        eventually(lambda: set(versions.running(stack)) == {version}, within_s=60)
        server.status = 503
        eventually(lambda: "can't be reached" in versions.log(stack))
    assert load.check(marks | {version: 9}) == {*marks, version}

    write(packed / versions.MODEL, mark=1)  # which nobody can see
    third = stack.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: versions.running(stack) == [version] * 3, within_s=60)
    third.terminate()
    assert third.wait(30) == 0
    log = versions.log(stack)
    assert "hunter2" not in log
    assert "Traceback" not in log
    assert len(list(tmp_path.glob("cache/stores/*/versions/*"))) == 1
