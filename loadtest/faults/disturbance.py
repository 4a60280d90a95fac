"""What befalls the service while a run goes on: the strikes, and the account of the requests around them.

Owns what the coordinator would otherwise know of faults. A run without faults has one, too: it does nothing.
"""

from bisect import bisect_right
from collections.abc import Callable

from loadtest.cli.options import Options
from loadtest.faults.attribution import Aftermath
from loadtest.faults.fault_commands import Faults
from loadtest.faults.ledger import Ledger
from loadtest.measuring.figures import FaultAccount, Figures, Strike
from loadtest.sending.messages import Record


class Disturbance:
    """Of one run. `say` tells the user of a strike that failed, at once."""

    def __init__(self, options: Options, ledger: Ledger | None, say: Callable[[str], None]) -> None:
        self._commands = options.faults
        self._ledger = ledger
        self._say = say
        self._faults = Faults(
            options.faults, every_s=options.every_s, seed=options.traffic.seed, struck=self._note
        )
        self._aftermath = Aftermath()
        self._strikes: list[Strike] = []
        self._starts: list[float] = []

    def begin_point(self, start: float) -> None:
        """Note that a point begins; with the first, the strikes' schedule does."""
        if self._commands and not self._starts:
            self._faults.start()
        self._starts.append(start)

    def add(self, point: int, record: Record) -> None:
        """Take one record."""
        if self._commands:
            self._aftermath.add(point, record)

    def has_struck(self) -> bool:
        """Whether a strike has begun."""
        return self._faults.begun > 0

    def stop(self, *, abandon: bool = False) -> None:
        """Begin no more strikes; with `abandon`, kill the command that runs."""
        self._faults.end(abandon=abandon)

    async def wait(self) -> None:
        """Return when the last strike is over."""
        await self._faults.wait()

    def account(self, points: list[Figures], begun: list[list[int]]) -> FaultAccount | None:
        """Put each strike into the point in which it began, and sum up; None for a run without faults."""
        if not self._commands:
            return None
        for strike in self._strikes:
            number = max(0, bisect_right(self._starts, strike.began) - 1)
            points[number].strikes.append(strike.since(self._starts[number]))
        return self._aftermath.account(self._commands, self._strikes, sum(map(sum, begun)))

    def _note(self, strike: Strike) -> None:
        self._strikes.append(strike)
        if self._ledger:
            self._ledger.add_strike(strike)
        if strike.trouble:
            self._say(f"--fault {strike.fault}: {strike.trouble}")
