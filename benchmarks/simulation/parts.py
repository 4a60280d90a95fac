"""What computes in a simulation, and how busy it was: threads, the cores that they share, levels over time.

Owns turns, time slices and the account of both. Knows no picture.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import simpy

_T = TypeVar("_T")

Steps: TypeAlias = Generator[simpy.Event, Any, _T]
"""A part of a simulated process: it yields what it waits for, and returns a value."""

_SLICE_S: Final = 0.003
"""For so long a thread keeps a core while others wait for one: Linux' base slice on two cores."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time that counts: what was before is the warm-up."""

    begins: float
    ends: float

    @property
    def length_s(self) -> float:
        """In seconds."""
        return self.ends - self.begins

    def part_of(self, began: float, ended: float) -> float:
        """Seconds of a span that lie within."""
        return max(0.0, min(ended, self.ends) - max(began, self.begins))

    def __contains__(self, at: float) -> bool:
        return self.begins <= at < self.ends


class Level:
    """A number that changes in steps: its mean over the window, and its maximum."""

    def __init__(self, env: simpy.Environment, window: Window) -> None:
        self._env = env
        self._window = window
        self._since = 0.0
        self._sum = 0.0
        self.value = 0
        self.most = 0

    def add(self, change: int) -> None:
        """Change it now."""
        now = self._env.now
        self._sum += self.value * self._window.part_of(self._since, now)
        self._since = now
        self.value += change
        if now in self._window:
            self.most = max(self.most, self.value)

    @property
    def mean(self) -> float:
        """Over the window, once that is over."""
        rest = self.value * self._window.part_of(self._since, self._env.now)
        return (self._sum + rest) / self._window.length_s


class Turns:
    """So many places, given in the order in which they were asked for.

    simpy.Resource does the same by two events for each place, also where nobody waits: half of a run's time.
    """

    def __init__(self, env: simpy.Environment, places: int) -> None:
        self._env = env
        self._free = places
        self._waiting: deque[simpy.Event] = deque()

    def take(self) -> Steps[None]:
        """Wait for a place; who has one gives it back by `leave`."""
        if self._free:
            self._free -= 1
            return
        turn = self._env.event()
        self._waiting.append(turn)
        yield turn

    def leave(self) -> None:
        """Give the place to whoever has waited the longest."""
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self._free += 1


class Machine:
    """Cores that threads share in turn."""

    def __init__(self, env: simpy.Environment, window: Window, cores: int) -> None:
        self._env = env
        self._window = window
        self._places = Turns(env, cores)
        self.cores = cores
        self.busy_s = 0.0
        """Of all cores together, within the window."""

    def run(self, seconds: float) -> Steps[None]:
        """Compute for so long, slice by slice."""
        while seconds > 0:
            slice_s = min(seconds, _SLICE_S)
            yield from self._places.take()
            began = self._env.now
            yield self._env.timeout(slice_s)
            self._places.leave()
            self.busy_s += self._window.part_of(began, began + slice_s)
            seconds -= slice_s


class Thread:
    """What does one thing at a time: Redis' thread, or a process' Python code, which has one lock.

    On a machine it needs a core besides; without one it has its own.
    """

    def __init__(self, env: simpy.Environment, window: Window, machine: Machine | None = None) -> None:
        self._env = env
        self._window = window
        self._turns = Turns(env, 1)
        self._machine = machine
        self.busy_s = 0.0
        """Within the window."""

    def run(self, seconds: float) -> Steps[None]:
        """Compute for so long, once it is this one's turn."""
        if seconds > 0:
            yield from self.act(lambda: seconds)

    def act(self, action: Callable[[], float]) -> Steps[None]:
        """Do something once it is this one's turn; it says how many seconds that takes."""
        yield from self._turns.take()
        seconds, began = action(), self._env.now
        if seconds > 0 and self._machine is None:
            yield self._env.timeout(seconds)
        elif seconds > 0 and self._machine is not None:
            yield from self._machine.run(seconds)
        self._turns.leave()
        self.busy_s += min(seconds, self._window.part_of(began, self._env.now))
