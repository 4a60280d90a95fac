"""The ledger: what was written is read again, and each way of being wrong is told."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loadtest.faults.ledger import FORMAT, Account, Ledger, LedgerError, check
from loadtest.sending.messages import INTERRUPTED, OK, Record


def record(number: int, **changes: object) -> Record:
    return msgspec.structs.replace(
        Record(
            number,
            "a.jpg",
            "",
            1000.5 + number,
            1000.75 + number,
            1001.0 + number,
            id=f"id-{number}",
            label="cat",
        ),
        **changes,
    )


def write(path: Path, points: list[list[Record]], begun: list[list[int]] | None = None) -> Path:
    """Write points of records; `begun` by default says that one client process began them all."""
    ids = 0
    with path.open("wb") as file:
        ledger = Ledger(file, start=1000.0, target="http://h")
        for point, records in enumerate(points):
            for each in records:
                if each.id == f"id-{each.number}":  # unique in a run, not in a point
                    each.id, ids = f"{each.id}-{ids}", ids + 1
                ledger.add(point, each)
        ledger.close([[len(records)] for records in points] if begun is None else begun)
        assert file.closed
    return path


def account(
    tmp_path: Path, *points: list[Record], begun: list[list[int]] | None = None, **labels: str
) -> Account:
    expected = {("", f"{name}.jpg"): label for name, label in labels.items()}
    return check(write(tmp_path / "ledger", list(points), begun), expected)


def test_round_trip(tmp_path: Path) -> None:
    written = record(
        7, sent=None, outcome="timeout", message="no answer within 1 s", stages_ms={"model": 1.5}, polled=True
    )
    lines = write(tmp_path / "ledger", [[], [record(0), written]]).read_bytes().splitlines()
    header, first, second, closing = (msgspec.json.decode(line) for line in lines)
    assert (header["format"], header["target"], closing) == (FORMAT, "http://h", {"begun": [[0], [2]]})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", header["started_at"])
    assert (first["due"], first["sent"], first["ended"]) == (0.5, 0.75, 1.0)  # from the run's start
    assert (second.pop("point"), second.pop("due"), second.pop("ended")) == (1, 7.5, 8.0)
    times = {"due": written.due, "ended": written.ended}
    assert msgspec.convert(second | times, Record, strict=True) == written


def test_a_ledger_of_several_points_adds_up(tmp_path: Path) -> None:
    found = account(tmp_path, [record(2), record(0), record(1)], [], [record(0), record(1)])
    assert (found.requests, found.outcomes, found.wrong, found.adds_up) == (5, {OK: 5}, [], True)


def test_failed_requests_have_an_outcome_too(tmp_path: Path) -> None:
    found = account(tmp_path, [record(0), record(1, outcome="timeout", id="", label="")], a="cat")
    assert (found.outcomes, found.adds_up) == ({OK: 1, "timeout": 1}, True)


@pytest.mark.parametrize(
    ("begun", "numbers"),
    [
        ([3, 2], [0, 2, 4, 1, 3]),
        ([1, 4], [0, 1, 3, 5, 7]),
        ([0, 0, 2], [2, 5]),
        ([2, 0, 1], [0, 3, 2]),
    ],
)
def test_client_processes_with_uneven_shares(begun: list[int], numbers: list[int], tmp_path: Path) -> None:
    found = account(tmp_path, [record(number) for number in numbers], begun=[begun])
    assert found.wrong == []
    swapped = account(tmp_path, [record(number) for number in numbers], begun=[begun[::-1]])
    assert not swapped.adds_up


RECORDS: dict[str, Callable[[], list[Record]]] = {
    "gap": lambda: [record(0), record(2), record(3)],
    "twice": lambda: [record(0), record(1), record(1), record(2)],
    "extra": lambda: [record(0), record(1), record(2), record(3), record(9)],
    "same id": lambda: [record(0, id="x"), record(1), record(2, id="x")],
    "label changed": lambda: [record(0), record(1, label="dog"), record(2)],
    "found before": lambda: [record(0), record(1, outcome="label changed", message="why"), record(2)],
    "wrong label": lambda: [record(0), record(1, outcome="wrong label", message="why"), record(2)],
    "interrupted": lambda: [record(0), record(1, outcome=INTERRUPTED), record(2)],
}


@pytest.mark.parametrize(
    ("what", "begun", "wrong"),
    [
        ("gap", 4, ["point 0: no outcome for request 1"]),
        ("gap", 3, ["point 0: no outcome for request 1", "point 0: an outcome for no request 3"]),
        ("twice", 3, ["request 1 of point 0 (a.jpg) has two outcomes"]),
        ("extra", 3, ["point 0: an outcome for no request 3, 9"]),
        ("extra", 0, ["point 0: an outcome for no request 0, 1, 2, 3, 9"]),
        (
            "extra",
            9,
            ["point 0: no outcome for request 4, 5, 6, 7, 8", "point 0: an outcome for no request 9"],
        ),
        ("gap", 20, ["point 0: no outcome for request 1, 4, 5, 6, 7 and 12 more"]),
        ("same id", 3, ["request 2 of point 0 (a.jpg): duplicate id: x"]),
        ("label changed", 3, ["request 1 of point 0 (a.jpg): label changed: a.jpg: dog, not cat"]),
        ("found before", 3, ["request 1 of point 0 (a.jpg): label changed: why"]),
        ("wrong label", 3, ["request 1 of point 0 (a.jpg): wrong label: why"]),
        ("interrupted", 3, ["request 1 of point 0 (a.jpg) was interrupted"]),
    ],
)
def test_each_way_of_being_wrong_is_told(what: str, begun: int, wrong: list[str], tmp_path: Path) -> None:
    found = account(tmp_path, RECORDS[what](), begun=[[begun]])
    assert (found.wrong, found.adds_up) == (wrong, False)


def test_an_answer_is_held_against_the_expected_label(tmp_path: Path) -> None:
    records = [record(0), record(1, picture="b.jpg"), record(2, picture="b.jpg", label="dog")]
    found = account(tmp_path, records, a="cat", b="dog")
    assert found.wrong == [
        "request 1 of point 0 (b.jpg) was answered cat, not dog",
        "request 2 of point 0 (b.jpg): label changed: b.jpg: dog, not cat",
    ]
    assert account(tmp_path, [record(0)], b="dog").wrong == [
        "request 0 of point 0 (a.jpg) was answered cat, not None"
    ]


def test_a_models_own_label_goes_before_that_of_every_model(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger", [[record(0, model="m"), record(1, model="other", label="dog")]])
    assert check(path, {("m", "a.jpg"): "cat", ("", "a.jpg"): "dog"}).adds_up
    assert not check(path, {("m", "a.jpg"): "dog", ("", "a.jpg"): "cat"}).adds_up


def test_ids_and_labels_are_compared_across_points(tmp_path: Path) -> None:
    found = account(tmp_path, [record(0, id="x")], [record(0, id="x")], [record(0, label="dog")])
    assert found.wrong == [
        "request 0 of point 1 (a.jpg): duplicate id: x",
        "request 0 of point 2 (a.jpg): label changed: a.jpg: dog, not cat",
    ]


def test_a_point_that_the_closing_line_does_not_know_is_wrong(tmp_path: Path) -> None:
    found = account(tmp_path, [record(0)], [record(0)], begun=[[1]])
    assert found.wrong == ["point 1: an outcome for no request 0"]
    found = account(tmp_path, [record(0)], begun=[[1], [2]])
    assert found.wrong == ["point 1: no outcome for request 0, 1"]


def test_every_cut_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger", [[record(0), record(1)]])
    whole = path.read_bytes()
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(LedgerError):
            check(path, {})
    path.write_bytes(whole[:-1])  # only the last line's end is missing
    assert check(path, {}).adds_up


def test_a_cut_at_a_lines_end_is_told_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger", [[record(0)]])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(LedgerError, match="has no closing line"):
        check(path, {})


def test_nothing_follows_the_closing_line(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger", [[record(0)]])
    lines = path.read_bytes().splitlines(keepends=True)
    for more in lines[1:]:
        path.write_bytes(b"".join([*lines, more]))
        with pytest.raises(LedgerError, match="continues after its closing line"):
            check(path, {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"format": "load test figures"}\n',
        b'{"format": "load test ledger 2"}\n{"begun":[]}\n',
        b"\x89PNG\r\n",
        b'{"format": "\xff"}\n',
        json.dumps({"format": FORMAT}).encode() + b'\n{"number": 1}\n{"begun":[]}\n',
        json.dumps({"format": FORMAT}).encode() + b'\n{"begun":[["x"]]}\n',
        json.dumps({"format": FORMAT}).encode() + b'\n{"begun":"\xff"}\n',
        json.dumps({"format": FORMAT}).encode() + b'\n\n{"begun":[]}\n',
    ],
)
def test_what_is_no_ledger(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(content)
    with pytest.raises(LedgerError, match=r"/ledger (is not a ledger|can't be read as a ledger)"):
        check(tmp_path / "ledger", {})


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=re.escape(f"{tmp_path}/none can't be read")):
        check(tmp_path / "none", {})


def test_times_are_microseconds_however_long_the_host_runs(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with path.open("wb") as file:
        ledger = Ledger(file, start=1e7 + 1 / 3, target="")
        ledger.add(0, record(0, due=1e7 + 1 / 3 + 0.25, sent=None, ended=1e7 + 1 / 3 + 0.5))
        ledger.close([[1]])
    line = json.loads(path.read_bytes().splitlines()[1])
    assert (line["due"], line["sent"], line["ended"]) == (0.25, None, 0.5)
    assert math.isclose(line["ended"] - line["due"], 0.25)
