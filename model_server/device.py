"""The device that the models of one process share: one network runs at a time.

Owns the order in which they get it. Knows nothing of models, jobs or threads' names.
"""

import collections
import threading
from types import TracebackType


class Device:
    """A lock that is handed on in the order of asking.

    A plain lock starves its other waiters when its owner takes it again right after giving it back, which
    is what a busy model does.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiters: collections.deque[threading.Event] = collections.deque()
        self._is_taken = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._waiters)

    def __enter__(self) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            turn = threading.Event()
            self._waiters.append(turn)
        turn.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiters:
                self._waiters.popleft().set()  # it stays taken, by the first that waits
            else:
                self._is_taken = False
