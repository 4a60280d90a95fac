"""The whole program against a small server of the tests' own: what it sends, counts, says and returns."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli.main import main
from tests.loadtest.running import counts, run, script_of_failures
from tests.loadtest.stub import Script, answer, prediction, stub_server
from tests.support import ROOT

pytestmark = pytest.mark.slow  # each starts a client process or two: half a second

SCRIPT = ROOT / "stress_test.py"

MODELS = {
    "default_model": "m",
    "models": [
        {"model": "m", "state": "ready", "task": "classification", "classes": 1000, "top": 1},
        {"model": "broken", "state": "failed", "reason": "no weights.", "classes": 10, "top": 3},
    ],
}


def test_right_answers_exit_with_0(tmp_path: Path) -> None:
    picture = tmp_path / "a cat.jpg"
    picture.write_bytes(b"\xff\xd8 not really")
    with stub_server() as server:
        status, figures = run(
            server, tmp_path, str(picture), "--model", "m", "--top", "1", "--concurrency", "3"
        )
    point = figures["points"][0]
    assert (status, point["requests"], point["right"], point["errors"]) == (0, 12, 12, {})
    assert {path for path, _, _ in server.seen} == {"/predict?model=m&top=1"}
    assert all(b'name="image"' in body and picture.read_bytes() in body for _, _, body in server.seen)
    assert (figures["target"], figures["pictures"]) == (server.url, 1)


def test_pictures_are_sent_in_turn(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"picture %d" % number)
    with stub_server() as server:
        run(server, tmp_path, str(tmp_path))
    assert [body.index(b"picture") > 0 and body.split(b"picture ")[1][:1] for _, _, body in server.seen] == [
        b"%d" % (number % 4) for number in range(12)
    ]


def test_each_failure_is_counted_under_its_kind(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,cat\n")
    with stub_server(script_of_failures) as server:
        status, figures = run(
            server, tmp_path, str(tmp_path / "a.jpg"), "--expect", str(tmp_path / "labels.csv")
        )
    point = figures["points"][0]
    kinds = ["http 503 overloaded", "bad answer: not JSON", "connection lost", "wrong label", "duplicate id"]
    assert counts(point) == dict.fromkeys(kinds, 1)
    assert (status, point["requests"], point["right"], point["failed"]) == (1, 12, 7, 5)
    assert point["errors"]["http 503 overloaded"]["example"] == "full"
    assert point["errors"]["wrong label"]["example"] == "a.jpg: dog, not cat"


def test_a_time_out_costs_only_its_own_request(tmp_path: Path) -> None:
    release = threading.Event()

    def script(number: int) -> dict[str, Any]:
        if number == 0:
            release.wait(30)
        return answer(number)

    with stub_server(script) as server:
        try:
            status, figures = run(server, tmp_path, "--timeout", "1")
        finally:
            release.set()
    point = figures["points"][0]
    assert (status, counts(point), point["right"]) == (1, {"timeout": 1}, 11)


def test_open_loop_sends_while_answers_are_outstanding(tmp_path: Path) -> None:
    everyone = threading.Barrier(12, timeout=30)  # nobody is answered before all twelve have been sent

    def script(number: int) -> dict[str, Any]:
        everyone.wait()
        return answer(number)

    with stub_server(script) as server:
        status, figures = run(server, tmp_path, "--rate", "1000", "--processes", "2")
    assert (status, figures["points"][0]["right"]) == (0, 12)


def test_asynchronous_jobs_are_polled_until_they_have_a_result(tmp_path: Path) -> None:
    polls: dict[str, int] = {}

    def polled(path: str) -> dict[str, Any]:
        polls[path] = polls.get(path, 0) + 1
        return answer(int(path.split("-")[1])) if polls[path] > 1 else {"status": 202}

    with stub_server(lambda n: {"status": 202, "location": f"/predictions/id-{n}"}) as server:
        server.polled = polled
        status, figures = run(server, tmp_path, "--async")
    assert (status, figures["points"][0]["right"]) == (0, 12)
    assert set(polls.values()) == {2}
    assert {headers.get("prefer") for _, headers, _ in server.seen} == {"respond-async"}


def test_a_share_of_asynchronous_jobs(tmp_path: Path) -> None:
    with stub_server() as server:
        run(server, tmp_path, "--async", "25%")
    assert sum("prefer" in headers for _, headers, _ in server.seen) == 3


def test_models_are_mixed_in_proportion(tmp_path: Path) -> None:
    with stub_server() as server:
        server.script = lambda number: answer(number, model=server.seen[number][0].split("=")[1])
        status, figures = run(server, tmp_path, "--model", "a=3,b=1", requests=40)
    models = figures["points"][0]["models"]
    assert (status, models["a"]["requests"] + models["b"]["requests"]) == (0, 40)
    assert abs(models["a"]["requests"] - 30) <= 1


def test_another_service_is_tested_by_field_header_and_label(tmp_path: Path) -> None:
    def script(number: int) -> dict[str, Any]:
        return {"outputs": [{"scores": [0.1, 0.8 if number != 5 else 0.0, 0.1]}]}

    with stub_server(script) as server:
        url = f"{server.url}/v1/{{model}}:predict"
        asked = ["--url", url, "--model", "net", "--field", "picture", "--header", "X-Secret: s3cret"]
        asked += ["--label", "outputs[0].scores", "--draw-count", "1"]
        status, figures = run(server, tmp_path, *asked)
    assert {path for path, _, _ in server.seen} == {"/v1/net:predict"}
    assert {headers["x-secret"] for _, headers, _ in server.seen} == {"s3cret"}
    assert all(b'name="picture"' in body for _, _, body in server.seen)
    assert (status, counts(figures["points"][0])) == (1, {"label changed": 1})
    assert "s3cret" not in json.dumps(figures)


def test_the_ledger_adds_up_and_a_forged_one_does_not(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with stub_server(script_of_failures) as server:
        run(server, tmp_path, "--ledger", str(ledger), "--processes", "2", "--concurrency", "2")
    assert main(["--check-ledger", str(ledger)]) == 1  # an answer with another's id
    with stub_server() as server:
        run(server, tmp_path, "--ledger", str(ledger), "--processes", "2", "--concurrency", "2")
    assert main(["--check-ledger", str(ledger)]) == 0
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert main(["--check-ledger", str(ledger)]) == 1


@pytest.mark.parametrize(("model", "reason"), [("broken", "no weights"), ("other", "unknown to the server")])
def test_a_model_that_can_not_answer_is_said_before_anything_is_sent(
    model: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub_server() as server:
        server.models = MODELS
        assert main(["--url", server.url, "--model", model]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert "--model m" in said
    assert server.seen == []


def test_answers_have_as_many_predictions_as_the_model_gives(tmp_path: Path) -> None:
    with stub_server(lambda number: answer(number, predictions=[prediction()] * 2)) as server:
        server.models = MODELS
        status, figures = run(server, tmp_path)
    assert (status, counts(figures["points"][0])) == (1, {"bad answer: wrong number of predictions": 12})


def test_no_server_is_said_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with stub_server() as server:
        pass
    assert main(["--url", server.url]) == 1
    said = capsys.readouterr().err
    assert f"The server at {server.url} can't be reached" in said
    assert "Traceback" not in said


def test_compare_says_what_became_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stub_server() as server:
        run(server, tmp_path)
    before, after = tmp_path / "figures.json", tmp_path / "after.json"
    figures = json.loads(before.read_text())
    assert main(["--compare", str(before), str(before)]) == 0
    figures["points"][0]["latency_ms"]["p99"] *= 2
    after.write_text(json.dumps(figures))
    assert main(["--compare", str(before), str(after)]) == 1
    assert main(["--compare", str(before), str(after), "--tolerance", "100%"]) == 0
    assert main(["--compare", str(before), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "status"), [(answer, 0), (script_of_failures, 1)])
def test_command_line(script: Script, status: int, tmp_path: Path) -> None:
    """From any folder, as a user starts it."""
    with stub_server(script) as server:
        command = [sys.executable, str(SCRIPT), "--url", server.url, "--requests", "12", "--concurrency", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (status, "")
    assert ("http 503 overloaded" in done.stdout) == (status == 1)


def test_a_file_that_can_not_be_written_costs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub_server() as server:
        status, figures = run(server, tmp_path, "--csv", "/dev/full", "--report", str(tmp_path / "o.html"))
    assert status == 1
    assert figures["points"][0]["right"] == 12
    assert "12" in (tmp_path / "o.html").read_text()
    said = capsys.readouterr().out
    assert "/dev/full could not be written" in said
    assert "1 client" in said


def test_a_run_that_measured_nothing_is_no_success(tmp_path: Path) -> None:
    with stub_server() as server:
        status, figures = run(server, tmp_path, "--rate", "100", "--warmup", "5")
    assert (status, figures["points"][0]["requests"]) == (1, 0)
    assert "nothing was measured" in figures["warnings"][0]
