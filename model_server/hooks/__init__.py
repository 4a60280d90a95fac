"""Code of one's own: the functions of a model's hooks.py, run in a process of their own.

Owns that process, its limits and the messages to it. Knows no engine, no task and no Redis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HookOptions:
    """How the models' own code runs."""

    are_on: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    """All that its process finds in its environment: no setting, so no secret."""
    off_by: str = "HOOKS=off"
    """The setting that turns them off."""
