"""Code of one's own in its real process: whatever it does costs its own picture, and is restarted."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from broker.errors import ModelUnavailable, ServiceError
from model_server.engines.hooked import HookedEngine
from model_server.hooks.own_code import FAILED, HookFailed, HookLost, HookRestarting
from model_server.serving import batching
from model_server.serving.batching import BatchEntry
from model_server.tasks.task import ReadOptions
from pictures import fixed_point
from tests.model_server.hooks import own_models
from tests.support import ROOT, fakes
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # together they wait for seconds

LIMITS = "timeout_s = 0.8\nmemory_mb = 400\n"


@pytest.fixture
def engine_of(tmp_path: Path) -> Iterator[Callable[..., HookedEngine]]:
    """Makes an engine from the text of a hooks.py; ends its process at last."""
    engines: list[HookedEngine] = []

    def make(code: str, limits: str = LIMITS, task: str = "classification") -> HookedEngine:
        folder = own_models.write(tmp_path / f"own{len(engines)}", code, task=task, limits=limits)
        engines.append(own_models.load(folder)[1])
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def _entries(*values: int) -> list[BatchEntry]:
    return [
        BatchEntry(str(number), 0, fakes.job(value=value, shape=(8, 8, 3)))
        for number, value in enumerate(values)
    ]


def _children() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if "model_server.hooks.process" in " ".join(child.cmdline())
    }


RAISES = {
    13: ("raise ValueError('secret /etc/of/mine')", "ValueError: secret /etc/of/mine"),
    14: ("raise SystemExit(3)", "SystemExit: 3"),
    15: ("np.ones(10**9)", "MemoryError"),
    16: ("means = means[1:]", "for 1 pictures"),
    17: ("return np.array([object()])", "predict must return arrays, not ndarray of object"),
    18: ("return {}", "predict returned no output"),
    19: ("return 'text'", "predict must return arrays, not str"),
}
"""What predict does on a picture of that shade, and what the log says."""

DIES = {
    20: ("time.sleep(60)", "it took over 0.8 s; its process was killed"),
    21: ("ctypes.string_at(0)", "its process died (signal SIGSEGV)"),
    22: ("os.closerange(3, 64)", "its process died (exit status 1)"),
}


@pytest.mark.parametrize(
    "cases", [RAISES, pytest.param(DIES, marks=pytest.mark.slow)], ids=["raises", "dies"]
)
def test_a_bad_picture_costs_itself_alone(
    engine_of: Callable[..., HookedEngine],
    caplog: pytest.LogCaptureFixture,
    cases: dict[int, tuple[str, str]],
) -> None:
    engine = engine_of(own_models.bad_on({shade: does for shade, (does, _) in cases.items()}))
    for shade, (_, words) in cases.items():
        caplog.clear()
        entries = _entries(0, 100, shade, 200, 255)
        assert batching.run(entries, engine.predict) == 5
        bad = entries.pop(2)
        assert bad.error is not None
        assert (bad.error.message, bad.error.code, bad.is_poison) == (FAILED, "inference_failed", True)
        assert [entry.error for entry in entries] == [None] * 4
        brightness = [entry.outputs[0][1] * 255 for entry in entries]
        np.testing.assert_allclose(brightness, [0, 100, 200, 255], atol=0.1)
        assert words in caplog.text
        assert all("own0" in record.getMessage() for record in caplog.records if "hooks" in record.name)


@pytest.mark.slow
def test_each_hanging_picture_costs_one_limit_and_at_most_one_more(
    engine_of: Callable[..., HookedEngine],
) -> None:
    engine = engine_of(own_models.bad_on({13: "time.sleep(60)"}))
    calls: list[int] = []

    def predict(batch: Any) -> Any:  # noqa: ANN401
        calls.append(len(batch))
        return engine.predict(batch)

    entries = _entries(13, *range(100, 115))
    batching.run(entries, predict)
    # Halves would have been 16, 8, 4, 2, 1: five limits.
    assert calls == [16] + [1] * 16
    assert [entry.error is None for entry in entries] == [False] + [True] * 15


def test_one_that_died_between_two_calls_is_restarted_for_the_next(
    engine_of: Callable[..., HookedEngine], caplog: pytest.LogCaptureFixture
) -> None:
    before = _children()
    engine = engine_of(own_models.BRIGHTNESS)
    (pid,) = _children() - before
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine._code._child is not None and not engine._code._child.is_silent)
    np.testing.assert_allclose(engine.predict(own_models.pictures(255)), [[[0, 1]]])
    assert "died between calls (signal SIGKILL)" in caplog.text


def test_one_that_does_not_come_up_again_fails_calls_at_once_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import os\nif os.path.exists('../broken'): raise OSError('no weights')\n"
    folder = own_models.write(tmp_path / "own", code + own_models.bad_on({13: "os._exit(1)"}))
    _, engine = own_models.load(folder)
    (tmp_path / "broken").touch()
    entries = _entries(13, 50, 60, 70)
    batching.run(entries, engine.predict)
    assert {type(entry.error) for entry in entries} == {HookRestarting}
    assert not any(entry.is_poison for entry in entries)  # no picture's own fault
    assert "no weights" in caplog.text
    began = time.monotonic()
    with pytest.raises(ModelUnavailable, match="is being restarted"):
        engine.predict(own_models.pictures(1))
    assert time.monotonic() - began < 0.5
    (tmp_path / "broken").unlink()
    engine._code._may_start_at = 0.0  # as if the pause were over
    assert engine.predict(own_models.pictures(255))[0][0, 1] == 1
    engine.close()


def _dies(engine: HookedEngine) -> None:
    """Kill the process between two calls, and wait until it is dead."""
    child = engine._code._child
    assert child is not None
    os.kill(child._process.pid, signal.SIGKILL)
    eventually(lambda: not child.is_silent)


def test_a_restarted_process_runs_the_code_that_was_loaded(tmp_path: Path) -> None:
    """Of hooks.py, its neighbours, a package and a folder that it puts on its path."""
    code = (
        "import sys; sys.path.insert(0, 'lib')\nfrom neighbour import one\nfrom package.inner import two\n"
        "import three\nimport numpy as np\n\ndef load():\n    share = (one + two + three.THREE) / 10\n"
        "    return lambda batch: np.tile([1 - share, share], (len(batch), 1))\n"
    )
    folder = own_models.write(tmp_path / "own", code)
    files = {
        "neighbour.py": "one = 1",
        "package/__init__.py": "",
        "package/inner.py": "two = 2",
        "lib/three.py": "THREE = 3",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    _, engine = own_models.load(folder)
    for name in files:
        (folder / name).write_text("raise OSError('another version')")
    (folder / "hooks.py").write_text("import nothing_of_this_name")
    (folder / "three.py").write_text("THREE = 4")  # would be found first
    (folder / "model.toml").write_text("nonsense")
    (folder / "neighbour.py").unlink()
    _dies(engine)
    np.testing.assert_allclose(engine.predict(own_models.pictures(1))[0], [[0.4, 0.6]])
    engine.close()


def test_a_traceback_of_a_restarted_process_shows_the_code_that_ran(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own_models.write(tmp_path / "own", own_models.bad_on({13: "raise ValueError('of old')"}))
    _, engine = own_models.load(folder)
    (folder / "hooks.py").write_text("another = 1\n" * 20)
    _dies(engine)
    with pytest.raises(HookFailed):
        engine.predict(own_models.pictures(13))
    assert "if 13 in means: raise ValueError('of old')" in caplog.text
    engine.close()


def test_no_process_starts_with_another_version_s_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "note = open('note.txt').read()\n" + own_models.BRIGHTNESS
    folder = own_models.write(tmp_path / "own", code)
    (folder / "note.txt").write_text("here")
    _, engine = own_models.load(folder)
    os.utime(folder / "note.txt", (1, 1))  # touched, and no other version
    (folder / "hooks.py").write_text("import nothing_of_this_name")  # that is kept
    _dies(engine)
    engine.predict(own_models.pictures(1))
    (folder / "note.txt").write_text("another")
    _dies(engine)
    for _ in range(2):
        with pytest.raises(
            HookRestarting, match=r"can't be restarted: 'note\.txt' in its folder has changed"
        ):
            engine.predict(own_models.pictures(1))
    assert "'note.txt' in its folder has changed" in caplog.text
    (folder / "note.txt").write_text("here")
    engine._code._may_start_at = 0.0  # as if the pause were over
    assert engine.predict(own_models.pictures(255))[0][0, 1] == 1
    engine.close()


def test_what_plain_python_imports_is_imported(tmp_path: Path) -> None:
    """What a package has, by pkgutil; a module whose name is no identifier; a link out of the folder."""
    code = (
        "import importlib, pkgutil, package\nfrom shared.two import two\n"
        "names = [each.name for each in pkgutil.iter_modules(package.__path__)]\n"
        "assert names == ['below', 'inner'], names\nassert importlib.import_module('my-net').one == 1\n"
        + own_models.BRIGHTNESS
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "two.py").write_text("two = 2")
    folder = own_models.write(tmp_path / "own", code)
    (folder / "my-net.py").write_text("one = 1")
    (folder / "package" / "below").mkdir(parents=True)
    for name in ("__init__.py", "inner.py", "below/__init__.py", "below/deeper.py"):
        (folder / "package" / name).write_text("")
    (folder / "shared").symlink_to(tmp_path / "elsewhere")
    _, engine = own_models.load(folder)
    assert engine.predict(own_models.pictures(255))[0][0, 1] == 1
    engine.close()


def test_a_pipe_in_the_folder_stops_nothing(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "own", own_models.BRIGHTNESS)
    os.mkfifo(folder / "pipe.py")
    _, engine = own_models.load(folder)
    engine.close()


@pytest.mark.parametrize("ends", ["dead", "alive"])
def test_its_group_is_killed_before_its_id_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """A dead process that is not reaped keeps its id; a child of its own, which it left behind, dies too."""
    starts = "import subprocess; subprocess.Popen(['sleep', '600']); time.sleep(0.1)"
    folder = own_models.write(tmp_path / "own", own_models.bad_on({13: starts}))
    _, engine = own_models.load(folder, environment={"PATH": "/usr/bin:/bin"})
    engine.predict(own_models.pictures(13))
    child = engine._code._child
    assert child is not None
    process = psutil.Process(child._process.pid)
    (left,) = process.children()
    if ends == "dead":
        process.kill()
        eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)
    states: list[bool] = []
    kill = os.killpg

    def killpg(group: int, signal_: int) -> None:
        states.append(group == process.pid and psutil.pid_exists(group))
        kill(group, signal_)

    monkeypatch.setattr(os, "killpg", killpg)
    engine._code._lose(is_dying=ends == "dead")
    assert states == [True]
    assert not psutil.pid_exists(process.pid)
    eventually(lambda: not _runs(left))


@pytest.mark.slow
def test_deaths_in_a_row_are_restarted_the_later_the_more(engine_of: Callable[..., HookedEngine]) -> None:
    engine = engine_of(own_models.bad_on({13: "os._exit(1)"}))
    pauses = []
    for _ in range(4):
        with pytest.raises(HookLost):
            engine.predict(own_models.pictures(13))
        pauses.append(max(0.0, engine._code._may_start_at - time.monotonic()))
    assert pauses[:2] == [0, 0]
    assert 0 < pauses[2] <= 0.1 < pauses[3] <= 0.2
    engine.predict(own_models.pictures(1))
    with pytest.raises(HookLost):
        engine.predict(own_models.pictures(13))
    assert engine._code._may_start_at < time.monotonic()


def test_what_it_prints_is_logged_with_the_model_s_name_and_is_no_reply(
    engine_of: Callable[..., HookedEngine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    noise = "print('first'); os.write(1, b'\\xff raw\\n'); os.write(2, b'to stderr\\n'); print('x' * 5000)"
    more = "[print('line', number) for number in range(500)]"
    engine = engine_of(own_models.bad_on({13: f"{noise}; {more}"}))
    engine.predict(own_models.pictures(13))
    engine.close()
    said = [record.getMessage() for record in caplog.records]
    assert "own0: hooks.py: first" in said
    assert "own0: hooks.py: \ufffd raw" in said
    assert "own0: hooks.py: to stderr" in said
    assert max(map(len, said)) < 1100
    assert len(said) < 200
    assert "lines of output were left out" in caplog.text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("def load(:", "SyntaxError"),
        ("def load():\n    raise OSError('no weights')", "OSError: no weights"),
        ("def load():\n    return 7", "must return a function, not int"),
        ("load = 7", "load in hooks.py is not a function"),
        ("import os; os._exit(4)", "ended while it was loaded (exit status 4)"),
        ("def helper(): pass", "defines neither"),
        ("def postprocess(outputs, context): return {}", "has no load"),
        ("def preprocess(image): return image\ndef load(): return len", "has a preprocess"),
        ("globals()['load'] = lambda: len", "at its top level"),
        (own_models.BRIGHTNESS.replace("bright = ", "bright = 1 / 0 + "), "failed on"),
        (
            own_models.BRIGHTNESS.replace("1 - bright, bright", "bright, bright, bright"),
            "but there are 2 labels",
        ),
        (own_models.BRIGHTNESS.replace("1 - bright, bright", "bright, bright * 300"), "not probabilities"),
        (own_models.BRIGHTNESS.replace("bright = ", "bright = len(batch) / 20 + 0 * "), "one by one"),
        ("import numpy as np\ndef load():\n    return lambda batch: np.ones((1, 2)) / 2", "failed on"),
    ],
)
def test_code_that_can_t_be_served_says_why(tmp_path: Path, code: str, words: str) -> None:
    folder = own_models.write(tmp_path / "own", code)
    before = _children()
    with pytest.raises(ModelUnavailable) as raised:
        own_models.load(folder)
    assert raised.value.message.startswith("own: ")
    assert words in raised.value.message
    eventually(lambda: _children() <= before)


def test_a_load_that_hangs_is_given_up(tmp_path: Path) -> None:
    code = "def load():\n    import time; time.sleep(60)"
    folder = own_models.write(tmp_path / "own", code, limits="load_timeout_s = 0.5\n")
    with pytest.raises(ModelUnavailable, match=r"own: hooks\.py took over 0\.5 s to load"):
        own_models.load(folder)


def test_a_slow_first_call_counts_as_loading_in_each_process(tmp_path: Path) -> None:
    waits = "seen or time.sleep(0.8)\n        seen.append(1)\n        bright = "
    code = "import time\nseen = []\n" + own_models.BRIGHTNESS.replace("bright = ", waits)
    folder = own_models.write(tmp_path / "own", code, limits="timeout_s = 0.4\n")
    _, engine = own_models.load(folder)
    for _ in range(2):
        assert engine.predict(own_models.pictures(255))[0][0, 1] == 1
        child = engine._code._child
        assert child is not None
        child._process.kill()
        eventually(lambda child=child: not child.is_silent)  # type: ignore[misc]
    engine.close()


def test_predict_gets_the_fractions_that_tensorflow_s_resizing_leaves(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "own", own_models.BRIGHTNESS)
    with (folder / "model.toml").open("a") as toml:
        toml.write('library = "tensorflow"\n')
    spec, engine = own_models.load(folder)
    pixels = own_models.pictures(100, 200) + np.float32(0.25)
    planes = fixed_point.split(pixels)
    assert planes.shape[1:] == spec.input.shape
    np.testing.assert_allclose(engine.predict(planes)[0][:, 1] * 255, [100.25, 200.25], atol=1e-3)
    engine.close()


def test_hooks_can_be_turned_off(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "own", "open('ran', 'w')")
    with pytest.raises(ModelUnavailable, match="HOOKS=off"):
        own_models.load(folder, are_on=False)
    assert not (folder / "ran").exists()
    (folder / "hooks.py").unlink()
    with pytest.raises(ModelUnavailable, match=r"needs a hooks\.py"):
        own_models.load(folder)


def test_its_neighbours_can_be_imported_and_its_folder_stays_the_same_version(tmp_path: Path) -> None:
    code = "import model_server\nfrom neighbour import load\nassert open('note.txt').read() == 'here'\n"
    folder = own_models.write(tmp_path / "own", code)
    (folder / "neighbour.py").write_text(own_models.BRIGHTNESS)
    (folder / "note.txt").write_text("here")
    version = own_models.read(folder).version
    _, engine = own_models.load(folder)
    assert engine.predict(own_models.pictures(255))[0][0, 1] == 1
    engine.close()
    assert own_models.read(folder).version == version
    assert not (folder / "__pycache__").exists()


def test_it_finds_no_setting_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@nowhere/0")
    code = "import os\ndef postprocess(outputs, context): return dict(os.environ)\n"
    folder = own_models.write(tmp_path / "own", code + own_models.BRIGHTNESS)
    spec, engine = own_models.load(folder, environment={"TZ": "UTC"})
    outputs = tuple(output[0] for output in engine.predict(own_models.pictures(1)))
    result = engine.read(outputs, spec, ReadOptions((1, 1), 1)).result
    engine.close()
    assert result is not None
    assert set(result) - {"LC_CTYPE"} == {"TZ"}  # Python's own


@pytest.mark.parametrize("how", ["kill", "close"])
def test_it_ends_with_the_model_server_whatever_it_is_doing(tmp_path: Path, how: str) -> None:
    # Its own child belongs to its group, and C code that keeps the GIL never sees that a socket closed.
    does = "import subprocess; subprocess.Popen(['sleep', '600']); ctypes.PyDLL(None).sleep(600)"
    folder = own_models.write(tmp_path / "own", own_models.bad_on({13: does}), limits="timeout_s = 600\n")
    program = (
        "import sys, threading, time, gc\n"
        "from pathlib import Path\n"
        "from tests.model_server.hooks import own_models\n"
        "spec, engine = own_models.load(Path(sys.argv[1]), environment={'PATH': '/usr/bin:/bin'})\n"
        "picture = own_models.pictures(13)\n"
        "call = threading.Thread(target=engine.predict, args=(picture,), daemon=True)\n"
        "if sys.argv[2] == 'kill': call.start()\n"
        "print('running', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder), how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"running\n"
        (child,) = psutil.Process(server.pid).children()
        if how == "kill":
            eventually(lambda: [each.name() for each in child.children()] == ["sleep"])
            grandchildren = child.children()
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGINT)
            time.sleep(0.1)
            assert child.is_running()
            server.kill()
        else:
            grandchildren = []
            server.stdin.close()  # type: ignore[union-attr] # it is a pipe
    eventually(lambda: not any(_runs(each) for each in [child, *grandchildren]), within_s=5)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_an_engine_that_is_dropped_takes_its_process_along(tmp_path: Path) -> None:
    before = _children()
    _, engine = own_models.load(own_models.write(tmp_path / "own", own_models.BRIGHTNESS))
    assert len(_children() - before) == 1
    del engine
    eventually(lambda: _children() <= before)


@pytest.mark.slow
def test_one_model_s_hang_disturbs_no_other(engine_of: Callable[..., HookedEngine]) -> None:
    hanging = engine_of(own_models.bad_on({13: "time.sleep(60)"}), "timeout_s = 1\n")
    other = engine_of(own_models.BRIGHTNESS)
    failures: list[ServiceError] = []

    def hang() -> None:
        try:
            hanging.predict(own_models.pictures(13))
        except HookFailed as error:
            failures.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    answered, slowest = 0, 0.0
    while thread.is_alive():
        began = time.monotonic()
        other.predict(own_models.pictures(answered % 256))
        slowest = max(slowest, time.monotonic() - began)
        answered += 1
    assert len(failures) == 1
    assert answered > 20
    assert slowest < 0.5
