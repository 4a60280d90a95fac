"""The languages of the pages: which one a browser gets, and its words.

Owns the choice. The words are in static/text, where the pages' scripts read the same files.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Request

NAMES: Final = {"en": "English", "zh-CN": "简体中文"}
"""The tag of each language, as `lang` spells it, and its own name for itself."""

TEXT: Final = Path(__file__).resolve().parent / "static" / "text"


def chosen(request: Request) -> str:
    """The language that was asked for by `?lang=`; empty if none was."""
    asked = request.args.get("lang", "")
    return asked if asked in NAMES else ""


def of(request: Request) -> str:
    """The language of an answer: the chosen one, else the browser's, else English."""
    return chosen(request) or request.accept_languages.best_match(NAMES, default="en") or "en"


@cache
def words(language: str) -> Mapping[str, str]:
    """Every phrase of a language by its key."""
    found: dict[str, str] = json.loads((TEXT / f"{language}.json").read_text("utf-8"))
    return found


def speaker(language: str) -> Callable[..., str]:
    """A function that says the phrase of a key, its `{names}` filled in."""

    def say(key: str, **values: Any) -> str:  # noqa: ANN401 - whatever a phrase shows
        return words(language)[key].format_map(values)

    return say
