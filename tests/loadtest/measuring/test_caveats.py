"""Caveats: each is given when it is due, with its figures, and not when it isn't."""

import pytest

from loadtest.measuring.caveats import caveats, is_own_limit
from loadtest.measuring.figures import ALL, LEAVING, REST, Errors
from loadtest.sending.messages import Load
from tests.loadtest.points import LATENCY, NONE, client, figures

CLOSED = Load(8, is_open=False)
SLOW = {LEAVING: 20.0, ALL: 4.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"client": client(busy=0.95, lag=50)}, "had no spare CPU (95% of a core): use --processes 4"),
        ({"client": client(busy=0.9)}, ""),
        # The lag is judged by what is left of the mean (24 ms) without the tester's own share (0.5 ms).
        ({"client": client(lag=5.1)}, "woke up to 5.10 ms late (p99)"),
        ({"client": client(lag=5.0)}, ""),
        ({"client": client(lag=19), "latency_ms": LATENCY | {"mean": 200.0}}, ""),
        ({"client": client(lag=21), "latency_ms": LATENCY | {"mean": 200.0}}, "woke up to 21.0 ms late"),
        ({"client": client(lag=6), "latency_ms": NONE}, "woke up to 6.00 ms late"),
        ({"client": client(queued=7)}, "7 requests waited for a free connection"),
        ({"client": client(queued=7), "load": CLOSED}, ""),
        (
            {"stages_ms": SLOW},
            "20.0 of 24.0 ms arose in the load tester: this is its limit",
        ),
        ({"stages_ms": SLOW, "client": client(busy=0.99)}, "this is its limit"),
        ({"stages_ms": SLOW, "load": CLOSED}, ""),
        ({"stages_ms": {LEAVING: 6.0, ALL: 18.0}}, "6.00 of 24.0 ms arose in the load tester; use"),
        ({"stages_ms": {LEAVING: 2.4, ALL: 21.6}}, ""),
        ({"stages_ms": {LEAVING: 0.9, ALL: 0.1}, "latency_ms": LATENCY | {"mean": 1.0}}, ""),
        ({"per_s": 18.9}, "did not keep up: 20.0/s were sent, 18.9/s answered correctly"),
        ({"per_s": 19.1}, ""),
        (
            {"per_s": 0.0, "right": 0, "errors": {"http 400 bad_request": Errors(200, "top=50 is too much")}},
            "the service kept up: 20.0/s were sent, 20.0/s failed in a way that no load explains (http 400 "
            "bad_request: top=50 is too much).",
        ),
        ({"per_s": 0.0, "errors": {"http 400 bad_request": Errors(150, "no")}}, "did not keep up"),
        ({"per_s": 9.0, "errors": {"http 503 overloaded": Errors(110, "full")}}, "did not keep up"),
        ({"per_s": 14.9, "load": Load(20, is_open=True, poisson=True)}, ""),
        ({"per_s": 14.7, "load": Load(20, is_open=True, poisson=True)}, "did not keep up"),
        ({"per_s": 1.0, "load": CLOSED}, ""),
        ({"per_s": 1.0, "given_up": "its objective is missed"}, "its objective is missed: ended early"),
        ({"per_s": 1.0, "interrupted": 3}, "3 requests were unfinished"),
        ({"stages_ms": {LEAVING: 0.1, "model": 24.1, REST: 0.0}}, "its clock is wrong"),
        ({"stages_ms": {LEAVING: 0.1, "model": 23.9, REST: 0.0}}, ""),
        ({"stable": False}, "never became stable"),
        ({"stable": True}, ""),
        ({"warmup_failed": 7}, "7 requests of the warm-up failed."),
        (
            {"per_s": 0.0, "right": 0, "errors": {"http 401 unauthorized": Errors(20, "no key")}},
            "request was refused (http 401 unauthorized: no key). --api-key VARIABLE (or @FILE) sends a key.",
        ),
        (
            {"per_s": 0.0, "right": 0, "requests": 0, "given_up": "all failed (http 403 forbidden: no)"},
            "(http 403 forbidden: no): ended early. --api-key VARIABLE (or @FILE) sends another key.",
        ),
        ({"right": 190, "errors": {"http 401 unauthorized": Errors(10, "revoked")}}, ""),
    ],
)
def test_each_caveat(changes: dict[str, object], said: str) -> None:
    found = caveats([figures(**changes)])
    assert len(found) == bool(said), found
    assert all(said in text for text in found)
    assert all(text.startswith("20/s: ") for text in found)


def test_a_caveat_is_given_once_for_all_loads_with_the_last_ones_figures_the_gravest_first() -> None:
    points = [figures(Load(rate, is_open=True), warmup_failed=rate, per_s=rate) for rate in (0, 10, 20)]
    points[1].stages_ms = SLOW
    assert [text.split(":")[0] for text in caveats(points)] == ["10/s", "20/s"]
    assert caveats(points)[1] == "20/s: 20 requests of the warm-up failed. The same at 1 more."


def test_connections_that_are_all_in_use_are_the_server_s_limit_not_the_tester_s() -> None:
    assert is_own_limit(figures(stages_ms=SLOW))
    assert not is_own_limit(figures(stages_ms=SLOW, client=client(queued=1)))
