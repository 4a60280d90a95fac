"""The metrics of real processes: of all web processes, also after one was killed; of a model server."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import http
from tests.support.redis_server import running_redis
from tests.support.stack import MODEL, Stack, free_port, shade
from tests.support.waiting import eventually
from web import metrics_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PICTURES = 60


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two web processes and a model server that tells its metrics."""
    with running_redis() as server:
        stack = Stack(tmp_path_factory.mktemp("service"), server.url)
        stack.environment |= {"WEB_WORKERS": "2", "METRICS_PORT": str(free_port())}
        stack.start_web()
        stack.start_model_server()
        yield stack
        stack.stop()


def _answered(stack: Stack) -> float:
    """Pictures that were answered, by the web tier's count."""
    labels = f'{{code="200",dialect="batchwire",model="{MODEL}",route="/predict"}}'
    found = re.search(rf"^batchwire_http_requests_total{labels} (.*)$", stack.text("/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _web_processes(stack: Stack) -> set[int]:
    return {int(pid) for pid in re.findall(r"pid: (\d+)", (stack.folder / "web.log").read_text())}


def test_a_killed_web_process_takes_no_count_along(stack: Stack) -> None:
    answered, told, killed = 0, [_answered(stack)], False
    for number in range(PICTURES):
        if number == PICTURES // 2:
            os.kill(min(_web_processes(stack)), signal.SIGKILL)
            killed = True
            eventually(lambda: stack.answers("/healthz"))
        response = http.post(f"{stack.url}/predict", files={"image": shade(number % 250)}, timeout=20)
        answered += response.status_code == 200
        told.append(_answered(stack))
    assert killed
    assert told == sorted(told)
    assert told[-1] - told[0] == answered >= PICTURES - 2
    eventually(lambda: len(_web_processes(stack)) == 3)  # another took its place
    assert _answered(stack) == told[-1]


def test_a_model_server_tells_its_own(stack: Stack) -> None:
    before = len(stack.executed())
    assert http.post(f"{stack.url}/predict", files={"image": shade(1)}, timeout=20).status_code == 200
    assert len(stack.executed()) == before + 1
    url = f"http://127.0.0.1:{stack.environment['METRICS_PORT']}/metrics"

    def told() -> bool:
        text = http.get(url, timeout=5).text
        return f'batchwire_batch_size_sum{{model="{MODEL}"}} {before + 1:.1f}\n' in text

    eventually(told)


def test_its_folder_is_gone_when_it_has_ended(tmp_path: Path) -> None:
    with running_redis() as server:
        stack = Stack(tmp_path, server.url)
        web = stack.start_web()
        folders = list(metrics_folder.PARENT.glob(f"batchwire-metrics-{web.pid}-*"))
        assert [path.stat().st_mode & 0o777 for path in folders] == [0o700]
        web.terminate()
        web.wait(20)
        assert not folders[0].exists()
        stack.stop()
