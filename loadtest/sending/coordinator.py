"""One run: points one after another, or a search; every record judged, counted and written.

Owns the order of a run and when a point ends early. Sends nothing itself (the crew does) and shows nothing
itself (the display does).
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from loadtest.cli import units
from loadtest.cli.options import Options
from loadtest.faults.disturbance import Disturbance
from loadtest.faults.ledger import Ledger
from loadtest.measuring import search
from loadtest.measuring.caveats import is_tester_in_doubt
from loadtest.measuring.columns import Columns
from loadtest.measuring.consistency import Judge
from loadtest.measuring.early_stop import Lookout
from loadtest.measuring.figures import FaultAccount, Figures
from loadtest.measuring.slo import Slo
from loadtest.sending.client_pool import START_DELAY_S, Crew
from loadtest.sending.messages import Load, Record
from loadtest.sending.model_facts import Server

_LOOK_S: Final = 0.25
_CALIBRATION_S: Final = 3.0
_CALIBRATION_CLIENTS: Final = 8

_LEAST_REQUESTS: Final = 20
"""What a rate that is only tried is judged by, at least."""


class _Ended(Exception):
    """No more loads: the user stopped the run, or every request fails alike."""


class Display(Protocol):
    """Where a run is shown while it goes on."""

    def begin(self, name: str, columns: Columns, duration_s: float | None, requests: int | None) -> None:
        """A point begins."""

    def look(self) -> None:
        """Show how it stands."""

    def end(self, figures: Figures) -> None:
        """A point has ended."""

    def say(self, text: str) -> None:
        """Tell the user something now."""


@dataclass
class RunSummary:
    """What a run gave."""

    points: list[Figures] = field(default_factory=list)
    conclusion: str = ""
    met: bool = True
    """Whether the objective, if there is one, was met."""
    interrupted: bool = False
    faults: FaultAccount | None = None
    """What became of the requests, where faults struck."""


class Coordinator:
    """Carries out one run. `interrupt` may be called at any time from the event loop."""

    def __init__(
        self, options: Options, crew: Crew, server: Server, display: Display, ledger: Ledger | None
    ) -> None:
        self._options = options
        self._crew = crew
        self._server = server
        self._display = display
        self._ledger = ledger
        self._judge = Judge()
        self._begun: list[list[int]] = []
        self._is_hopeless = False
        self._disturbance = Disturbance(options, ledger, display.say)
        self.outcome = RunSummary()

    def interrupt(self) -> None:
        """Send no more and wait for what is out; the second time, do not wait. The figures follow."""
        if not self.outcome.interrupted:
            self._display.say(
                "Interrupted: waiting for unfinished requests. Interrupt again to stop at once."
            )
        self._disturbance.stop(abandon=self.outcome.interrupted)
        self._crew.halt(abandon=self.outcome.interrupted)
        self.outcome.interrupted = True

    async def run(self) -> RunSummary:
        """Apply every load, or search."""
        try:
            with contextlib.suppress(_Ended):
                if self._options.searches:
                    self.outcome.met = False
                    await self._search()
                else:
                    for load in self._options.loads:
                        await self._measured(load)
        finally:
            self._disturbance.stop()
            await self._disturbance.wait()
        if not self._options.searches:
            self.outcome.met = not any(point.misses for point in self.outcome.points)
        self.outcome.faults = self._disturbance.account(self.outcome.points, self._begun)
        if self._ledger:
            self._ledger.close(self._begun)
        return self.outcome

    async def _search(self) -> None:
        """Find the highest rate that meets the objective; every rate tried is a point."""
        bounds = [load.value for load in self._options.loads]
        if bounds:
            found = await search.highest(
                self._meets, first=bounds[0], low=bounds[0], high=bounds[1], within=self._options.within
            )
        else:
            # A closed loop tells about how much there is to be had: fewer rates are tried from there.
            load = Load(_CALIBRATION_CLIENTS, is_open=False)
            figures = await self._point(load, _CALIBRATION_S, None, 0.0, slo=None)
            if not figures.right:
                self.outcome.points.append(figures)
                self.outcome.met = False
                self.outcome.conclusion = "No request got a right answer, so the search ends."
                return
            first = figures.per_s or search.LOWEST_RATE
            found = await search.highest(self._meets, first=first, within=self._options.within)
        self.outcome.met = found.rate is not None
        self.outcome.conclusion = self._conclusion(found)

    async def _meets(self, rate: float) -> bool:
        load = Load(rate, is_open=True, poisson=self._options.poisson)
        figures = await self._measured(load)
        return not figures.misses

    def _conclusion(self, found: search.RateSearch) -> str:
        slo = self._options.slo.text if self._options.slo else ""
        if found.rate is None:
            return f"{slo} is not met at any rate tried, the lowest of them {units.shown(found.missed)}/s."
        if found.missed is None:
            return f"{slo} is met at {units.shown(found.rate)} requests/s, the highest rate allowed."
        missed = [point for point in self.outcome.points if point.misses and point.load.value > found.rate]
        lowest = min(missed, key=lambda point: point.load.value)
        whose = (
            " The load tester itself was late there: the limit may be its own."
            if is_tester_in_doubt(lowest)
            else ""
        )
        return (
            f"{slo} is met up to {units.shown(found.rate)} requests/s, twice; "
            f"at {units.shown(lowest.load.value)}/s {' and '.join(lowest.misses)}.{whose}"
        )

    async def _measured(self, load: Load) -> Figures:
        """Apply one load as the options say, and judge it."""
        options = self._options
        if self.outcome.interrupted:
            raise _Ended
        duration_s = options.duration_s
        if options.searches and duration_s is not None:
            # A slow rate needs longer to tell anything.
            duration_s = max(duration_s, options.warmup_s + _LEAST_REQUESTS / load.value)
        figures = await self._point(load, duration_s, options.requests, options.warmup_s, slo=options.slo)
        self.outcome.points.append(figures)
        if self._is_hopeless:
            raise _Ended
        return figures

    async def _point(
        self, load: Load, duration_s: float | None, requests: int | None, warmup_s: float, *, slo: Slo | None
    ) -> Figures:
        columns = Columns(load, time.monotonic() + START_DELAY_S)
        self._disturbance.begin_point(columns.start)
        self._display.begin(load.name, columns, duration_s, requests)
        lookout = Lookout(self._options, columns, duration_s, warmup_s, self._disturbance.has_struck)

        def take(records: list[Record]) -> None:
            for record in records:
                self._judge.judge(record)
                columns.add(record)
                self._disturbance.add(len(self._begun), record)
                if self._ledger:
                    self._ledger.add(len(self._begun), record)

        def note(at: float, jobs: int) -> None:
            columns.queue.append((at, jobs))

        beside = [
            asyncio.create_task(self._server.watch(self._options.traffic, note)),
            asyncio.create_task(self._look(lookout)),
        ]
        try:
            done = await self._crew.apply(
                load, start=columns.start, duration_s=duration_s, requests=requests, take=take
            )
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        self._begun.append([each.begun for each in done])
        stable = None if self._options.stable is None else lookout.settled is not None
        figures = columns.figures(done, warmup_s=warmup_s, begin=lookout.settled, stable=stable)
        figures.given_up = lookout.given_up
        self._is_hopeless = lookout.is_hopeless
        if slo:
            begin = warmup_s if lookout.settled is None else lookout.settled
            figures.misses = slo.misses(*columns.latencies_s(begin))
        self._display.end(figures)
        return figures

    async def _look(self, lookout: Lookout) -> None:
        """Show how the point stands, and halt it when there is nothing more to learn, until cancelled."""
        halted = False
        while True:
            await asyncio.sleep(_LOOK_S)
            self._display.look()
            if not halted and lookout.has_seen_enough():
                self._crew.halt()
                halted = True
