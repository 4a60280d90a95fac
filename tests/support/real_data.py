"""Real data sets, networks and photos, which are not in the repository: in the folder that TEST_DATA names.

Owns where each lies in it (tests/README.md describes the layout) and how a test says that it needs some. A
test without its data is skipped, and the end of the run says how many were (tests/conftest.py).
"""

import os
from pathlib import Path
from typing import Final

import pytest

VARIABLE: Final = "TEST_DATA"

_FOLDER: Final = Path(os.environ.get(VARIABLE) or os.devnull)

MNIST: Final = _FOLDER / "data" / "mnist.npz"
CIFAR10: Final = _FOLDER / "data" / "cifar10.zip"
MOBILENET: Final = _FOLDER / "models" / "mobilenet-v2-imagenet"
YOLO: Final = _FOLDER / "models" / "yolo-fastest-xl"
PHOTOS: Final = _FOLDER / "photos"


def needs(*paths: Path) -> pytest.MarkDecorator:
    """Skip a test without these files or folders."""
    missing = ", ".join(path.relative_to(_FOLDER).as_posix() for path in paths if not path.exists())
    return pytest.mark.skipif(bool(missing), reason=f"{VARIABLE} has no {missing}")
