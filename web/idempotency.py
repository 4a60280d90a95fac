"""`Idempotency-Key`: what a client calls a request, so that the same again is the same job.

Owns the header's form (draft-ietf-httpapi-idempotency-key-header) and what makes two requests the same. Which
job a name has is producer.py's.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import ClientError
from broker.producer import RequestName
from web.uploads.parameters import CALLBACK_URL
from web.uploads.reader import Upload

HEADER: Final = "Idempotency-Key"

MAX_LETTERS: Final = 128

_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_LETTERS}}}")


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that its client has named."""

    key: str
    digest: str

    def picture(self, number: int, *, owner: str = "") -> RequestName:
        """What the job of one of its pictures is called: each is a job. Owners share no name.

        No key has a space in it, so none can be another's name.
        """
        name = f"{self.key}:{number}"
        return RequestName(f"{owner} {name}" if owner else name, self.digest)


def read(header: str, upload: Upload) -> IdempotentRequest:
    """The request that its client has named so. Raises ClientError."""
    key = header.strip()
    if len(key) > 2 and key[0] == key[-1] == '"':  # the draft's own form: a string of structured fields
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise ClientError(f"{HEADER} has 1 to {MAX_LETTERS} visible ASCII characters, and no spaces.")
    return IdempotentRequest(key, _digest(upload))


def _digest(upload: Upload) -> str:
    """Of the pictures, and of the parameters that change an answer; not of how they came."""
    parts: Sequence[bytes] = [
        *(
            picture.message.encode() if isinstance(picture, ClientError) else bytes(picture)
            for picture in upload.pictures
        ),
        repr((upload.is_list, upload.tops[:1], upload.parameters.get("model", ""))).encode(),
        # Only where there is one: keys outlive an update, and a request without it is what it was.
        *([upload.parameters[CALLBACK_URL].encode()] if CALLBACK_URL in upload.parameters else []),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
