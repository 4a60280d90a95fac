"""The whole command as a process, against a server of the tests' own: what it prints, writes and returns."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.scripted import HttpRequest, Reply, Script, failed, good, listed, scripted
from tests.support import ROOT, program_fork
from tests.support.stack import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # each starts a process or two: half a second

COMMAND = [sys.executable, "-m", "clients"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures and a note; each picture's content is its name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(b"%d.jpg" % number)
    (folder / "notes.txt").touch()
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return program_fork.run(["clients", *map(str, arguments)])


def lines(text: str) -> dict[str, dict[str, object]]:
    """JSON lines by the picture's name; each picture has one."""
    read = [json.loads(line) for line in text.splitlines()]
    assert len({line["file"] for line in read}) == len(read)
    return {Path(line["file"]).name: line for line in read}


def held(release: threading.Event, free: int) -> Script:
    """A script: so many pictures are answered at once, the others once they are released."""

    def script(number: int, _: HttpRequest) -> Reply:
        if number >= free:
            release.wait(60)
        return good(number)

    return script


def test_a_folder_is_answered_in_a_table(photos: Path) -> None:
    with scripted() as server:
        done = command(photos, "--url", server.url, "--model", "m", "--top", "1")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (
        0,
        [f"{photos}/{number}.jpg  cat 0.50" for number in range(5)],
    )
    assert done.stderr.startswith("5 answered, 0 failed, in ")
    assert {request.path for request in server.posts} == {"/predict?model=m&top=1"}


def test_json_lines_are_the_service_s_own_words(photos: Path) -> None:
    with scripted(lambda number, _: good(number, later=[0.1])) as server:
        done = command(photos / "0.jpg", photos / "notes.txt", "--url", server.url, "--jsonl", "-c", 1)
    assert lines(done.stdout) == {
        name: {"file": f"{photos}/{name}", **json.loads(good(number, later=[0.1]).body)}
        for number, name in enumerate(["0.jpg", "notes.txt"])
    }


def test_a_picture_that_fails_is_named_and_stops_no_other(photos: Path) -> None:
    def script(number: int, request: HttpRequest) -> Reply:
        return failed(400, "invalid_image") if request.body == b"2.jpg" else good(number)

    with scripted(script) as server:
        done = command(photos, photos / "missing.jpg", "--url", server.url, "--jsonl")
    answered = lines(done.stdout)
    assert done.returncode == 1
    assert [name for name, line in sorted(answered.items()) if not line["success"]] == [
        "2.jpg",
        "missing.jpg",
    ]
    complaints = set(done.stderr.splitlines()[:-1])
    assert complaints == {
        f"{photos}/2.jpg: invalid_image: Why. (request r)",
        f"{photos}/missing.jpg: No such file or directory",
    }
    assert done.stderr.splitlines()[-1].startswith("4 answered, 2 failed, in ")


def test_what_is_answered_in_the_file_is_not_asked_again(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"

    def script(number: int, _: HttpRequest) -> Reply:
        return failed(400, "invalid_image") if number == 0 else good(number)

    arguments = (photos, "--output", output, "-c", 1)
    with scripted(script) as server:
        first = command(*arguments, "--url", server.url)
        assert (first.returncode, first.stdout, len(server.posts)) == (1, "", 5)
        assert "The same command asks again" in first.stderr
        second = command(*arguments, "--url", server.url)
        assert (second.returncode, len(server.posts), server.posts[-1].body) == (0, 6, b"0.jpg")
        assert "1 answered, 0 failed, 4 already there" in second.stderr
        requests = len(server.requests)
        third = command(*arguments, "--url", server.url)
        assert (third.returncode, len(server.requests)) == (0, requests)
    assert [line["success"] for line in lines(output.read_text()).values()] == [True] * 5


@pytest.fixture
def _can_be_interrupted() -> Iterator[None]:
    """A shell has what it starts in the background ignore SIGINT, and so would the command."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_can_be_interrupted")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_was_ended_goes_on_where_it_was(photos: Path, tmp_path: Path, signum: int) -> None:
    output, release = tmp_path / "answers.jsonl", threading.Event()
    with scripted(held(release, free=2)) as server:
        words = [*COMMAND, str(photos), "-o", str(output), "-c", "3", "--url", server.url]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        eventually(lambda: len(server.posts) == 5 and output.read_bytes().count(b"\n") == 2)
        process.send_signal(signum)
        _, complaints = process.communicate(timeout=30)
        assert output.read_bytes().count(b"\n") == 2
        if signum != signal.SIGKILL:
            assert (process.returncode, "Traceback" in complaints) == (130, False)
            assert complaints.startswith("2 answered, 0 failed, in ")
        with output.open("ab") as file:
            file.write(b'{"file":"cut in mid-li')
        release.set()
        sent = len(server.posts)
        again = command(*words[3:])
        assert (again.returncode, len(server.posts) - sent) == (0, 3), again.stderr
    assert sorted(lines(output.read_text())) == [f"{number}.jpg" for number in range(5)]


def test_a_pipe_that_nobody_reads_ends_it_quietly(photos: Path) -> None:
    with scripted() as server:
        read, write = os.pipe()
        words = [*COMMAND, str(photos), "--url", server.url]
        # With a buffer, as everywhere: at its end Python flushes that once more.
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = subprocess.Popen(
            words, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True
        )
        os.close(write)
        os.close(read)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (141, "")


def test_a_full_disk_is_named(photos: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("NOT RUN: there is no /dev/full")
    with scripted() as server:
        done = command(photos, "-c", 1, "--url", server.url, "-o", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("/dev/full can't be written: No space left on device\n0 answered")


def test_a_service_that_comes_back_is_waited_for(photos: Path) -> None:
    def script(number: int, _: HttpRequest) -> Reply:
        return failed(503, "no_worker", "1") if number < 5 else good(number)

    with scripted(script) as server:
        done = command(photos, "--url", server.url)
    assert (done.returncode, len(server.posts)) == (0, 10)


def test_a_service_that_does_not_is_left_after_a_while(photos: Path) -> None:
    with scripted(lambda *_: failed(503, "no_worker", "1")) as server:
        done = command(photos, "--url", server.url, "-c", 2, "--retry", 0)
    assert done.returncode == 1
    assert len(server.posts) <= 4
    assert "Stopped: the service took none of the last 3 pictures." in done.stderr
    assert "0 answered, 3 failed" in done.stderr


def free_url() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (lambda photos: [photos, "--url", free_url()], "Is the service running? --url names another."),
        (lambda photos: [photos, "--url", "localhost:5000"], "is not an address like http://localhost:5000"),
        (lambda photos: [photos / "notes.txt", "-o", photos], "Is a directory"),
        (lambda photos: [photos.parent], "there is no picture here"),
        (lambda photos: [photos, "-c", "0"], "'0' is not a whole number from 1 on"),
        (lambda photos: [photos, "--retry", "nan"], "'nan' is not a number of seconds from 0 to 86400"),
        (lambda _: [], "PICTURE_OR_FOLDER"),
    ],
)
def test_what_can_not_be_tried_is_2(
    photos: Path, arguments: Callable[[Path], list[object]], reason: str
) -> None:
    with scripted() as server:
        done = command("--url", server.url, *arguments(photos))
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    assert reason in done.stderr
    assert server.posts == []


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        (listed("digits", "photos10"), "Unknown model 'm'. Available: digits, photos10"),
        (listed("m", state="failed"), "m failed to load: no weights."),
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), "gives no answer of this service"),
        (Reply(b"<html>", 404), "Is the service running?"),
        (failed(401, "unauthorized"), "The command takes the key from BATCHWIRE_API_KEY."),
    ],
)
def test_a_service_that_can_not_answer_is_asked_nothing(photos: Path, models: Reply, reason: str) -> None:
    with scripted(get=lambda *_: models) as server:
        done = command(photos, "--url", server.url, "--model", "m")
    assert (done.returncode, server.posts) == (2, [])
    assert reason in done.stderr


def test_files_that_are_all_missing_are_nothing_that_was_tried(photos: Path) -> None:
    with scripted() as server:
        done = command(photos / "a.jpg", photos / "b.jpg", "--url", server.url)
    assert done.returncode == 2
    assert done.stderr.count("No such file or directory") == 2


@pytest.mark.parametrize("is_piped", [False, True])
def test_on_a_terminal_there_is_a_bar_and_no_line_is_lost(
    photos: Path, tmp_path: Path, *, is_piped: bool
) -> None:
    release = threading.Event()
    leader, terminal = pty.openpty()
    with scripted(held(release, free=2)) as server, (tmp_path / "out").open("wb") as file:
        words = [*COMMAND, str(photos), "-c", "3", "--url", server.url]
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
            stdout=file if is_piped else terminal,
            stderr=terminal,
        )
        os.close(terminal)
        screen = b""
        with contextlib.suppress(OSError):  # the other side has closed
            while part := os.read(leader, 65536):
                screen += part
                if b"2/5" in screen:
                    release.set()
        os.close(leader)
    assert process.wait(30) == 0
    assert b"2/5" in screen
    table = (tmp_path / "out").read_bytes()
    assert table.count(b"\n") == (5 if is_piped else 0)
    for number in range(5):
        row = b"%d.jpg  cat 0.50" % number
        assert (row in table, row in screen) == (is_piped, not is_piped)
    assert b"5 answered, 0 failed" in screen
    assert screen.rindex(b"\x1b[?25h") > screen.rindex(b"\x1b[?25l")  # the cursor is back


def test_help_helps() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "resumable" in done.stdout
    assert "exit status: 0 all pictures are answered" in done.stdout
