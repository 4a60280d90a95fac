"""What this thread's request asks: which model, about how many pictures; for the metrics and the access log.

Owns that note. Whoever begins a request sets it to NOTHING, and inference.py to what it finds out.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks."""

    model: str = ""
    """Announced; empty: none so far."""
    pictures: int = 0


NOTHING: Final = Question()
"""Of a request that nobody has looked into."""

CURRENT: Final[ContextVar[Question]] = ContextVar("question", default=NOTHING)
