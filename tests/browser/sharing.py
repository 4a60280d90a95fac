"""One service of digits for all processes of a run: it takes ten seconds of a core to start.

Owns who starts it, and that it ends after the last test that uses it. Knows nothing of the tests.
"""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.browser.pages import digits_stack, start
from tests.support.redis_server import running_redis
from tests.support.stack import Stack


@contextlib.contextmanager
def shared_digits(folder: Path) -> Iterator[Stack]:
    """A context: the service of all that name this folder; whoever comes first starts it, and leaves last.

    The locks end with the process that has them: nobody waits for one that was killed.
    """
    place = folder / "digits.url"
    with (folder / "starting").open("ab") as starting, (folder / "using").open("ab") as using:
        fcntl.flock(starting, fcntl.LOCK_EX)
        with contextlib.suppress(BlockingIOError):  # somebody uses it
            fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place.unlink(missing_ok=True)  # whoever started it was killed
        fcntl.flock(using, fcntl.LOCK_SH)  # waits until a service that ends has ended
        if place.exists():
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield _at(place.read_text(), folder)
            return
        with _started(folder) as service:
            place.write_text(service.url)
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield service
            fcntl.flock(using, fcntl.LOCK_EX)
            place.unlink()


def _at(url: str, folder: Path) -> Stack:
    """What another process has started, to be asked."""
    service = Stack(folder, "redis://of-another-process")
    service.url = url
    return service


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[Stack]:
    with running_redis() as redis:
        service = digits_stack(
            Path(tempfile.mkdtemp(dir=folder)), redis, MAX_UPLOAD_MB="1", MAX_PIXELS="400000"
        )
        try:
            start(service)
            yield service
        finally:
            service.stop()
