"""Whose request a thread answers: its API key, and how much that key has left.

Owns both for the time of a request, for HTTP and gRPC alike. Judges nothing: guard.py does.
"""

from contextvars import ContextVar
from typing import Final

from broker.api_keys import PRIORITIES, ApiKey
from broker.errors import ClientError
from web.errors import Forbidden

_SHARES: Final = {"low": 0.25, "normal": 1.0, "high": 4.0}

_OF_TRITON: Final = "0"
"""A model's own priority, to Triton's clients."""

KEY: Final[ContextVar[ApiKey | None]] = ContextVar("api_key", default=None)
"""That of the request which this thread answers; None: keys are off, or the address is open."""
_FIELDS: Final[ContextVar[tuple[tuple[str, str], ...]]] = ContextVar("limit_fields", default=())


def carry(key: ApiKey | None) -> None:
    """This thread answers a request of that key."""
    KEY.set(key)
    _FIELDS.set(())


def owner() -> str:
    """The name of this thread's key; empty where there is none."""
    key = KEY.get()
    return key.name if key is not None else ""


def may_ask(model: str) -> bool:
    """Whether the request may ask this model, and see it."""
    key = KEY.get()
    return key is None or key.may_ask(model)


def require_model(model: str) -> None:
    """Raise Forbidden for a model that the request may not ask, whether there is one of that name or not."""
    key = KEY.get()
    if key is not None and not key.may_ask(model):
        raise Forbidden(f"This API key may not use {model[:60]!r}, only {', '.join(key.models)}.")


def lane(key: ApiKey | None, priority: str) -> str:
    """The lane of a request's jobs, `OWNER@WEIGHT`, by its key and the `priority` that it asks for, if any.

    Empty without keys. Raises ClientError, Forbidden.
    """
    priority = "normal" if priority in ("", _OF_TRITON) else priority
    if priority not in _SHARES:
        raise ClientError(f"priority={priority[:20]!r} is none of {', '.join(PRIORITIES)}.")
    if key is None:
        if priority != "normal":
            raise ClientError(
                f"priority={priority} needs API keys, which this service does not ask for: leave it out."
            )
        return ""
    if PRIORITIES.index(priority) > PRIORITIES.index(key.priority):
        raise Forbidden(f"This API key may ask for priority={key.priority} at most.")
    return f"{key.name}@{max(1, round(key.weight * _SHARES[priority]))}"


def note_limits(fields: tuple[tuple[str, str], ...]) -> None:
    """The header fields that tell what the key has left."""
    _FIELDS.set(fields)


def limit_fields() -> tuple[tuple[str, str], ...]:
    """Those of this thread's request; none where it has not asked a model."""
    return _FIELDS.get()
