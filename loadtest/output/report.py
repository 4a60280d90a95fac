"""The page of `--report`: one HTML file that needs nothing else, with every figure and its plots.

Owns the page. Must not compute figures. All words from outside are escaped by the template.
"""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtest.cli.units import shown
from loadtest.faults import account_text
from loadtest.measuring.figures import Figures, RunReport
from loadtest.output import plots

FOLDED_FROM: Final = 13
"""From so many points on each point's details are folded away."""

_COLOURS: Final = 8
"""Of stages, in the page's style sheet; the next one begins again."""


def render(report: RunReport) -> str:
    """Return the page. The same report gives the same page."""
    template = _environment().get_template("report.html")
    page = template.render(
        report=report,
        started=_started(report.started_at),
        command=shlex.join(["stress_test.py", *report.command]),
        lines=_lines(report),
        curve=plots.curve(report.points),
        plots=[plots.of_point(point, str(number)) for number, point in enumerate(report.points)],
        colours=_stage_colours(report.points),
        slowest_ms=max((sum(point.stages_ms.values()) for point in report.points), default=0.0),
        fault_heads=account_text.HEADS,
        fault_rows=account_text.rows(report.faults) if report.faults else [],
        fault_legend=account_text.LEGEND,
        folded=len(report.points) >= FOLDED_FROM,
    )
    return page.lstrip()


def _lines(report: RunReport) -> list[tuple[str, str, str]]:
    """Return what matters most, as (tone, mark, text): colour alone must not carry it."""
    lines = [("result", "Result", report.conclusion)] if report.conclusion else []
    # A search misses the objective on its way: what counts there is its result.
    for point in report.points if report.slo and not report.conclusion else ():
        if point.misses:
            lines.append(("bad", "Missed", f"{point.name}: {'; '.join(point.misses)}"))
        else:
            lines.append(("good", "Met", f"{point.name}: {report.slo}"))
    right, failed, interrupted = (
        sum(getattr(point, name) for point in report.points) for name in ("right", "failed", "interrupted")
    )
    if failed:
        lines.append(("bad", "Failed", f"{failed} of {right + failed} requests"))
    elif right:
        lines.append(("good", "Right", f"all {right} answers"))
    else:
        lines.append(("bad", "Nothing measured", "no answer was right"))
    if report.faults:
        tone, mark = ("good", "Faults") if report.faults.is_sound else ("bad", "Faults")
        lines.append((tone, mark, account_text.verdict(report.faults)))
    if interrupted:
        lines.append(("warn", "Interrupted", f"{interrupted} requests were stopped before they ended"))
    return lines + [("warn", "Warning", warning) for warning in report.warnings]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "percent": _percent,
        "mean_size": lambda point: point.mean_batch_size,
    }
    environment.globals["lags"] = lambda client: zip(("p50", "p99", "at most"), client.lag_ms, strict=False)
    return environment


def _started(text: str) -> str:
    """Show an ISO time without its fractions; as it is where it is none."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %Z}".strip()
    except ValueError:
        return text


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _stage_colours(points: list[Figures]) -> dict[str, int]:
    """Give each stage one colour on the whole page."""
    names = dict.fromkeys(name for point in points for name in point.stages_ms)
    return {name: number % _COLOURS for number, name in enumerate(names)}
