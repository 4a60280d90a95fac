"""Pictures below one folder of this machine, by name, for `GET /classify?file=NAME`.

Owns what keeps a name within the folder: it is opened one component at a time, and no link is followed. Knows
no HTTP.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from web.errors import NotFound
from web.server.refusals import UploadTooLarge

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A pipe without a writer would wait at open for one.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors of this machine that say nothing about the name."""


def read(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """The bytes of the regular file `name` below `folder`. Raises NotFound, or UploadTooLarge.

    Links are refused even if they stay within the folder: what they lead to may change after a check.
    """
    try:
        with _opened(folder, name.split("/")) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: the name has a NUL
        if isinstance(error, OSError) and error.errno in _OURS:
            raise
        raise NotFound(
            f"There is no picture {name[:100]!r} in the folder that FILES_DIR names. A name has no .. and no "
            "link in it, and does not begin with a slash."
        ) from None
    if len(content) > max_bytes:
        raise UploadTooLarge.than(max_bytes)
    return content


@contextmanager
def _opened(folder: Path, components: list[str]) -> Iterator[int]:
    """A descriptor of the file at these components. Raises OSError, or ValueError."""
    if any(component in ("", ".", "..") for component in components):
        raise ValueError
    descriptor = os.open(folder, _FOLDER)
    try:
        for number, component in enumerate(components, 1):
            flags = _FILE if number == len(components) else _FOLDER
            inner = os.open(component, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)
