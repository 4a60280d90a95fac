"""Three steps of a worker that overlap: while one batch runs, the next is claimed and the last completed.

Owns the threads, the order, and the moment of a claim. What the steps do is the worker's; nothing here
talks to Redis or to a network.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, Protocol, TypeVar

from broker.errors import ServiceError
from model_server.serving.device import Device

_SMOOTHING: Final = 0.3
"""Weight of the newest batch in what the next is expected to take."""

_LEAD_MARGIN: Final = 1.5
"""A claim begins so many times before the device is free as it took last: late it costs idle time of the
device, early only that a job waits here and not in the queue."""


class Claim(Protocol):
    """What `claim` hands to `run`."""

    @property
    def runs_alone(self) -> bool:
        """Whether nothing else may be claimed meanwhile."""
        ...

    def __len__(self) -> int: ...


Formed = TypeVar("Formed", bound=Claim)
Done = TypeVar("Done")


class Pipeline(Generic[Formed, Done]):
    """One claimed batch ahead, one on the device, one being completed; never more.

    `gather` may wait until it is worth while to claim; the device is not held meanwhile. It and `claim` may
    raise ServiceError, which `step` raises; `run` and `complete` raise only for bugs. Batches are completed
    in the order of their claims. `step`, `empty` and `settle` are one thread's.
    """

    def __init__(
        self,
        name: str,
        claim: Callable[[], Formed | None],
        run: Callable[[Formed], Done],
        complete: Callable[[Done], None],
        *,
        device: Device,
        gather: Callable[[], None] = lambda: None,
    ) -> None:
        self._gather = gather
        self._claim = claim
        self._run = run
        self._complete = complete
        self._device = device
        self._claimer = ThreadPoolExecutor(1, f"claimer-{name}")
        self._completer = ThreadPoolExecutor(1, f"completer-{name}")
        self._ahead: Future[tuple[bool, Formed | None]] | None = None
        """Whether the queue was asked, and what it gave."""
        self._completing: Future[None] | None = None
        self._is_free = threading.Event()
        self._sibling_is_next = False
        self._claim_s = 0.0
        self._run_s = 0.0
        """A picture's share of a call."""

    def step(self) -> int:
        """Run one batch, if there is one. Returns its size; 0: everything claimed is completed by now."""
        ahead, self._ahead = self._ahead, None
        was_asked, formed = ahead.result() if ahead is not None else (False, None)
        if not was_asked:
            self._gather()
        if was_asked and formed is None:
            # Nothing to run: waiting for the device, a sibling's whole call, would only delay the next job.
            self.settle()
            return 0
        with self._device:
            # The device first: a batch claimed while a sibling's runs would wait where others can't take it.
            if not was_asked:
                formed = self._timed_claim()
            done = self._run_and_claim(formed) if formed is not None else None
        self.settle()
        if formed is None or done is None:
            return 0
        self._completing = self._completer.submit(self._complete, done)
        return len(formed)

    def close(self) -> None:
        """Empty it, and end its threads."""
        self.empty()
        self._claimer.shutdown()
        self._completer.shutdown()

    def settle(self) -> None:
        """Wait until the last batch is completed."""
        completing, self._completing = self._completing, None
        if completing is not None:
            completing.result()

    def empty(self) -> None:
        """Wait until nothing is on its way. What was claimed ahead is dropped: the caller gives it back."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.suppress(ServiceError):  # whatever it claimed is given back
                ahead.result()
        self.settle()

    def _run_and_claim(self, formed: Formed) -> Done:
        """Run a batch; begin to claim the next when the call is about to end, or has ended."""
        began = time.monotonic()
        ends = began + len(formed) * self._run_s
        self._is_free.clear()
        self._sibling_is_next = False
        if not formed.runs_alone:
            self._ahead = self._claimer.submit(self._claim_ahead, ends)
        try:
            return self._run(formed)
        finally:
            self._sibling_is_next = self._device.is_wanted
            self._is_free.set()
            share_s = (time.monotonic() - began) / max(1, len(formed))
            self._run_s += _SMOOTHING * (share_s - self._run_s)

    def _claim_ahead(self, ends: float) -> tuple[bool, Formed | None]:
        self._is_free.wait(max(0.0, ends - _LEAD_MARGIN * self._claim_s - time.monotonic()))
        self._gather()
        if self._sibling_is_next or self._device.is_wanted:
            return False, None  # another process may take the jobs meanwhile
        return True, self._timed_claim()

    def _timed_claim(self) -> Formed | None:
        began = time.monotonic()
        formed = self._claim()
        if formed is not None:
            self._claim_s += _SMOOTHING * (time.monotonic() - began - self._claim_s)
        return formed
