"""The figures as one picture: throughput and median latency by number of clients, a line a contender.

Owns the drawing (SVG or PNG, by the file's name). Measures nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from benchmarks.serving.figures import FiguresRow

_OURS: Final = "Batchwire"


def draw(rows: Sequence[FiguresRow], clients: Sequence[int], file: Path) -> None:
    """Write the file. Ours are thick, the rest thin; the limits are dotted."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, label in zip(figure.subplots(1, 2), ("pictures / s", "median latency, ms"), strict=True):
        for row in rows:
            counts = [count for count in clients if count in row.points]
            points = [row.points[count] for count in counts]
            is_rate = label.startswith("pictures")
            values = [point.per_s if is_rate else point.p50_ms for point in points]
            width = 2.6 if row.name.startswith(_OURS) else 1.1
            style = ":" if row.name.startswith("limit") else "-"
            axes.plot(counts, values, style, marker="o", markersize=3, linewidth=width, label=row.name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(clients), [str(count) for count in clients])
        axes.set(xlabel="clients", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[1].set_yscale("log")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
