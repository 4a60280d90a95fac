"""What the load tester says against what a server of known latencies knows, by the server's own clock.

The truth is the server's: when an answer was written, less when its request was due. The schedule of an open
loop is known but for its beginning, which is the earliest arrival less its place in the schedule.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loadtest.slo import nearest_rank

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 0.02
"""What the percentiles may be off."""

HOLDS_MS = [str(200 + 7 * n % 101 * 8) for n in range(101)]
"""200 to 1000 ms, evenly spread, in an order that repeats late."""


@contextmanager
def known_server(log: Path, *arguments: str) -> Iterator[str]:
    """Yield its address; what it saw is in the log afterwards."""
    command = [sys.executable, "-m", "tests.loadtest.known_server", str(log), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
            server.communicate("", timeout=30)
        finally:
            server.kill()


def load_test(url: str, folder: Path, *arguments: str) -> dict[str, Any]:
    figures = folder / "figures.json"
    command = [sys.executable, "stress_test.py", "--url", url, "--json", str(figures), *arguments]
    subprocess.run([*command, "--draw", "32x24"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads(figures.read_text())["points"][0])


def seen_by(log: Path, requests: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When each request arrived and when it was answered, by its number."""
    seen = json.loads(log.read_text())
    assert sorted(map(int, seen)) == list(range(requests))
    both = np.array([seen[str(number)] for number in range(requests)])
    return both[:, 0], both[:, 1]


def assert_close(figures: dict[str, Any], truth_s: NDArray[np.float64]) -> None:
    ordered = np.sort(truth_s) * 1000
    for name in ("p50", "p90", "p95", "p99"):
        expected = nearest_rank(ordered, float(name[1:]))
        assert figures["latency_ms"][name] == pytest.approx(expected, rel=WITHIN), name
    assert figures["latency_ms"]["mean"] == pytest.approx(ordered.mean(), rel=WITHIN)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_open_loop_percentiles(processes: str, tmp_path: Path) -> None:
    requests, rate = 404, 80.0
    log = tmp_path / "seen.json"
    with known_server(log, *HOLDS_MS) as url:
        figures = load_test(
            url, tmp_path, "--rate", str(rate), "--requests", str(requests), "--draw-count", str(requests),
            "--processes", processes,
        )  # fmt: skip
    arrived, answered = seen_by(log, requests)
    due = np.arange(requests) / rate
    assert_close(figures, answered - due - (arrived - due).min())
    assert figures["right"] == requests


def test_a_stall_is_not_omitted(tmp_path: Path) -> None:
    """Coordinated omission: what should have left during a stall waited, though it was sent after it."""
    requests, rate = 400, 50.0
    log = tmp_path / "seen.json"
    with known_server(log, "200", "--stall", "3", "2") as url:
        figures = load_test(
            url, tmp_path, "--rate", str(rate), "--requests", str(requests), "--draw-count", str(requests),
            "--connections", "20",
        )  # fmt: skip
    arrived, answered = seen_by(log, requests)
    due = np.arange(requests) / rate
    truth = answered - due - (arrived - due).min()
    assert_close(figures, truth)
    # What a tester that counts from the sending would have said, far from it: the test can tell.
    from_sending = nearest_rank(np.sort(answered - arrived), 90) or 0.0
    assert from_sending * 1000 < figures["latency_ms"]["p90"] / 2


def test_closed_loop_rate_and_percentiles(tmp_path: Path) -> None:
    requests = 202
    log = tmp_path / "seen.json"
    with known_server(log, *HOLDS_MS) as url:
        figures = load_test(
            url, tmp_path, "--concurrency", "30", "--requests", str(requests), "--draw-count", str(requests)
        )
    arrived, answered = seen_by(log, requests)
    assert_close(figures, answered - arrived)
    assert figures["per_s"] == pytest.approx(requests / (answered.max() - arrived.min()), rel=WITHIN)


def test_throughput_in_a_window_after_the_warm_up(tmp_path: Path) -> None:
    """Thirty clients at 100 ms each: 300 answers a second, whatever the beginning and the end cost."""
    log = tmp_path / "seen.json"
    with known_server(log, "100") as url:
        figures = load_test(url, tmp_path, "--concurrency", "30", "--duration", "3", "--warmup", "1")
    hold_s = figures["latency_ms"]["mean"] / 1000
    assert figures["per_s"] == pytest.approx(30 / hold_s, rel=WITHIN)
    assert figures["seconds"] == pytest.approx(3, rel=WITHIN)
