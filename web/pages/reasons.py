"""A reason for people who can't act on it: its first sentence, the rest a click away.

Owns that cut for pages as they are sent; static/reason.js makes the same one (a test compares them). Programs
get the whole. Paths of a server's folders are not in it: the model server leaves them out.
"""

import re
from typing import Final, NamedTuple

MOST: Final = 200
"""Characters of a first sentence; some libraries never come to its end."""

_FIRST: Final = re.compile(r".*?[.!?](?=\s+[A-Z])", re.DOTALL)


class ShownReason(NamedTuple):
    """A reason in short, and whole; the same where it is short."""

    short: str
    whole: str


def told(reason: str) -> ShownReason:
    """A reason as a page tells it."""
    whole = reason.strip()
    found = _FIRST.match(whole)
    first = found[0] if found else whole
    return ShownReason(first if len(first) <= MOST else f"{first[:MOST].rstrip()} …", whole)
