"""One simulated run as a table.

Owns the words and the units. Computes nothing.
"""

from benchmarks.simulation.service import SimulatedRun
from loadtest.cli.units import shown


def table(found: SimulatedRun, processor: str) -> str:
    """The figures of a run, for people."""
    rows = [
        ("offered", f"{shown(found.offered_per_s)} pictures/s"),
        ("answered", f"{shown(found.answered_per_s)} pictures/s"),
        ("refused (503)", f"{shown(found.refused_per_s)} pictures/s"),
        ("too late (504)", f"{shown(found.late_per_s)} pictures/s"),
        (
            "latency",
            f"p50 {shown(found.p50_ms)} ms, p95 {shown(found.p95_ms)} ms, p99 {shown(found.p99_ms)} ms, "
            f"longest {shown(found.most_ms)} ms",
        ),
        ("batch", f"{shown(found.batch_size)} pictures, mean"),
        ("queue", f"{shown(found.queue_mean)} jobs, mean; {found.queue_most} at most"),
        ("in flight", f"{shown(found.in_flight_mean)} pictures, mean"),
    ]
    lines = [f"{name:24}{text}" for name, text in rows]
    lines.append(f"\n{'part':24}{'busy':>6}  saturates at")
    for part in found.parts:
        at = "-" if part.saturates_at_per_s is None else f"{shown(part.saturates_at_per_s)} pictures/s"
        lines.append(f"{part.part:24}{part.use:6.0%}  {at}")
    lines.append(f"\n{found.parts[0].part} saturate first. Costs of {processor}.\n")
    return "\n".join(lines)
