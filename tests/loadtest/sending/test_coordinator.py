"""Runs of several points: ranges, objectives, searches, stability, interrupts."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli.main import main
from tests.loadtest.running import counts, run
from tests.loadtest.stub import answer, prediction, stub_server
from tests.support import ROOT

pytestmark = pytest.mark.slow  # each starts a client process or two: half a second

SAYS_SO = "Interrupted: waiting for unfinished requests. Interrupt again to stop at once.\n"

SCRIPT = ROOT / "stress_test.py"


def test_a_label_must_not_change_between_client_processes_either(tmp_path: Path) -> None:
    with stub_server(
        lambda number: answer(number, predictions=[prediction("dog" if number == 9 else "cat")])
    ) as server:
        status, figures = run(server, tmp_path, "--draw-count", "1", "--processes", "2", "--concurrency", "2")
    assert (status, counts(figures["points"][0])) == (1, {"label changed": 1})
    assert figures["points"][0]["client"]["processes"] == 2


def test_points_are_measured_one_after_another_and_written(tmp_path: Path) -> None:
    with stub_server() as server:
        asked = ["--concurrency", "1,2", "--duration", "1", "--warmup", "0.5"]
        asked += ["--csv", str(tmp_path / "o.csv"), "--report", str(tmp_path / "o.html")]
        status, figures = run(server, tmp_path, *asked, requests=None)
    assert status == 0
    assert [point["name"] for point in figures["points"]] == ["1 client", "2 clients"]
    assert all(point["warmup_requests"] > 0 and point["right"] > 0 for point in figures["points"])
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 3
    assert "2 clients" in (tmp_path / "o.html").read_text()


@pytest.mark.parametrize(("slo", "status"), [("p99=10s", 0), ("p50=1us", 1)])
def test_an_objective_decides_the_exit_status(tmp_path: Path, slo: str, status: int) -> None:
    with stub_server() as server:
        found, figures = run(server, tmp_path, "--slo", slo, "--rate", "100")
    assert found == status
    assert bool(figures["points"][0]["misses"]) == bool(status)


def test_the_highest_rate_is_searched_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten connections held for 200 ms each: 50 requests a second can't be exceeded.

    A busy machine can serve that, and an objective of three times the hold forgives a short stall.
    """
    here = threading.BoundedSemaphore(10)

    def script(number: int) -> dict[str, Any]:
        with here:
            time.sleep(0.2)
        return answer(number)

    with stub_server(script) as server:
        asked = ["--slo", "p90=600ms", "--duration", "1", "--warmup", "0.2", "--within", "10%"]
        status, figures = run(server, tmp_path, *asked, "--concurrency", "1", requests=None)
        assert status == 0  # one client is no search
        arguments = ["--url", server.url, *asked, "--json", str(tmp_path / "search.json")]
        assert main(arguments) == 0
    found = json.loads((tmp_path / "search.json").read_text())
    rate = float(found["conclusion"].split("up to ")[1].split(" ")[0])
    assert 30 <= rate <= 80
    assert found["conclusion"] in " ".join(capsys.readouterr().out.split())
    assert not figures["conclusion"]


def test_nothing_is_searched_where_nothing_is_right(tmp_path: Path) -> None:
    with stub_server(lambda _: b"bad") as server:
        arguments = ["--url", server.url, "--slo", "p99=1s", "--json", str(tmp_path / "search.json")]
        assert main(arguments) == 1
    found = json.loads((tmp_path / "search.json").read_text())
    assert "so the search ends" in found["conclusion"]
    assert found["points"][0]["failed"] > 0


def test_what_fails_alike_from_the_start_is_given_up(tmp_path: Path) -> None:
    wrong = {"success": False, "error": {"code": "invalid_image", "message": "no picture"}, "status": 400}
    with stub_server(lambda _: wrong) as server:
        status, figures = run(server, tmp_path, "--rate", "40,50", "--duration", "30", requests=None)
    assert status == 1
    assert len(figures["points"]) == 1  # another rate would fail as well
    assert "http 400 invalid_image: no picture" in figures["points"][0]["given_up"]
    assert len(server.seen) < 200


def test_a_missing_key_ends_the_run_at_once_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"success": False, "error": {"code": "unauthorized", "message": "no key"}, "status": 401}
    with stub_server(lambda _: wrong) as server:
        status, figures = run(server, tmp_path, "--rate", "20,30", "--duration", "5", requests=None)
        assert len(server.seen) < 20
        assert main(["--url", server.url, "--rate", "40", "--requests", "3"]) == 1
    assert (status, len(figures["points"])) == (1, 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "failed in the same way (http 401 unauthorized: no key): ended early. --api-key VARIABLE" in said
    assert "every request was refused (http 401 unauthorized: no key). --api-key VARIABLE" in said
    assert "did not keep up" not in said


def test_refusals_of_a_server_under_load_are_not_given_up(tmp_path: Path) -> None:
    refusal = {"success": False, "error": {"code": "overloaded", "message": "full"}, "status": 503}
    with stub_server(lambda _: refusal) as server:
        _, figures = run(server, tmp_path, "--rate", "100", requests=100)
    assert (figures["points"][0]["failed"], figures["points"][0]["given_up"]) == (100, "")


def test_a_load_ends_when_it_is_stable(tmp_path: Path) -> None:
    def script(number: int) -> dict[str, Any]:
        time.sleep(0.02)
        return answer(number)

    with stub_server(script) as server:
        asked = ["--stable", "20%", "--window", "0.3s", "--duration", "40"]
        status, figures = run(server, tmp_path, *asked, "--concurrency", "2", requests=None)
    point = figures["points"][0]
    assert (status, point["stable"]) == (0, True)
    assert 0.85 <= point["seconds"] <= 5  # of the three windows, not of all


def test_failures_within_their_budget_are_no_failure(tmp_path: Path) -> None:
    with stub_server(lambda number: b"bad" if number == 3 else answer(number)) as server:
        assert run(server, tmp_path, "--slo", "errors=10%")[0] == 0
    with stub_server(lambda number: b"bad" if number == 3 else answer(number)) as server:
        assert run(server, tmp_path, "--slo", "errors=5%")[0] == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_waits_for_what_is_out_and_a_second_does_not(
    stop: signal.Signals, times: int, tmp_path: Path
) -> None:
    reached, release = threading.Event(), threading.Event()
    ledger = tmp_path / "ledger.jsonl"

    def script(number: int) -> dict[str, Any]:
        if number == 3:
            reached.set()
            release.wait(30)
        return answer(number)

    with stub_server(script) as server:
        command = [sys.executable, str(SCRIPT), "--url", server.url, "--concurrency", "1"]
        command += ["--ledger", str(ledger)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert reached.wait(30)
                assert process.stdout
                process.send_signal(stop)
                said = list(iter(process.stdout.readline, SAYS_SO))  # two signals at once would be one
                if times == 1:
                    time.sleep(1)  # until the client process has heard it, too
                    release.set()
                else:
                    process.send_signal(stop)
                printed, complaints = process.communicate(timeout=30)
            finally:
                release.set()
                process.kill()
    assert (process.returncode, complaints) == (130, "")
    assert "1 client" in said[0] + printed
    assert ("requests were unfinished" in printed) == (times == 2)
    outcomes = [json.loads(line)["outcome"] for line in ledger.read_text().splitlines()[1:-1]]
    assert outcomes == ["ok", "ok", "ok", "ok" if times == 1 else "interrupted"]
    assert len(server.seen) == 4
    assert main(["--check-ledger", str(ledger)]) == times - 1
