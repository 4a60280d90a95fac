"""`make serve` as a user has it, in a copy of the project: ready line, answers, restarts, and a clean end."""

import codecs
import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.serve.programs import redis_command
from tests.model_server.engines.openvino import test_importing
from tests.support import ROOT, http, leftovers
from tests.support.pictures import drawn_digit
from tests.support.private_files import modes
from tests.support.redis_server import RedisServer
from tests.support.stack import free_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PARTS = ("settings.py", "telemetry", "broker", "pictures", "web", "model_server", "models", "deploy")

SMALL = {"MODELS": "digits", "FALLBACK_MODEL": "none", "WEB_WORKERS": "1", "GRPC_PORT": "0"}
"""One model, one web process and no gRPC: a start takes 3 s of a core, where all that is usual takes 5 s."""


class Serving:
    """One `python -m deploy.serve` and what it says, through a pipe."""

    prefix: tuple[str, ...] = ()
    """What starts it; it must become it, for the process is signalled."""
    has_terminal = False
    """Whether it is the first process on a terminal of its own instead."""

    def __init__(self, project: Path, **environment: str) -> None:
        self.port = free_port()
        self.grpc_port = free_port()
        self.url = f"http://localhost:{self.port}"
        home = project / "home"
        home.mkdir(exist_ok=True)
        # Nobody listens at the proxy: no download succeeds, on a machine with a network too.
        proxy = "http://127.0.0.1:9"
        self._output, its = os.openpty() if self.has_terminal else os.pipe()
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "deploy.serve"],
            cwd=project,
            env={
                **os.environ,
                "PORT": str(self.port),
                "GRPC_PORT": str(self.grpc_port),
                "HEALTH_DIR": str(project / "var" / "health"),
                "HOME": str(home),
                "HTTPS_PROXY": proxy,
                "https_proxy": proxy,
                "PYTHONDONTWRITEBYTECODE": "1",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            start_new_session=self.has_terminal,
            preexec_fn=_take_terminal if self.has_terminal else None,  # noqa: PLW1509 - it makes one call of the kernel
        )
        os.close(its)
        self.said = ""
        self._hung_up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with contextlib.suppress(OSError):  # of a terminal on which no process is left
            while not self._hung_up.is_set():
                if select.select([self._output], [], [], 0.05)[0]:
                    content = os.read(self._output, 65536)
                    if not content:
                        break
                    self.said += decoder.decode(content)
        os.close(self._output)

    def hang_up(self) -> None:
        """Close the terminal, or the reading end of the pipe."""
        self._hung_up.set()
        self._reader.join()

    def wait_ready(self) -> None:
        """Until the ready line with all that belongs to it."""
        eventually(lambda: "Ctrl-C stops everything" in self.said, within_s=90)

    def children(self) -> dict[int, str]:
        """Every process below this one: pid -> command line."""
        found: dict[int, str] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = " ".join(process.cmdline())
        return found

    def pid(self, words: str) -> int:
        """The first process whose command line has these words."""
        return min(pid for pid, args in self.children().items() if words in args)

    def digit(self, value: int) -> str:
        """The label that the service gives a drawn digit."""
        response = http.post(
            f"{self.url}/predict?model=digits",
            files={"image": ("x.png", drawn_digit(value))},
            timeout=20,
        )
        assert response.status_code == 200, response.text
        return str(response.json()["predictions"][0]["label"])

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Stop it and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        status = self.process.wait(timeout=60)
        self._reader.join()
        return status


class ServingOnTerminal(Serving):
    """The same with a terminal."""

    has_terminal = True


class ServingUnderNohup(Serving):
    """The same, deaf to the end of the terminal."""

    prefix = ("nohup",)


def _take_terminal() -> None:
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def copied_project() -> Iterator[Path]:
    """A copy of the project with its own var/; networks that another test converted are there already."""
    folder = leftovers.folder()
    _copy(folder)
    engines = ROOT / "var" / "engines"
    engines.mkdir(parents=True, exist_ok=True)
    (folder / "var").mkdir()
    (folder / "var" / "engines").symlink_to(engines)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def project() -> Iterator[Path]:
    """A copy of the project for this test alone."""
    with copied_project() as folder:
        yield folder


UNFINISHED = shutil.ignore_patterns("*.pyc.*")
"""Byte code that another process writes just now. What is finished is copied and fits: without it each
process of the copy would compile all that it imports."""


def _copy(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=UNFINISHED)
        else:
            shutil.copy2(source, folder)


def test_from_nothing_to_answers_and_a_clean_end(project: Path) -> None:
    engines = project / "var" / "engines"
    engines.unlink()
    engines.mkdir()
    # Only the usual fallback's may be there already: the digits are converted here.
    for network in (ROOT / "var" / "engines").glob("photos10*"):
        (engines / network.name).symlink_to(network)
    serving = Serving(project)
    try:
        serving.wait_ready()
        assert f"Batchwire is ready on {serving.url}" in serving.said
        assert re.search(r"resnet50 +FAILED .*could not be downloaded.*RESNET50_WEIGHTS=random", serving.said)
        assert re.search(r"digits +ready", serving.said)
        # The model that failed says the same words to its clients, and keeps no other from serving.
        refused = http.post(
            f"{serving.url}/predict?model=resnet50",
            files={"image": ("x.png", drawn_digit(1))},
            timeout=20,
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        reason, _ = refused.json()["error"]["message"].split(" Retrying ")
        assert reason.removeprefix("resnet50: ") in serving.said
        assert [serving.digit(value) for value in range(10)] == list("0123456789")
        children = serving.children()
        pictures = _pictures_in(project / "var" / "redis")
        assert pictures
        for pid in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert modes(project / "var" / "redis") == {"d700", "600"}
    finally:
        status = serving.end()
    assert status == 0
    # All were answered: nothing that is left has part of one. Redis' files are compressed: hence a part.
    left = b"".join(path.read_bytes() for path in (project / "var").rglob("*") if path.is_file())
    assert not [picture for picture in pictures if picture in left]
    assert modes(project / "var" / "redis") == {"d700", "600"}
    assert serving.said.rstrip().endswith("Batchwire has stopped.")
    # A conversion that began before the end may last for a moment longer.
    eventually(lambda: not any(_alive(pid) for pid in children), within_s=60)
    assert not (project / "var" / "redis" / "redis.sock").exists()


def _pictures_in(folder: Path) -> set[bytes]:
    """Of each prepared picture in Redis' files 16 letters of its base64, as different ones as it has."""
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    pictures = re.findall(rb'"image":"([A-Za-z0-9+/=]+)"', content)
    parts = (
        max((text[at : at + 16] for at in range(len(text) - 16)), key=lambda part: len(set(part)))
        for text in pictures
    )
    return {part for part in parts if len(set(part)) > 8}


def serving_digits(serving: Serving) -> bool:
    """Whether a digit is answered, by whatever process there is at the moment."""
    try:
        return serving.digit(7) == "7"
    except (httpx.HTTPError, AssertionError):
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_its_model_servers_are_well_until_they_end_whatever_an_earlier_run_left(project: Path) -> None:
    health = project / "var" / "health"
    health.mkdir()
    (health / "mine").touch()
    os.utime(health / "mine", (0, 0))
    serving = Serving(project, **SMALL | {"MODEL_SERVERS": "2", "LEASE_S": "1"})
    try:
        serving.wait_ready()
        asked = [sys.executable, "-m", "model_server", "health"]
        eventually(lambda: subprocess.run(asked, check=False, cwd=project).returncode == 0)
        eventually(lambda: [path.name.partition(".")[0] for path in health.iterdir()] == ["digits"] * 2)
    finally:
        assert serving.end() == 0
    assert list(health.iterdir()) == []


def test_ctrl_c_ends_it_before_it_is_ready_too(project: Path) -> None:
    serving = Serving(project, **SMALL)
    eventually(lambda: len(serving.children()) >= 3)
    children = serving.children()
    assert serving.end(signal.SIGINT) == 0
    assert not any(_alive(pid) for pid in children)


def test_ctrl_c_right_after_the_start_is_lost_on_no_program(project: Path) -> None:
    for _ in range(2):
        serving = Serving(project, **SMALL)
        eventually(lambda: "Starting Batchwire" in serving.said, within_s=60)  # noqa: B023 - it is called at once
        assert serving.end(signal.SIGINT) == 0
    assert "SIGKILL" not in (project / "var" / "log" / "supervisord.log").read_text()


def test_even_a_killed_parent_leaves_no_process_behind_nor_do_many_signals_at_once(project: Path) -> None:
    for whom in ("launcher", "supervisor"):
        serving = Serving(project, **SMALL)
        serving.wait_ready()
        children = serving.children()
        eventually(lambda: len(serving.children()) >= 6)  # noqa: B023 - it is called at once
        os.kill(serving.process.pid if whom == "launcher" else serving.pid("supervisord"), signal.SIGKILL)
        eventually(lambda: not any(_alive(pid) for pid in children), within_s=60)  # noqa: B023
        assert serving.end() != 0
    again = Serving(project, **SMALL)
    again.wait_ready()
    for _ in range(50):
        again.process.send_signal(signal.SIGINT)
        again.process.send_signal(signal.SIGTERM)
    for pid in (again.pid("model_server"), again.pid("gunicorn")):
        for _ in range(20):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    assert again.end() == 0


@pytest.mark.parametrize("kind", [ServingOnTerminal, Serving])
def test_whoever_reads_its_output_may_go_and_it_still_ends_in_order(
    project: Path, kind: type[Serving]
) -> None:
    serving = kind(project, **SMALL)
    serving.wait_ready()
    eventually(lambda: len(serving.children()) >= 6)
    children = serving.children()
    try:
        serving.hang_up()  # a terminal that is closed sends SIGHUP by itself
        if not kind.has_terminal:  # `make serve | tee log`, which Ctrl-C ends as well
            serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(timeout=60) == 0
        eventually(lambda: not any(_alive(pid) for pid in children), within_s=60)
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert "received SIGTERM" in (project / "var" / "log" / "supervisord.log").read_text()


def test_under_nohup_it_outlives_its_terminal(project: Path) -> None:
    serving = ServingUnderNohup(project, **SMALL)
    eventually(lambda: "Starting Batchwire" in serving.said, within_s=60)
    eventually(lambda: len(serving.children()) >= 3)
    serving.process.send_signal(signal.SIGHUP)
    serving.wait_ready()
    assert serving.end() == 0


def test_a_model_that_can_not_be_run_keeps_no_other_from_serving(project: Path) -> None:
    odd, few = project / "models" / "odd", project / "models" / "few"
    shutil.copytree(project / "models" / "digits", odd)
    toml = (odd / "model.toml").read_text().replace('fit = "ink"', 'fit = "pad"')
    (odd / "model.toml").write_text(toml.replace("channels = 1", "channels = 3"))
    few.mkdir()
    (few / "model.toml").write_text(test_importing.TOML)
    (few / "net.onnx").write_bytes(test_importing.content())
    (few / "labels.txt").write_text("one\ntwo\n")
    serving = Serving(project, **SMALL | {"MODELS": "odd,few,digits"})
    try:
        serving.wait_ready()
        assert re.search(r"odd +FAILED .*takes pictures of .*\(28, 28, 1\).*\(28, 28, 3\)", serving.said)
        assert re.search(r"few +FAILED .*\(3,\), but there are 2 labels", serving.said)
        assert serving.digit(4) == "4"
    finally:
        serving.end()


def test_another_answers_for_a_default_that_failed(project: Path) -> None:
    """The fallback is in no MODELS: `make serve` has it served all the same."""
    broken = project / "models" / "broken"
    broken.mkdir()
    (broken / "model.toml").write_text(test_importing.TOML)
    (broken / "net.onnx").write_bytes(b"no network")
    (broken / "labels.txt").write_text("one\ntwo\nthree\n")
    serving = Serving(project, **SMALL | {"MODELS": "broken", "FALLBACK_MODEL": "digits"})
    try:
        serving.wait_ready()
        assert re.search(r"digits +ready", serving.said)
        assert "broken failed to load, so digits answers requests that name no model." in serving.said
        answer = http.post(
            f"{serving.url}/predict", files={"image": ("x.png", drawn_digit(3))}, timeout=20
        ).json()
        assert (answer["model"], answer["predictions"][0]["label"]) == ("digits", "3")
        assert "OpenVINO can't read net.onnx" in answer["notice"]
        ready = http.get(f"{serving.url}/readyz")
        assert (ready.status_code, ready.json()["models"]) == (200, {"digits": "ready", "broken": "failed"})
        assert http.get(f"{serving.url}/readyz?model=broken").status_code == 503
    finally:
        serving.end()


def test_a_catalogue_without_the_usual_fallback_is_served_without(project: Path) -> None:
    shutil.rmtree(project / "models" / "photos10", ignore_errors=True)
    usual = {name: value for name, value in SMALL.items() if name != "FALLBACK_MODEL"}
    serving = Serving(project, **usual, API_KEY="required")
    try:
        serving.wait_ready()
        assert "has no photos10" in serving.said
        assert "API_KEY is not a setting, and has no effect. Did you mean API_KEYS?" in serving.said
        assert serving.digit(7) == "7"
    finally:
        serving.end()


@pytest.mark.parametrize("fallback", ["", "none"])
def test_who_wants_no_fallback_is_not_told_of_it(project: Path, fallback: str) -> None:
    shutil.rmtree(project / "models" / "photos10", ignore_errors=True)
    serving = Serving(project, **SMALL | {"FALLBACK_MODEL": fallback})
    eventually(lambda: "Starting Batchwire with the models digits ..." in serving.said, within_s=60)
    assert serving.end() == 0
    assert "photos10" not in serving.said


def test_what_an_earlier_run_left_behind_is_said_so(project: Path) -> None:
    (project / "var" / "redis").mkdir(parents=True)
    environment = os.environ | {"REDIS_URL": f"unix://{project}/var/redis/redis.sock"}
    left = [subprocess.Popen(redis_command(project / "var"), stdout=subprocess.DEVNULL, env=environment)]
    try:
        eventually((project / "var" / "redis" / "redis.sock").exists)
        alone = Serving(project, **SMALL)
        assert alone.process.wait(timeout=60) == 1
        alone.end()
        assert f"still running (process {left[0].pid}). Stop it" in alone.said
        rewriting = [sys.executable, "-m", "deploy.serve.rewriting"]
        left.append(subprocess.Popen(rewriting, cwd=project, env=environment))
        eventually(lambda: psutil.Process(left[1].pid).environ().get("REDIS_URL"))
        # A port that it has is no other reason: what has it must be stopped.
        with socket.create_server(("127.0.0.1", free_port())) as other:
            both = Serving(project, **SMALL | {"PORT": str(other.getsockname()[1])})
            assert both.process.wait(timeout=60) == 1
        both.end()
        assert f"kill {left[1].pid} {left[0].pid}" in both.said
    finally:
        for process in reversed(left):
            process.terminate()
            process.wait(timeout=20)


def test_what_dies_is_started_again_and_a_queued_job_outlives_a_restart_of_everything(project: Path) -> None:
    serving = Serving(project, **SMALL)
    try:
        serving.wait_ready()
        # A request waits for what died.
        for words in ("model_server", "gunicorn", "valkey-server"):
            victim = serving.pid(words)
            os.kill(victim, signal.SIGKILL)
            eventually(lambda gone=victim: gone not in serving.children())  # type: ignore[misc]
            eventually(lambda: serving_digits(serving), within_s=60)
        eventually(lambda: len(serving.children()) >= 6, within_s=60)
        eventually(lambda: serving_digits(serving), within_s=60)
        os.kill(serving.pid("model_server"), signal.SIGSTOP)
        accepted = http.post(
            f"{serving.url}/predict?model=digits",
            files={"image": ("x.png", drawn_digit(5))},
            headers={"Prefer": "respond-async"},
            timeout=20,
        )
        assert accepted.status_code == 202
    finally:
        with contextlib.suppress(ValueError):  # it was not started again
            os.kill(serving.pid("model_server"), signal.SIGCONT)
        serving.end()
    again = Serving(project, **SMALL)
    try:
        again.wait_ready()
        address = f"{again.url}{accepted.headers['Location']}"
        eventually(lambda: http.get(address, timeout=20).status_code == 200)
        assert http.get(address, timeout=20).json()["predictions"][0]["label"] == "5"
    finally:
        again.end()


def test_the_same_over_a_redis_of_the_user_s_and_without_grpc(project: Path, own_redis: RedisServer) -> None:
    assert SMALL["GRPC_PORT"] == "0"
    serving = Serving(project, **SMALL, REDIS_URL=own_redis.url)
    try:
        serving.wait_ready()
        assert not any("valkey-server" in args for args in serving.children().values())
        assert not any("web.rpc" in args for args in serving.children().values())
        assert serving.digit(3) == "3"
    finally:
        assert serving.end() == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MODELS": "digits,none"}, "Unknown model 'none' in MODELS"),
        ({"MODELS": "digits", "FALLBACK_MODEL": "nowhere"}, "Unknown model 'nowhere' in FALLBACK_MODEL"),
        (
            {"MODELS": "digits", "DEFAULT_MODEL": "cat"},
            "DEFAULT_MODEL='cat' is not one of MODELS: digits (photos10 is added to them, as the fallback).",
        ),
        ({"LEASE_S": "0"}, "LEASE_S='0' is not a number from 0.5 to 60"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1:9/0"}, "no connection"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL="),
    ],
)
def test_what_is_in_the_way_is_one_clear_sentence(
    project: Path, environment: dict[str, str], words: str
) -> None:
    serving = Serving(project, **environment)
    assert serving.process.wait(timeout=60) == 1
    serving.end()
    assert serving.said.startswith("Batchwire can't start: ")
    assert words in serving.said
    assert "secret" not in serving.said
    assert "Traceback" not in serving.said


def test_a_second_start_is_said_so(project: Path) -> None:
    first = Serving(project, **SMALL)
    try:
        eventually(lambda: "Starting Batchwire" in first.said, within_s=60)
        second = Serving(project, **SMALL)
        assert second.process.wait(timeout=60) == 1
        second.end()
        assert f"already running from this folder (process {first.process.pid})" in second.said
    finally:
        first.end()


def test_a_port_in_use_is_said_so(project: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        first = Serving(project, **SMALL | {"PORT": str(port)})
        assert first.process.wait(timeout=60) == 1
        first.end()
        assert f"port {port} on 127.0.0.1 is in use" in first.said
        second = Serving(project, **SMALL | {"GRPC_PORT": str(port)})
        assert second.process.wait(timeout=60) == 1
        second.end()
        assert f"port {port} on 127.0.0.1 is in use" in second.said
        assert f"GRPC_PORT={port + 1} make serve, or serve without" in second.said
        assert "GRPC_PORT=0 make serve" in second.said


@pytest.mark.parametrize("bind", ["192.0.2.1", "2001:db8::1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_said_so(project: Path, bind: str) -> None:
    serving = Serving(project, **SMALL | {"BIND": bind})
    assert serving.process.wait(timeout=60) == 1
    serving.end()
    assert f"BIND={bind} is not an address of this machine." in serving.said
    assert "another port" not in serving.said


@pytest.mark.parametrize("variable", ["PORT", "GRPC_PORT"])
def test_metrics_on_the_port_of_another_are_refused(project: Path, variable: str) -> None:
    first = free_port()
    ports = {"PORT": first + 100, "GRPC_PORT": first + 101, "METRICS_PORT": first} | {variable: first + 1}
    serving = Serving(
        project, MODELS="digits", MODEL_SERVERS="2", **{name: str(port) for name, port in ports.items()}
    )
    assert serving.process.wait(timeout=60) == 1
    serving.end()
    assert f"{variable}={first + 1} is one of the ports from {first} to" in serving.said


def test_one_port_for_both_is_refused(project: Path) -> None:
    port = str(free_port())
    serving = Serving(project, MODELS="digits", PORT=port, GRPC_PORT=port)
    assert serving.process.wait(timeout=60) == 1
    serving.end()
    assert f"PORT and GRPC_PORT are both {port}. Choose another" in serving.said
