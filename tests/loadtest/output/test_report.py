"""The page of --report, read as a browser reads it."""

import re

import pytest

from loadtest.measuring.figures import Bin, ClientFigures, Errors, OfModel, RunReport, Slice
from loadtest.output.report import FOLDED_FROM, render
from tests.loadtest.page import HOSTILE, SWEEP, Page, page, sweep
from tests.loadtest.reports import UNDRAWN, empty, failing, latencies, point, report


@pytest.mark.slow
def test_the_page_needs_no_network_and_runs_nothing() -> None:
    text = sweep()
    found = Page(text)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert {link[:1] for link in found.all("href") if link != "data:,"} == {"#"}
    assert not found.all("src")
    assert "://" not in text.replace(SWEEP.target, "")
    assert "@import" not in text


@pytest.mark.slow
def test_ids_are_unique_and_every_reference_is_met() -> None:
    text = render(report(point(8), point(8), failing(8)))
    ids = Page(text).all("id")
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {
        pair for each in ids for pair in ((each, ""), ("", each))
    }


@pytest.mark.slow
def test_the_same_report_gives_the_same_page() -> None:
    assert render(SWEEP) == sweep()


def test_the_head_tells_what_was_tested_when_and_how() -> None:
    found = page(slo="p99=200ms", started_at="2026-03-02T09:41:07.123456+00:00", command=["a b", "--top=3"])
    assert "Load test of http://localhost:5000\n" in found.text
    assert "2026-03-02 09:41:07 UTC · 8 pictures · objective p99=200ms" in found.text
    assert "stress_test.py 'a b' --top=3" in found.text


def test_a_time_that_is_none_is_shown_as_it_is() -> None:
    assert "yesterday · 1 picture\n" in page(started_at="yesterday", pictures=1).text


def test_the_table_holds_every_point() -> None:
    assert Page(sweep()).tables[0] == [
        ["Load", "answers/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "max ms", "failed", "mean batch"],
        ["1 client", "149", "24.0", "36.0", "42.0", "60.0", "96.0", "0", "5.96"],
        ["8 clients", "400", "52.0", "78.0", "91.0", "130", "208", "0", "5.96"],
        ["32 clients", "149", "148", "222", "259", "370", "592", "9", "5.96"],
    ]


@pytest.mark.slow
def test_objectives_failures_and_warnings_stand_out() -> None:
    missed = failing(
        misses=["p99 is 400 ms, not 200 ms", "9 of 1492 requests failed"], interrupted=3, **UNDRAWN
    )
    found = page(point(**UNDRAWN), missed, slo="p99=200ms", warnings=["the client was busy"])
    assert found.lines[:5] == [
        "Met: 8 clients: p99=200ms",
        "Missed: 32 clients: p99 is 400 ms, not 200 ms; 9 of 1492 requests failed",
        "Failed: 9 of 2984 requests",
        "Interrupted: 3 requests were stopped before they ended",
        "Warning: the client was busy",
    ]
    assert found.tables[0][2][0] == "32 clients missed"


def test_a_search_shows_its_result_and_not_what_it_missed_on_the_way() -> None:
    tried = point(misses=["p99 is 400 ms, not 200 ms"], **UNDRAWN)
    found = page(tried, point(1, **UNDRAWN), slo="p99=200ms", conclusion="1 client meets it")
    assert found.lines == [
        "Result: 1 client meets it",
        "Right: all 2984 answers",
        "Missed: p99 is 400 ms, not 200 ms",
    ]


def test_a_point_says_what_it_is_made_of() -> None:
    found = page(failing(stable=False, warmup_failed=2, **UNDRAWN))
    facts = " ".join(found.text.split())
    assert "1492 requests in 10.0 s: 1483 right, 9 failed. Mean 163 ms, p99.9 518 ms." in facts
    assert "Not counted: 150 requests of the warm-up, 2 of them failed. It did not become stable." in facts
    assert "2 processes, the busiest with 12.3 % of a core; 0.750 ms of CPU for each request." in facts
    assert "It woke late by 0.125 ms (p50), 1.38 ms (p99), 8.50 ms (at most)." in facts
    assert found.tables[-1] == [
        ["Kind", "count", "the first of them"],
        ["timeout", "9", "no answer within 15 s"],
    ]


def test_requests_that_found_no_free_connection_are_told() -> None:
    client = ClientFigures(processes=1, busy=0.5, cpu_ms_per_request=None, queued=7, lag_ms=[])
    facts = " ".join(page(point(client=client, **UNDRAWN)).text.split())
    assert "1 process, the busiest with 50.0 % of a core. All connections were in use for 7 requests" in facts


def test_stages_add_up() -> None:
    assert page(point(8, **UNDRAWN)).tables[1] == [
        ["Stage", "mean ms", "share"],
        ["waiting for a connection", "0.250", "0.5 %"],
        ["queue", "20.8", "39.8 %"],
        ["inference", "31.2", "59.7 %"],
        ["in all", "52.2", ""],
    ]


def test_models_of_a_mixed_load() -> None:
    models = {"": OfModel(100, 99, 12.5, 40.0), "digits": OfModel(3, 0, None, None)}
    assert page(point(models=models, **UNDRAWN)).tables[2][1:] == [
        ["(default)", "100", "99", "12.5", "40.0"],
        ["digits", "3", "0", "-", "-"],
    ]


@pytest.mark.slow
def test_words_from_outside_are_words_and_nothing_else() -> None:
    hostile = point(
        8,
        name=HOSTILE,
        failed=1,
        errors={HOSTILE: Errors(1, HOSTILE)},
        stages_ms={HOSTILE: 3.0, "解码": 2.0},
        models={HOSTILE: OfModel(1, 1, 1.0, 1.0), "b": OfModel(1, 1, 1.0, 1.0)},
        misses=[HOSTILE],
    )
    words = {
        "target": HOSTILE,
        "slo": HOSTILE,
        "warnings": [HOSTILE],
        "conclusion": HOSTILE,
        "started_at": HOSTILE,
    }
    text = render(report(hostile, hostile, **words, command=[HOSTILE]))
    found = Page(text)
    assert "<script" not in text
    assert found.text.count(HOSTILE) >= len(words) + 2 * 7
    assert all(HOSTILE in image for image in found.images[1:])


ONE_REQUEST = point(
    1,
    requests=1,
    right=1,
    queue=[(0.5, 0)],
    batch_sizes={1: 1},
    latency_ms=dict.fromkeys(latencies(1), 0.052),
    over_time=[Slice(0.25, 2.0, 0.052, 0.052, 0)],
    histogram=[Bin(0.052, 0.0525, 1)],
)
ALL_FAILED = empty(requests=3, failed=3, over_time=[Slice(0.25, 0.0, None, None, 3)], queue=[(0.0, 0)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "report_",
    [
        report(),
        report(empty()),
        report(empty(), empty()),
        report(ONE_REQUEST, ONE_REQUEST),
        report(ALL_FAILED),
        report(*[point(stages_ms={"queue": 0.0}, per_s=0.0, **UNDRAWN)] * 2),
        report(point(**{**UNDRAWN, "batch_sizes": {512: 1}})),
        report(
            point(**{**UNDRAWN, "over_time": [Slice(n, 1e5, 0.01 * 10**n, None, 0) for n in range(1, 8)]})
        ),
    ],
    ids=["no point", "no answer", "no answers", "twice one", "all failed", "zeros", "big", "wide"],
)
def test_little_or_odd_figures_are_no_trouble(report_: RunReport) -> None:
    assert "nan" not in Page(render(report_)).text


@pytest.mark.slow
def test_what_has_no_right_answer_says_so() -> None:
    found = page(empty())
    assert found.lines == ["Nothing measured: no answer was right"]
    assert found.tables[0][1] == ["1 client", "-", "-", "-", "-", "-", "-", "0", "-"]
    assert found.images == []
    assert page(ALL_FAILED).lines == ["Failed: 3 of 3 requests"]


@pytest.mark.slow
def test_many_points_are_folded_away() -> None:
    few = page(*[empty()] * (FOLDED_FROM - 1))
    many = page(*[empty()] * FOLDED_FROM)
    assert [tag for tag, _ in few.tags].count("details") == 0
    assert [attributes for tag, attributes in many.tags if tag == "details"] == [{}] * FOLDED_FROM
