"""From stress_test.py's JSON and a run's raw figures to tables."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import load, report, tables

TOLD = {
    "requests": 90,
    "warmup_requests": 10,
    "failed": 1,
    "errors": {"status 503": {"count": 1, "example": "overloaded"}},
    "per_s": 45.0,
    "latency_ms": {"p50": 12.34, "p99": 99.9},
    "client": {"cpu_ms_per_request": 0.5},
}


def test_a_point_counts_the_cpu_of_every_request() -> None:
    found = load.point(TOLD, {"web": 0.6, "Redis": 0.05})
    assert (found.per_s, found.p50_ms, found.failed) == (45.0, 12.34, 1)
    assert found.cpu_ms == pytest.approx({"web": 6.0, "Redis": 0.5, "client": 0.5})
    assert found.errors == {"status 503: overloaded": 1}
    assert tables.cpu(found) == "6.50: web 6.00, Redis 0.50, client 0.50"


def test_a_load_of_which_nothing_came_back_has_no_latency() -> None:
    nothing: dict[str, Any] = {"requests": 0, "warmup_requests": 0, "per_s": None, "errors": {}}
    nothing |= {"latency_ms": {"p50": None, "p99": None}, "client": {"cpu_ms_per_request": None}}
    found = load.point(TOLD | nothing, {"web": 1.0})
    assert (found.per_s, found.cpu_ms) == (0.0, {})


@pytest.fixture
def found() -> dict[str, Any]:
    def measured(per_s: float) -> dict[str, Any]:
        latency = {"p50_ms": 32000 / per_s, "p99_ms": 64000 / per_s}
        return {"per_s": per_s, **latency, "requests": 9, "failed": 0, "cpu_ms": {"web": 2.0}}

    return {
        "machine": {"date": "2026-11-21", "cores": "2", "load": "load average 0", "python": "3.11.7"},
        "plan": {"rounds": 3, "seconds": 8.0, "clients": [32]},
        "contenders": {
            "Batchwire": {"decode": "draft", "is_peer": False},
            "other": {"decode": "full", "is_peer": True},
            "away": {"decode": "full", "is_peer": True},
        },
        "limits": {"limit": "full", "limit, draft": "draft"},
        "versions": {"other": "1.2"},
        "skipped": {"away": "no network"},
        "bare": {"8": [{"per_s": 50.0, "cpu_ms": 20.0}]},
        "points": {
            "limit": {"32": [measured(100.0)]},
            "limit, draft": {"32": [measured(120.0)]},
            "Batchwire": {"32": [measured(60.0), measured(108.0), measured(110.0)]},
            "other": {"32": [measured(90.0)]},
        },
        "held": {"Batchwire": [{"start_s": s, "rss_mb": 500, "pss_mb": 400} for s in (20.0, 2.0, 3.0)]},
        "null": {"Batchwire": {"32": [measured(300.0)]}},
        "headline": {
            "Batchwire": {"requests": 500, "failed": 0, "p50_ms": 30.0, "p99_ms": 60.4, "others": 0.0}
        },
        "stages": {
            "decode": {"own": 3.0, "redis": 0.0},
            "(full)": {"own": 8.0, "redis": 0.0},
            "claim": {"own": 0.1, "redis": 0.25},
        },
    }


def test_the_report_has_medians_ratios_and_what_was_skipped(found: dict[str, Any]) -> None:
    text = report.markdown(found)
    assert "| Batchwire | 108, 296 / 593 | 0 |" in text
    assert "| Batchwire | 0.90 | 1.20 | 2.00: web 2.00 | 2.50 | 500 | 400 |" in text
    assert "| limit | 1.00 |" in text
    assert "(!)" not in text
    assert "| Batchwire | 500 | 0 | 30 | 60 |" in text
    assert "away was skipped: no network" in text
    assert "other 1.2" in text


def test_what_others_spoiled_is_marked(found: dict[str, Any]) -> None:
    found["points"]["other"]["32"][0]["others"] = 0.9
    assert "| other | 90.0, 356 / 711 (!) | 0 |" in report.markdown(found)


def test_a_stage_in_brackets_is_an_alternative_and_not_in_the_sum(found: dict[str, Any]) -> None:
    assert "| all | 3.10 | 0.25 |" in report.markdown(found)


def test_a_run_that_was_cut_short_still_has_its_report(found: dict[str, Any]) -> None:
    empty: dict[str, Any] = {key: {} for key in ("bare", "points", "held", "null", "headline", "stages")}
    assert "2026-11-21" in report.markdown(found | empty)


@pytest.mark.slow
def test_the_plot_is_drawn(found: dict[str, Any], tmp_path: Path) -> None:
    report.plot(found, tmp_path / "x.svg")
    assert "Batchwire" in (tmp_path / "x.svg").read_text()
