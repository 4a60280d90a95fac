"""`make preflight`: a missing file or a wrong setting is reported before anything is installed or started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.serve import __main__ as serve
from deploy.serve import preflight
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
    models_dir: Path,
    *,
    models: tuple[str, ...] = ("resnet50", "cat"),
    fallback: str = "",
    weights: str = "imagenet",
) -> str:
    settings = Settings(
        models_dir=str(models_dir), models=models, fallback_model=fallback, resnet50_weights=weights
    )
    return preflight.missing(settings)


def test_a_complete_catalogue_misses_nothing(models: Path) -> None:
    assert _missing(models) == ""
    assert _missing(models, fallback="cat", weights="random") == ""
    (models / "mine.h5").touch()
    assert _missing(models, weights=str(models / "mine.h5")) == ""
    assert _missing(models, models=("cat",), weights="/gone.h5") == ""  # nothing uses them


def test_a_directory_of_pictures_must_be_there(models: Path) -> None:
    for files_dir in (models / "gone", models / "cat" / "model.toml"):
        settings = Settings(models_dir=str(models), models=("cat",), files_dir=str(files_dir))
        assert preflight.missing(settings).startswith(f"FILES_DIR={str(files_dir)!r} is not a directory.")
    assert preflight.missing(Settings(models_dir=str(models), models=("cat",), files_dir=str(models))) == ""


@pytest.mark.slow
def test_one_that_was_killed_and_still_stops_is_told_from_one_that_runs(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        pass
    with serve._only_one(tmp_path):
        for process, said in ((ended.pid, "was killed, and"), (os.getpid(), "is already running")):
            (tmp_path / "serve.lock").write_text(str(process))
            with pytest.raises(CannotStart, match=said), serve._only_one(tmp_path):
                pass


def test_each_missing_file_is_reported_with_its_variable(models: Path) -> None:
    assert "MODELS_DIR='/gone' is not a directory" in _missing(Path("/gone"))
    (models.parent / "empty").mkdir()
    assert "/empty' has no models: a model is a subdirectory" in _missing(models.parent / "empty")
    available = f"Available in MODELS_DIR={str(models)!r}: cat, resnet50."
    assert _missing(models, models=("dog",)) == f"Unknown model 'dog' in MODELS. {available}"
    default = _missing(models, models=Settings().models)
    assert default == f"Unknown model 'digits' in the default of MODELS. {available}"
    (models / "empty").mkdir()
    without = f": {models / 'empty'} has no model.toml (docs/models.md)"
    assert _missing(models, models=("empty",)) == f"Unknown model 'empty' in MODELS{without}. {available}"
    assert f"in FALLBACK_MODEL{without}. " in _missing(models, fallback="empty")
    message = _missing(models, fallback="dog")
    assert message.startswith(f"Unknown model 'dog' in FALLBACK_MODEL. {available} FALLBACK_MODEL=none")
    assert "RESNET50_WEIGHTS='/gone.h5' is not imagenet, random" in _missing(models, weights="/gone.h5")


def test_make_serve_looks_before_all_else(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_only_one", None)  # fails if it is reached
    settings = Settings(models_dir=str(models), models=("dog",), default_model="dog")
    with pytest.raises(CannotStart, match="Unknown model 'dog' in MODELS"):
        serve._check_files(settings)
    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    assert serve.main([]) == 1


def test_it_needs_nothing_but_python(models: Path) -> None:
    """Without site-packages, as on a machine on which nothing has been installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "deploy.serve.preflight"],
        cwd=PROJECT,
        env={"MODELS_DIR": str(models), "MODELS": "cat,dog"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Batchwire can't start: Unknown model 'dog' in MODELS. ")


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as if no other make ran the tests: within one it tells of folders as well."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MODELS_DIR": "/gone"}, "MODELS_DIR='/gone'"),
        ({"MODELS": "digits,dog"}, "Unknown model 'dog'"),
        ({"FALLBACK_MODEL": "dog"}, "in FALLBACK_MODEL"),
        ({"RESNET50_WEIGHTS": "/gone.h5"}, "RESNET50_WEIGHTS='/gone.h5'"),
        ({"MODELS": "-x"}, "Unknown model '-x'"),
        ({"PORT": "0"}, "PORT='0' is not a whole number from 1 to 65535."),
        ({"FALLBACK_MODEL": " none", "RESNET50_WEIGHTS": "imagenet ", "MODELS_DIR": " "}, ""),
        ({"FALLBACK_MODEL": "none"}, ""),
        ({}, ""),
    ],
)
def test_make_preflight_checks_the_environment(environment: dict[str, str], words: str) -> None:
    done = _make("preflight", **environment)
    assert (done.returncode == 0) is (words == "")
    assert words in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_serve_looks_before_it_installs() -> None:
    done = _make("-n", "serve")
    commands = done.stdout.splitlines()
    assert "deploy.serve.preflight" in commands[0]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_list_of_commands_is_aligned() -> None:
    done = _make("help")
    lines = done.stdout.splitlines()
    columns = {len(line) - len(line.split(maxsplit=1)[1]) for line in lines}
    assert len(lines) > 8
    assert len(columns) == 1
