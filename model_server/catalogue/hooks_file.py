"""A model's hooks.py as the catalogue sees it: which functions it defines, and `[hooks]` in model.toml.

Owns those names and limits. Reads the file and never runs it: model_server/hooks does, elsewhere.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

NAME: Final = "hooks.py"

_FUNCTIONS: Final = frozenset(("preprocess", "postprocess", "load"))


class HookLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[hooks]: what the process of hooks.py may take."""

    timeout_s: Annotated[float, Meta(ge=0.05, le=600)] = 3.0
    """Of one call. Twice as long, and a restart, fit into the 10 s for which a client waits."""
    load_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 60.0
    """Of the import of hooks.py, and of load()."""
    memory_mb: Annotated[int, Meta(ge=64, le=1_000_000)] = 4096
    """Of memory that can be written. A process that has imported NumPy takes 90 MB of it, one with TensorFlow
    500, and one that runs eight pictures through ResNet50 of eager Keras 2,700."""


@dataclass(frozen=True, slots=True)
class HooksFile:
    """The hooks.py of a model."""

    names: frozenset[str]
    """The functions that it defines at its top level; all of them, if it is not valid Python."""
    limits: HookLimits


def read(folder: Path, limits: HookLimits | None) -> HooksFile | None:
    """The hooks.py in a model's folder, if there is one."""
    path = folder / NAME
    if not path.is_file():
        return None
    return HooksFile(_defined(path) & _FUNCTIONS, limits or HookLimits())


def _defined(path: Path) -> frozenset[str]:
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return _FUNCTIONS  # its import will say what is wrong, and cost this model alone
    names: set[str] = set()
    for node in body:
        match node:
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)
