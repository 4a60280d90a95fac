"""Judges a request by its API key: whose it is, and whether that key has the right.

Owns where a key may stand in a request, and its comparison. Knows no address: http_guard.py and web/rpc say
what is open.
"""

import base64
import binascii
import hmac
import logging
from dataclasses import dataclass, field
from typing import Final

from broker.api_keys import ApiKey, KnownKeys, KnownSecret
from web.errors import Forbidden, Unauthorized
from web.keys import secret

_LOG = logging.getLogger(__name__)

_NOBODY: Final = bytes(32)
"""What a key is compared with that nobody has: no text hashes to it."""

_BASIC: Final = "basic"

_REFUSED: Final = "The request has no valid API key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`."
"""The same for a missing key, a wrong one and a revoked one."""

_REFUSED_PAGE: Final = "This page needs a valid API key: enter it as the password, with any user name."
"""What a person reads who has no key to enter."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says of who it is. Never a query's parameter or a cookie, which logs and sites have."""

    authorization: str = field(default="", repr=False)
    x_api_key: str = field(default="", repr=False)

    @property
    def is_basic(self) -> bool:
        """Whether it is HTTP Basic: a browser sends that by itself, also to what another site has it ask."""
        return not self.x_api_key and self._scheme == _BASIC

    def text(self) -> str:
        """The key's text; empty where there is none."""
        if self.x_api_key:
            return self.x_api_key.strip()
        rest = self.authorization.partition(" ")[2].strip()
        if self._scheme == "bearer":
            return rest
        if self._scheme != _BASIC:
            return ""
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""

    @property
    def _scheme(self) -> str:
        return self.authorization.partition(" ")[0].lower()


class Guard:
    """Judges requests by the keys as this process knows them. Safe to use from any thread."""

    def __init__(self, known: KnownKeys) -> None:
        self._known = known

    def recognise(self, credentials: Credentials, *, asks_browser: bool = False) -> ApiKey:
        """The key of a request, whatever it may do.

        Raises Unauthorized; BrokerUnavailable where no keys could ever be read. `asks_browser`: a browser is
        to ask its user.
        """
        text = credentials.text()
        key = _matching(self._known.find(secret.id_of(text)), text)
        if key is None:
            raise unauthorized(asks_browser=asks_browser)
        self._known.note_use(key.name)
        return key

    def peek(self, credentials: Credentials) -> ApiKey | None:
        """The key of a request as it was when keys were last read, which asks nobody; None: not known."""
        text = credentials.text()
        return _matching(self._known.peek(secret.id_of(text)), text)

    @property
    def is_current(self) -> bool:
        """Whether a key that `peek` does not know is none."""
        return self._known.is_current


def require_right(key: ApiKey, right: str) -> None:
    """Raise Forbidden for a key that does not have this right."""
    if right not in key.may:
        _LOG.info("key %s has no right to %s", key.name, right)
        raise Forbidden(f"This API key does not have the right {right!r}, only {', '.join(key.may)!r}.")


def unauthorized(*, asks_browser: bool = False) -> Unauthorized:
    """The refusal of a request without a key that is known."""
    return Unauthorized(_REFUSED_PAGE if asks_browser else _REFUSED, asks_browser=asks_browser)


def _matching(found: KnownSecret | None, text: str) -> ApiKey | None:
    """The key, if the text is its secret. It takes the same time where there is no such key."""
    digest = found.digest if found is not None else _NOBODY
    is_same = hmac.compare_digest(secret.digest(text), digest)
    return found.key if found is not None and is_same else None
