"""What an API key looks like: `bw_<id>_<secret>`. Owns its making, its parts and its digest. Stores nothing.

No slow hash (bcrypt, Argon2) is needed: those make guessing dear where people choose passwords, and a secret
has 256 random bits. One SHA-256 takes a microsecond, a slow hash would take 50 ms of each request.
"""

import hashlib
import re
import secrets
from typing import Final

from broker.api_keys import SecretDigest

SECRET_BYTES: Final = 32

_FORM: Final = re.compile(r"bw_(?P<id>[a-z0-9]{10})_[A-Za-z0-9_-]{43}")

_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH: Final = 10


def fresh(now: float) -> tuple[str, SecretDigest]:
    """A new key's text, and what is stored of it; `now` is Redis' time."""
    secret_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    text = f"bw_{secret_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return text, SecretDigest(id=secret_id, sha256=digest(text).hex(), set_at=now)


def digest(text: str) -> bytes:
    """SHA-256 of a key's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def id_of(text: str) -> str:
    """The id in a key's text; empty where it is no key's."""
    match = _FORM.fullmatch(text)
    return match["id"] if match else ""
