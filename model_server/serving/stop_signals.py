"""SIGTERM and SIGINT, waited for by the main thread.

Owns the two signals of the process. Does nothing about them: commands/serve.py does.
"""

import os
import select
import signal
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Takes over both signals when it is made, in the main thread; any number of them may come.

    Not a signal mask with sigwait(): NumPy's and TensorFlow's native threads, started at import, do not
    have the mask, and a second SIGTERM given to one of those ended the process. Not a handler that sets
    an Event: it can deadlock on the Event's own lock. Python's wake-up file descriptor has neither
    fault: whichever thread gets the signal, a byte is written.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for each in STOP_SIGNALS:
            signal.signal(each, lambda *_: None)

    def wait(self, within_s: float | None = None) -> bool:
        """Whether one has come, waiting so long for it; without end by default."""
        return bool(select.select([self._read], [], [], within_s)[0])

    def give(self) -> None:
        """As if one had come."""
        os.write(self._write, b"\0")
