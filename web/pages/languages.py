"""The languages of the pages: which one a browser gets, and its phrases.

Owns the choice. The phrases are in static/text, where the pages' scripts read the same files.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Request

NAMES: Final = {"en": "English", "zh-CN": "简体中文"}
"""Each language's tag, as `lang` spells it, and its name in that language."""

TEXT: Final = Path(__file__).resolve().parent / "static" / "text"


def chosen(request: Request) -> str:
    """The language that `?lang=` names; empty if it names none."""
    tag = request.args.get("lang", "")
    return tag if tag in NAMES else ""


def of(request: Request) -> str:
    """The language of an answer: the chosen one, else the browser's, else English."""
    return chosen(request) or request.accept_languages.best_match(NAMES, default="en") or "en"


@cache
def words(language: str) -> Mapping[str, str]:
    """Every phrase of a language by its key."""
    phrases: dict[str, str] = json.loads((TEXT / f"{language}.json").read_text("utf-8"))
    return phrases


def speaker(language: str) -> Callable[..., str]:
    """A function that returns the phrase of a key with its `{names}` filled in.

    `otherwise` is the key for a word of the service's that has no phrase.
    """

    def say(key: str, otherwise: str = "", **values: Any) -> str:  # noqa: ANN401 - whatever a phrase shows
        phrases = words(language)
        return phrases[key if key in phrases or not otherwise else otherwise].format_map(values)

    return say
