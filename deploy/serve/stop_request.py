"""Whether `make serve` was told to stop: by a signal, or by the end of its terminal.

Owns which signals those are. Stops nothing itself.
"""

import contextlib
import os
import select
import signal
from typing import Final

STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""SIGHUP: the terminal was closed."""


class StopRequest:
    """Waits for a signal of `STOP`. A handler that sets an Event can deadlock on the Event's own lock."""

    def __init__(self) -> None:
        self._came = False
        # Under nohup SIGHUP is ignored, and to wait for it would take it all the same.
        is_under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._signals = STOP - {signal.SIGHUP} if is_under_nohup else STOP
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._terminal = select.poll()
        if not is_under_nohup and os.getsid(0) == os.getppid():
            # `ssh -t HOST make serve`: SIGHUP goes to the session's leader, which is make, and that waits.
            with contextlib.suppress(OSError):  # the session has no terminal
                self._terminal.register(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC), 0)

    def came(self, *, within_s: float) -> bool:
        """Whether a signal has come, or the terminal is gone; waits up to `within_s` for a signal."""
        if not self._came:
            has_signal = signal.sigtimedwait(self._signals, within_s) is not None
            self._came = has_signal or bool(self._terminal.poll(0))
        return self._came
