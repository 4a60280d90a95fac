"""Where servers of Redis listen, as URLs and other servers name them.

Owns HOST:PORT, read and written. A module of its own: Sentinels and clusters have lists of them, and know
nothing of each other. Connects to nobody.
"""

import re
from typing import Final, NamedTuple

_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:,/\s]+))(?::(?P<port>\d{1,5}))?")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read(text: str, *, port: int, what: str) -> Address:
    """The address in a text, with that port where it has none. Raises ValueError: it is not `what`."""
    match = _HOST.fullmatch(text)
    named = int(match["port"] or port) if match is not None else 0
    if match is None or not 0 < named < 65536:
        raise ValueError(f"{text!r} is not {what}")
    return Address(match["ipv6"] or match["name"], named)
