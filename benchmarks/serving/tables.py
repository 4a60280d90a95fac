"""The figures as Markdown, for the terminal and docs/performance.md.

Pure: gets medians, returns text.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from benchmarks.serving import figures
from benchmarks.serving.figures import FiguresRow, Ratio
from benchmarks.serving.load import Point
from benchmarks.serving.machine import QUIET_CORES

NOTHING: Final = "-"
DISTURBED: Final = " (!)"
"""Behind what was measured while other programs took more than a little of the machine in every round."""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def throughput(rows: Sequence[FiguresRow], clients: Sequence[int]) -> str:
    """Pictures a second and latency, by number of clients."""
    head = ["pictures/s, p50 / p99 ms", *(f"{_clients(count)}" for count in clients), "failed"]
    return markdown(head, [_throughput(row, clients) for row in rows])


def _throughput(row: FiguresRow, clients: Sequence[int]) -> list[str]:
    failed = sum(point.failed for point in row.points.values())
    return [row.name, *(_cell(row.points.get(count)) for count in clients), str(failed)]


def costs(
    rows: Sequence[FiguresRow], limits: Sequence[FiguresRow], clients: int, held: dict[str, dict[str, float]]
) -> str:
    """Ratios, CPU milliseconds a request by kind of process, start and memory."""
    head = ["", "to the limit", "to the best other", "CPU ms a request", "start s", "RSS MB", "PSS MB"]
    found = []
    for row in rows:
        ratios = (
            figures.to_limit(row, limits, clients),
            figures.to_best_other(row, rows, clients),
        )
        point, other = row.points.get(clients), held.get(row.name, {})
        found.append(
            [
                row.name,
                *map(_ratio, ratios),
                cpu(point) if point else NOTHING,
                *(_number(other.get(key)) for key in ("start_s", "rss_mb", "pss_mb")),
            ]
        )
    return markdown([f"{_clients(clients)}", *head[1:]], found)


def cpu(point: Point) -> str:
    """`7.3: web 5.9, Redis 0.5, ...`. The client is shown, and left out of the sum."""
    servers = {kind: spent for kind, spent in point.cpu_ms.items() if kind != "client"}
    parts = ", ".join(f"{kind} {_number(spent)}" for kind, spent in point.cpu_ms.items())
    return f"{_number(sum(servers.values()))}: {parts}" if parts else NOTHING


def stages(found: dict[str, dict[str, Any]]) -> str:
    """What each stage of Batchwire's path costs, in CPU milliseconds a picture."""
    rows = [
        [name, _number(cost["own"]), _number(cost["redis"]) if cost["redis"] else NOTHING]
        for name, cost in found.items()
    ]
    counted = [cost for name, cost in found.items() if not name.startswith("(")]
    total = [sum(float(cost[key]) for cost in counted) for key in ("own", "redis")]
    rows.append(["all", *map(_number, total)])
    return markdown(["CPU ms a picture", "in the process", "in Redis"], rows)


def _ratio(ratio: Ratio | None) -> str:
    return NOTHING if ratio is None else f"{ratio.value:.2f}{DISTURBED * ratio.is_disturbed}"


def _cell(point: Point | None) -> str:
    if point is None:
        return NOTHING
    mark = DISTURBED * (point.others > QUIET_CORES)
    return f"{_number(point.per_s)}, {_number(point.p50_ms)} / {_number(point.p99_ms)}{mark}"


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _number(value: float | None) -> str:
    """Three digits."""
    if value is None or value != value:  # noqa: PLR0124 - nan
        return NOTHING
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"
