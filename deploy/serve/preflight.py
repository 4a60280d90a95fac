"""`make preflight`: check the settings, and the files they name, before anything is installed or started.

Owns the wording for a directory or a file that is missing. Runs on Python alone, and so imports nothing but
the standard library and settings.py, which does the same.
"""

import sys
from pathlib import Path
from typing import Final

from settings import SettingError, Settings

_NOT_A_FILE: Final = ("imagenet", "random")
"""Values of RESNET50_WEIGHTS that are not paths."""


def missing(settings: Settings) -> str:
    """A message about the first thing that is missing: its variable and what to do. Empty if nothing is."""
    if settings.files_dir and not Path(settings.files_dir).is_dir():
        return (
            f"FILES_DIR={settings.files_dir!r} is not a directory. Set it to the directory whose pictures "
            "GET /classify?file=NAME may read, or unset it."
        )
    if settings.has_store:  # the model servers look into it
        return _wrong_weights(settings)
    models_dir = settings.models_dir
    folder = Path(models_dir)
    if not folder.is_dir():
        return f"MODELS_DIR={models_dir!r} is not a directory. Set it to the directory of your models."
    known = sorted(toml.parent.name for toml in folder.glob("*/model.toml"))
    if not known:
        return (
            f"MODELS_DIR={models_dir!r} has no models: a model is a subdirectory with a model.toml "
            "(docs/models.md). Unset MODELS_DIR to use the bundled models."
        )
    available = f"Available in MODELS_DIR={models_dir!r}: {', '.join(known)}."
    for name in settings.models:
        if name not in known:
            where = "the default of MODELS" if settings.models == Settings().models else "MODELS"
            return f"Unknown model {name!r} in {where}{_without_toml(folder, name)}. {available}"
    fallback = settings.fallback_model
    if fallback and fallback not in known:
        none = "FALLBACK_MODEL=none turns the fallback off."
        why = _without_toml(folder, fallback)
        return f"Unknown model {fallback!r} in FALLBACK_MODEL{why}. {available} {none}"
    return _wrong_weights(settings)


def _without_toml(folder: Path, name: str) -> str:
    """The end of a sentence about a model whose folder is there, but is not a model's yet."""
    if not (folder / name).is_dir():
        return ""
    return f": {folder / name} has no model.toml (docs/models.md)"


def _wrong_weights(settings: Settings) -> str:
    weights = settings.resnet50_weights
    if "resnet50" in settings.models and weights not in _NOT_A_FILE and not Path(weights).is_file():
        return f"RESNET50_WEIGHTS={weights!r} is not imagenet, random or the path of a file."
    return ""


def main() -> int:
    """Check the settings of the environment; return the exit status."""
    try:
        problem = missing(Settings.from_env())
    except SettingError as error:
        problem = str(error)
    if problem:
        sys.stderr.write(f"Batchwire can't start: {problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
