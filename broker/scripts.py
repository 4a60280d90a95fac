"""The project's Lua scripts. Owns where they lie; each file says what it does, takes and returns."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "lua"


def lua(name: str) -> str:
    """The text of the script of that name."""
    return (_FOLDER / f"{name}.lua").read_text("utf-8")
