"""What tests of several packages share. Owns the project's root; each module beside this owns one thing."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
