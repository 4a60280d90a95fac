"""The table of --csv, read back as others read it."""

import csv
import io

import pytest

from loadtest.measuring.figures import RunReport
from loadtest.output import csv_file
from loadtest.sending.messages import Load
from tests.loadtest.reports import empty, failing, point, report

ROW = {
    "name": "8 clients",
    "loop": "closed",
    "value": "8",
    "poisson": "false",
    "seconds": "10.0",
    "requests": "1492",
    "right": "1483",
    "failed": "9",
    "interrupted": "0",
    "per_s": "149.2",
    "mean_ms": "57.2",
    "p50_ms": "52.0",
    "p90_ms": "78.0",
    "p95_ms": "91.0",
    "p99_ms": "130.0",
    "p99_9_ms": "182.0",
    "max_ms": "208.0",
    "mean_batch_size": str(round((92 + 4 * 600 + 8 * 800) / 1492, 6)),
    "stage_waiting_for_a_connection_ms": "0.25",
    "stage_queue_ms": "20.8",
    "stage_inference_ms": "31.2",
    "queue_mean": "1.5",
    "queue_max": "3",
    "client_busy": "0.123",
    "client_lag_p99_ms": "1.375",
}


def rows(written: RunReport) -> list[dict[str, str]]:
    file = io.StringIO(newline="")
    csv_file.write(written, file)
    return list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))


def test_every_figure_comes_back_under_its_name_and_in_its_place() -> None:
    assert [list(row.items()) for row in rows(report(failing(8)))] == [list(ROW.items())]


def test_a_run_without_points_still_has_its_header() -> None:
    file = io.StringIO()
    csv_file.write(report(), file)
    assert file.getvalue().splitlines() == [",".join(name for name in ROW if "stage" not in name)]


def test_an_open_loop_and_its_arrivals() -> None:
    row = rows(report(point(load=Load(20.0, is_open=True, poisson=True))))[0]
    assert (row["name"], row["loop"], row["value"], row["poisson"]) == (
        "20/s Poisson",
        "open",
        "20.0",
        "true",
    )


def test_what_has_no_figure_is_empty() -> None:
    row = rows(report(empty()))[0]
    nothing = {name for name, cell in row.items() if cell == ""}
    latencies = {name for name in ROW if name.endswith("_ms") and not name.startswith(("stage", "client"))}
    assert nothing == latencies | {"per_s", "mean_batch_size", "queue_mean", "queue_max"}


def test_a_stage_that_one_point_lacks_is_empty_there() -> None:
    first, second = rows(report(point(stages_ms={"queue": 1.5}), point(stages_ms={"decode": 2.5})))
    assert (first["stage_queue_ms"], first["stage_decode_ms"]) == ("1.5", "")
    assert (second["stage_queue_ms"], second["stage_decode_ms"]) == ("", "2.5")


def test_stages_of_similar_names_keep_a_column_each() -> None:
    row = rows(report(point(stages_ms={"post-process": 1.0, "Post process": 2.0, "解码": 3.0, "後": 4.0})))[0]
    assert {name: cell for name, cell in row.items() if name.startswith("stage")} == {
        "stage_post_process_ms": "1.0",
        "stage_post_process_2_ms": "2.0",
        "stage_unnamed_ms": "3.0",
        "stage_unnamed_2_ms": "4.0",
    }


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_becomes_a_formula(name: str) -> None:
    assert rows(report(point(name=name)))[0]["name"] == f"'{name}"


def test_a_negative_number_stays_a_number() -> None:
    assert rows(report(point(stages_ms={"queue": -0.5})))[0]["stage_queue_ms"] == "-0.5"


def test_a_name_with_commas_and_quotes_comes_back() -> None:
    assert rows(report(point(name='a, "b"\nc')))[0]["name"] == 'a, "b"\nc'
