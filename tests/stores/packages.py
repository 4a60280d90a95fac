"""The packages of var/stores, which `make test-stores` installs, beside the product's own.

They come after those, so that no version of those changes.
"""

import sys
from typing import Final

from tests.support import ROOT

PYTHON: Final = ROOT / "var" / "stores" / "bin" / "python"


def add() -> None:
    """Let this process import them."""
    (place,) = (ROOT / "var" / "stores" / "lib").glob("python3*/site-packages")
    if str(place) not in sys.path:
        sys.path.append(str(place))
