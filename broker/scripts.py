"""The project's Lua scripts. Owns where they lie; each file says what it does, takes and returns."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "lua"


def lua(*names: str) -> str:
    """The text of the script that the files of those names make, one after the other."""
    return "".join((_FOLDER / f"{name}.lua").read_text("utf-8") for name in names)
