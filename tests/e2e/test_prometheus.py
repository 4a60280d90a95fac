"""A real Prometheus beside the service: what it has counted is what the load tester's ledger says."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import ROOT, http
from tests.support.redis_server import running_redis
from tests.support.stack import Stack, free_port
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is not installed (Debian: apt install prometheus)",
    ),
]

LOAD_S = 8
KILLED_EVERY_S = 3
RATE = 30


class Prometheus:
    """A server that scrapes one address once a second."""

    def __init__(self, folder: Path, target: str) -> None:
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "web", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.url = f"http://127.0.0.1:{free_port()}"
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, question: str) -> list[float]:
        """The values of an instant query."""
        try:
            answer = http.get(f"{self.url}/api/v1/query", params={"query": question}, timeout=5).json()
        except (httpx.HTTPError, ValueError):  # while it starts it answers 503, in plain text
            return []
        return [float(series["value"][1]) for series in answer["data"]["result"]]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Two web processes and a model server."""
    with running_redis() as server:
        made = Stack(tmp_path, server.url)
        made.environment |= {"WEB_WORKERS": "2"}
        made.start_web()
        made.start_model_server(delay_s=0.1)  # at any moment there are some that a killed process has
        yield made
        made.stop()


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[Prometheus]:
    """One that has scraped the service already."""
    server = Prometheus(tmp_path, stack.url.removeprefix("http://"))
    eventually(lambda: server.ask('up{job="web"}') == [1.0], within_s=30)
    yield server
    server.process.terminate()
    server.process.wait(20)


def test_its_counter_is_the_ledger_although_web_processes_are_killed(
    stack: Stack, prometheus: Prometheus, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    kill = f"grep -o 'pid: [0-9]*' {stack.folder}/web.log | tail -2 | head -1 | cut -c6- | xargs kill -9"
    command = [sys.executable, str(ROOT / "stress_test.py"), "--url", f"{stack.url}/predict"]
    command += ["--rate", str(RATE), "--duration", f"{LOAD_S}s", "--ledger", str(ledger)]
    command += ["--fault", f"sh -c {kill!r}", "--every", f"{KILLED_EVERY_S}s"]
    with (tmp_path / "load.log").open("wb") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False, timeout=120)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    outcomes = Counter(line["outcome"] for line in lines if "outcome" in line)
    answered = outcomes["ok"]
    assert answered > 0.8 * RATE * LOAD_S, outcomes
    assert outcomes.total() > answered, "no process was killed in the middle of a request"
    counted = 'sum(batchwire_http_requests_total{route="/predict",code="200"})'
    eventually(lambda: abs((prometheus.ask(counted) or [0.0])[0] - answered) <= 0.01 * answered, within_s=15)
    assert prometheus.ask(f"sum(resets({counted.removeprefix('sum(')[:-1]}[2m]))") == [0.0]  # it never fell
