"""hooks.py as the catalogue sees it: which functions it defines, without running it; and [hooks]."""

from pathlib import Path

import pytest

from model_server.catalogue import hooks_file
from model_server.catalogue.folder_watch import snapshot
from model_server.catalogue.hooks_file import HookLimits
from model_server.catalogue.model_spec import CatalogueError, read_model
from tests.model_server.hooks import own_models

ALL = {"preprocess", "postprocess", "load"}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def preprocess(image): return image\n\ndef helper(): pass", {"preprocess"}),
        ("from neighbour import load, read as postprocess", {"load", "postprocess"}),
        ("preprocess = lambda image: image", {"preprocess"}),
        ("class load: pass\ndef outer():\n    def postprocess(): pass", set()),
        ("raise SystemExit('never run')", set()),
        ("def load(:", ALL),
        ("\0", ALL),
    ],
)
def test_its_functions_are_known_without_running_it(tmp_path: Path, code: str, names: set[str]) -> None:
    (tmp_path / "hooks.py").write_text(code)
    hooks = hooks_file.read(tmp_path, None)
    assert hooks is not None
    assert (set(hooks.names), hooks.limits) == (names, HookLimits())


@pytest.mark.parametrize(
    ("toml", "key", "words"),
    [
        (own_models.TOML.replace('"none"', '"unit"'), "input.normalise", 'Write normalise = "none"'),
        (f'{own_models.TOML}order = "bgr"', "input.order", "in RGB"),
        (f'{own_models.TOML}[output]\nactivation = "softmax"', "output.activation", "returns probabilities"),
        (f"{own_models.TOML}[hooks]\ntimeout_s = 0", "hooks.timeout_s", ">= 0.05"),
        (f"{own_models.TOML}[hooks]\nthreads = 2", "hooks.threads", "timeout_s, load_timeout_s, memory_mb"),
    ],
)
def test_what_contradicts_it_is_refused(tmp_path: Path, toml: str, key: str, words: str) -> None:
    folder = own_models.write(tmp_path / "own", own_models.BRIGHTNESS)
    text = 'labels = "labels.txt"\n' + toml.replace("TASK", "classification")
    (folder / "model.toml").write_text(text)
    with pytest.raises(CatalogueError) as raised:
        read_model(tmp_path, "own")
    assert f", {key}: " in str(raised.value)
    assert words in str(raised.value)


def test_limits_without_a_file_are_refused(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "own", "", limits="timeout_s = 1\n")
    (folder / "hooks.py").unlink()
    with pytest.raises(CatalogueError, match=r"is for a model with a hooks\.py, and this folder has none"):
        read_model(tmp_path, "own")


def test_a_changed_hooks_py_is_another_version_and_bytecode_is_none(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "own", own_models.BRIGHTNESS)
    first, seen = own_models.read(folder).version, snapshot(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "hooks.cpython-311.pyc").write_bytes(b"compiled")
    assert (own_models.read(folder).version, snapshot(folder)) == (first, seen)
    (folder / "hooks.py").write_text(own_models.BRIGHTNESS + "# changed")
    assert own_models.read(folder).version != first
