"""What keeps HTTP within bounds: connections, the size of an answer, where a Location may lead.

Owns those bounds. Which requests are sent is load_loop.py's.
"""

import asyncio
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp

from loadtest.measuring.answers import WrongAnswer
from loadtest.sending.messages import Target

_LARGEST_ANSWER: Final = 16 * 2**20

# Idle connections go sooner than a server drops them (Gunicorn: 2 s), or we might write into a closing one.
_KEEP_ALIVE_S: Final = 1.0


async def content(response: aiohttp.ClientResponse) -> bytes:
    """The body, if it is no larger than any answer is: a server may send without end."""
    try:
        await response.content.readexactly(_LARGEST_ANSWER + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
    response.close()
    raise WrongAnswer("bad answer: too large", f"more than {_LARGEST_ANSWER} bytes")


def connector(target: Target) -> aiohttp.TCPConnector:
    """Connections without a bound of their own: the bound is counted where waiting for it is seen."""
    if target.keep_alive:
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    return aiohttp.TCPConnector(limit=0, force_close=True)


def joined(url: str, location: str) -> str:
    """Resolve a Location; it may not lead to another host."""
    try:
        place = urljoin(url, location)
        leaves = urlsplit(place)[:2] != urlsplit(url)[:2]
    except ValueError:
        leaves = True
    if leaves:
        raise WrongAnswer("bad answer: Location leads elsewhere", location)
    return place
