"""Waiting for one's turn at something that only a few may do at once, such as decoding pictures.

Owns the wait and its refusal; who has how many places is the caller's.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker.errors import Overloaded


@contextmanager
def turn(decoders: threading.Semaphore, *, until: float) -> Iterator[float]:
    """A place among those that decode, by the monotonic time `until`: the seconds waited for it.

    Raises Overloaded.
    """
    began = time.monotonic()
    # Forty pictures of 49 megapixels kept small ones waiting for 26 s, far beyond their deadline.
    if not decoders.acquire(timeout=max(0.0, until - time.monotonic())):
        raise Overloaded("Too many large pictures are being decoded; come back in 1 s.")
    try:
        yield time.monotonic() - began
    finally:
        decoders.release()
