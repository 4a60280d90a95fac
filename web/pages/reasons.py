"""A reason for people who can't mend it: its first sentence, and none of this machine's folders.

Owns that cut for pages as they are sent; static/reason.js makes the same one (a test compares them). What
programs get is whole.
"""

import re
from typing import Final, NamedTuple

MOST: Final = 200
"""Characters of a first sentence; some libraries never come to its end."""

_FOLDERS: Final = re.compile(r"(?<![\w/.~-])(?:file://)?/(?!/)(?:[^\s/'\"`(),:;]+/)+")
_FIRST: Final = re.compile(r".*?[.!?](?=\s+[A-Z])", re.DOTALL)


class ShownReason(NamedTuple):
    """A reason in short, and whole; the same where it is short."""

    short: str
    whole: str


def told(reason: str) -> ShownReason:
    """A reason as a page tells it."""
    whole = _FOLDERS.sub("", reason).strip()
    found = _FIRST.match(whole)
    first = found[0] if found else whole
    return ShownReason(first if len(first) <= MOST else f"{first[:MOST].rstrip()} …", whole)
