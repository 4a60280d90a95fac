"""The first look of `make serve`: what is not there is told before anything is installed or started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.serve import __main__ as serve
from deploy.serve import look
from deploy.serve.programs import CannotStart
from settings import PROJECT, Settings


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in ("resnet50", "cat"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.toml").touch()
    return folder


def _missing(
    models: Path,
    *,
    named: tuple[str, ...] = ("resnet50", "cat"),
    fallback: str = "",
    weights: str = "imagenet",
) -> str:
    return look.missing(models_dir=str(models), models=named, fallback=fallback, weights=weights)


def test_what_is_there_is_not_missed(models: Path) -> None:
    assert _missing(models) == ""
    assert _missing(models, fallback="cat", weights="random") == ""
    (models / "mine.h5").touch()
    assert _missing(models, weights=str(models / "mine.h5")) == ""
    assert _missing(models, named=("cat",), weights="/gone.h5") == ""  # nobody uses them


def test_each_thing_that_is_not_there_is_told_with_its_variable(models: Path) -> None:
    assert "MODELS_DIR='/gone' is no folder that is there" in _missing(Path("/gone"))
    (models.parent / "empty").mkdir()
    assert "/empty' has no model: a model is a folder" in _missing(models.parent / "empty")
    there = f"MODELS_DIR={str(models)!r} has cat, resnet50"
    assert _missing(models, named=("dog",)) == f"There is no model 'dog', which MODELS names: {there}."
    told = _missing(models, fallback="dog")
    assert told.startswith(
        f"There is no model 'dog', which FALLBACK_MODEL names: {there}. FALLBACK_MODEL=none"
    )
    assert "RESNET50_WEIGHTS='/gone.h5' is not imagenet, random" in _missing(models, weights="/gone.h5")


def test_make_serve_looks_before_all_else(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_only_one", None)  # whoever comes to the lock has not looked
    settings = Settings(models_dir=str(models), models=("dog",), default_model="dog")
    with pytest.raises(CannotStart, match="which MODELS names"):
        serve._check_files(settings)
    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    assert serve.main() == 1


def test_it_needs_nothing_but_python(models: Path) -> None:
    """Without site-packages, as on a machine on which nothing has been installed."""
    command = [
        sys.executable,
        "-S",
        "-m",
        "deploy.serve.look",
        "--models-dir",
        str(models),
        "--models",
        "cat,dog",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Batchwire can't start: There is no model 'dog'")


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as if no other make ran the tests: within one it tells of folders as well."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MODELS_DIR": "/gone"}, "MODELS_DIR='/gone'"),
        ({"MODELS": "digits,dog"}, "There is no model 'dog'"),
        ({"FALLBACK_MODEL": "dog"}, "FALLBACK_MODEL names"),
        ({"RESNET50_WEIGHTS": "/gone.h5"}, "RESNET50_WEIGHTS='/gone.h5'"),
        ({"MODELS": "-x"}, "There is no model '-x'"),
        ({"FALLBACK_MODEL": " none", "RESNET50_WEIGHTS": "imagenet ", "MODELS_DIR": " "}, ""),
        ({"FALLBACK_MODEL": "none"}, ""),
        ({}, ""),
    ],
)
def test_the_makefile_hands_the_variables_on(environment: dict[str, str], words: str) -> None:
    done = _make("look", **environment)
    assert (done.returncode == 0) is (words == "")
    assert words in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_serve_looks_before_it_installs() -> None:
    done = _make("-n", "serve")
    commands = done.stdout.splitlines()
    assert "deploy.serve.look" in commands[0]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_list_of_commands_is_aligned() -> None:
    done = _make("help")
    lines = done.stdout.splitlines()
    columns = {len(line) - len(line.split(maxsplit=1)[1]) for line in lines}
    assert len(lines) > 8
    assert len(columns) == 1
