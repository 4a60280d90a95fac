"""The signature of a webhook, as https://www.standardwebhooks.com has it.

Owns the secrets and the three headers. A secret is in no representation of these objects.
"""

import base64
import hashlib
import hmac
from typing import Final

PREFIX: Final = "whsec_"


class Signer:
    """Signs with each of the secrets, which are separated by spaces: during a rotation there are two."""

    def __init__(self, secrets: str) -> None:
        self._keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in secrets.split()]

    def headers(self, job_id: str, body: bytes, *, at: float) -> dict[str, str]:
        """The headers of a call at that time, in seconds since 1970. `job_id` is the same at each attempt."""
        timestamp = str(int(at))
        signed = b"%s.%s.%s" % (job_id.encode(), timestamp.encode(), body)
        signatures = (
            base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in self._keys
        )
        return {
            "webhook-id": job_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }
