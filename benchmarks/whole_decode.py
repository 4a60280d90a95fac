"""Decoding without JPEG's reduced size, to compare with. Owns that one switch; of this process only."""

import contextlib
from collections.abc import Iterator

from PIL import JpegImagePlugin


@contextlib.contextmanager
def whole_decode() -> Iterator[None]:
    """Let Pillow decode every JPEG whole."""
    draft = JpegImagePlugin.JpegImageFile.draft
    JpegImagePlugin.JpegImageFile.draft = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        JpegImagePlugin.JpegImageFile.draft = draft  # type: ignore[method-assign]
