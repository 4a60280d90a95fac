"""The first look of `make serve`: is what the settings name there? Before anything is installed or started.

Owns the words for a folder or a file that is not. Needs nothing but Python itself, for on a new machine
there is nothing else; its caller says what to look for, and settings.py has the settings' other bounds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_USUAL: Final = ("resnet50", "digits")
_UNSET: Final = " (unset it names resnet50 and digits)"

_NO_FILES: Final = ("", "imagenet", "random")


def missing(*, models_dir: str, models: Sequence[str], fallback: str, weights: str) -> str:
    """What is not there, by its variable and with what to do; else empty.

    `models` and `fallback` are folders of `models_dir`, `weights` is RESNET50_WEIGHTS.
    """
    folder = Path(models_dir)
    if not folder.is_dir():
        return f"MODELS_DIR={models_dir!r} is no folder that is there: name the one with your models."
    known = sorted(toml.parent.name for toml in folder.glob("*/model.toml"))
    if not known:
        return (
            f"MODELS_DIR={models_dir!r} has no model: a model is a folder in it with a model.toml "
            "(docs/models.md). Unset it for the bundled models."
        )
    there = f"MODELS_DIR={models_dir!r} has {', '.join(known)}"
    for name in models:
        if name not in known:
            return f"There is no model {name!r}, which MODELS names{_UNSET * (name in _USUAL)}: {there}."
    if fallback and fallback not in known:
        return (
            f"There is no model {fallback!r}, which FALLBACK_MODEL names: {there}. FALLBACK_MODEL=none does "
            "without one."
        )
    if "resnet50" in models and weights not in _NO_FILES and not Path(weights).is_file():
        return f"RESNET50_WEIGHTS={weights!r} is not imagenet, random or a file that is there."
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The look of the Makefile; an option that is empty is as one that is not given."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serve.look", description=__doc__)
    for option, usual in (("models-dir", "models"), ("models", ""), ("fallback", ""), ("weights", "")):
        parser.add_argument(f"--{option}", default="", metavar=usual.upper() or "TEXT")
    given = {
        name: text.strip() for name, text in vars(parser.parse_args(arguments)).items()
    }  # as settings.py
    models = [name.strip() for name in given["models"].split(",") if name.strip()]
    found = missing(
        models_dir=given["models_dir"] or "models",
        models=models or _USUAL,
        fallback="" if given["fallback"] == "none" else given["fallback"],
        weights=given["weights"],
    )
    if found:
        sys.stderr.write(f"Batchwire can't start: {found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
