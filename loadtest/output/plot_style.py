"""The style of the plots: SVG made by matplotlib, fit to stand inside a page.

Owns the look of all plots; their colours are CSS variables of the page, for light and dark screens. Must not
use pyplot, which looks for a screen, nor draw words from outside: matplotlib takes `$` for mathematics, and
warns of letters that its font lacks.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_ROLES: Final = ("ink", "soft", "grid", "p50", "p95", "p99", "failed", "rate")
# matplotlib knows no CSS variables: what has a role gets a colour of its own, replaced afterwards.
_COLOUR: Final = {role: f"#abc1{number:02x}" for number, role in enumerate(_ROLES)}

_LINES: Final = {"p50": ("-", "o"), "p95": (":", "D"), "p99": ("--", "s")}
_WIDTH: Final = 400
_FEW: Final = 30
_ROOM: Final = (3.5, 14)  # half a letter's width and a line's height, in pixels

STYLE: Final[dict[Any, Any]] = {
    "font.size": 12,
    "svg.fonttype": "none",
    "text.color": _COLOUR["ink"],
    "text.parse_math": False,
    "axes.axisbelow": True,
    "axes.edgecolor": _COLOUR["grid"],
    "axes.grid": True,
    "axes.labelcolor": _COLOUR["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _COLOUR["grid"],
    "legend.frameon": False,
    "lines.markersize": 4.5,
    **{f"{axis}tick.color": _COLOUR["soft"] for axis in "xy"},
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
}
"""For `rc_context` around all that makes a figure."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing. `svg` is safe to be put into a page as it is."""

    title: str
    svg: str


def new_figure(height: int, *, head: int = 28) -> Figure:
    """Return an empty figure, its size in pixels where it is 400 wide; `head` is left for a legend."""
    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    # Room for the words around the axes. matplotlib can find it out, but that takes half of all the time.
    figure.subplots_adjust(0.16, 38 / height, 0.97, 1 - head / height, hspace=0.4)
    return figure


def line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw a percentile, with marks where its values are few."""
    style, mark = _LINES[name]
    axes.plot(x, y, style, color=_COLOUR[name], marker=mark if len(x) <= _FEW else "", label=name)


def upright(axes: Axes, name: str, x: float, label: str) -> None:
    """Draw a percentile as an upright line."""
    axes.axvline(x, color=_COLOUR[name], linestyle=_LINES[name][0], linewidth=1.8, label=label)


def area(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Draw what is counted over time, from 0; one value alone as a mark."""
    axes.fill_between(x, y, color=_COLOUR["rate"], alpha=0.25, linewidth=0)
    axes.plot(x, y, color=_COLOUR["rate"], marker="o" if len(x) == 1 else "", label=label)


def bars(axes: Axes, x: Sequence[float], heights: Sequence[float], widths: Sequence[float]) -> None:
    """Draw bars from their left edges."""
    axes.bar(x, heights, widths, align="edge", color=_COLOUR["rate"], alpha=0.55)
    axes.set_ylabel("answers")
    plain_ticks(axes.yaxis, whole=True)


def crosses(axes: Axes, x: Sequence[float], label: str) -> None:
    """Mark places below the upper edge."""
    place = axes.get_xaxis_transform()
    axes.plot(x, [0.92] * len(x), "x", color=_COLOUR["failed"], transform=place, label=label)


def strikes(axes: Axes, x: Sequence[float], label: str = "") -> None:
    """Draw moments at which the service was struck, behind all else; those outside the axes are left out."""
    low, high = axes.get_xlim()
    for number, each in enumerate(each for each in x if low <= each <= high):
        shown = label if number == 0 and label else "_"
        axes.axvline(each, color=_COLOUR["failed"], linewidth=1, alpha=0.45, zorder=0.5, label=shown)


def names(axes: Axes, marks: Sequence[tuple[float, float, str]]) -> None:
    """Write names above marks, the ends' first; what has no room is left out."""
    taken: list[tuple[float, float, int]] = []
    for x, y, name in [marks[-1], marks[0], *marks[1:-1]]:
        across, up = axes.transData.transform((x, y))
        if all(abs(across - a) > _ROOM[0] * (len(name) + n) or abs(up - b) > _ROOM[1] for a, b, n in taken):
            taken.append((across, up, len(name)))
            axes.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=11)


def legend(axes: Axes) -> None:
    """Put the legend above the axes, where nothing is drawn."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def latency_scale(axes: Axes, values: Sequence[float]) -> None:
    """Scale the upright axis for latencies in ms: from 0, or logarithmic where they are far apart."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0), max(known, default=1) or 1
    if low > 0 and high / low > 10:
        axes.set(ylabel="ms", yscale="log", ylim=(low / 1.3, high * 1.4))
    else:
        axes.set(ylabel="ms", ylim=(0, high * 1.2))
    plain_ticks(axes.yaxis)


def plain_ticks(axis: Axis, *, whole: bool = False, most: int = 5) -> None:
    """Number an axis in plain decimals, closely enough to read a value where it is logarithmic."""
    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and high / low > 10:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    else:
        axis.set_major_locator(MaxNLocator(most, steps=(1, 2, 2.5, 5, 10), integer=whole))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def finished(figure: Figure, title: str, described: str, salt: str) -> Plot:
    """Return the drawing. `described` is for those who can't see it; `salt` keeps ids unique in the page."""
    with rc_context({"svg.hashsalt": f"{salt} {title}"}):
        figure.savefig(file := io.StringIO(), format="svg", transparent=True)
    box = f'viewBox="0 0 {_WIDTH} {figure.get_figheight() * 72:.0f}"'
    return Plot(title, f'<svg {box} role="img" aria-label="{escape(described)}">{_inside(file.getvalue())}')


def _inside(svg: str) -> str:
    """Return what follows the opening tag, in a third of its size."""
    svg = " ".join(svg[svg.index("</metadata>") + len("</metadata>") :].split())
    # matplotlib's own style sheet would hold for the whole page, and its groups' ids occur in every figure.
    svg = re.sub(r"<style.*?</style>| id=\"[\w.]+_\d+\"|font-family: [^;\"]+;?", "", svg)
    svg = re.sub("<[^>]+>", lambda tag: re.sub(r"(\.\d)\d+", r"\1", tag[0]), svg).replace(
        "xlink:href", "href"
    )
    return re.sub("#abc1(..)", lambda colour: f"var(--{_ROLES[int(colour[1], 16)]})", svg)
