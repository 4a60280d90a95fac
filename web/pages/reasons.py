"""Shortens a reason for people who can't act on it: the first sentence, with the rest a click away.

Owns the cut in pages as the server renders them; static/reason.js makes the same one (a test compares them).
Programs get the whole reason. It holds no paths of the server: the model server leaves them out.
"""

import re
from typing import Final, NamedTuple

MOST: Final = 200
"""The most characters of a first sentence; some libraries never end theirs."""

_FIRST: Final = re.compile(r".*?[.!?](?=\s+[A-Z])", re.DOTALL)


class ShownReason(NamedTuple):
    """A reason, short and whole; both are the same if it is short."""

    short: str
    whole: str


def shorten(reason: str) -> ShownReason:
    """A reason as a page shows it."""
    whole = reason.strip()
    match = _FIRST.match(whole)
    first = match[0] if match else whole
    return ShownReason(first if len(first) <= MOST else f"{first[:MOST].rstrip()} …", whole)
