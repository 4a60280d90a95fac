"""The version of the contract in Redis, and the refusal of a process that keeps another.

Owns the number and the sentence. lease.py writes the version beside the keys, registry.py compares it.
"""

from typing import Final

from broker.errors import BrokerUnavailable
from broker.keys import Keys

VERSION: Final = b"4"
"""Changes with the keys, the scripts or the messages, where two releases could misread each other."""


def check(keys: Keys, version: object) -> None:
    """Compare the `version` that Redis holds; None: nobody has written one. Raises BrokerUnavailable.

    An outage like any other: once the processes of the other release are gone, and their version has
    expired, this one serves.
    """
    if version not in (None, VERSION):
        shown = version.decode("latin-1")[:20] if isinstance(version, bytes) else version
        raise BrokerUnavailable(
            f"Redis is used by another release of Batchwire: its contract at {keys.contract} is {shown}, "
            f"this release's is {VERSION.decode()}. Give one of them a KEY_PREFIX of its own.",
            is_refusal=True,
        )
