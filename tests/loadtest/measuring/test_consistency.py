"""Contradictions between answers: an id twice, another label for the same picture."""

import pytest

from loadtest.measuring.consistency import CONTRADICTIONS, Judge
from loadtest.sending.messages import INTERRUPTED, OK, Record


def record(number: int, *, label: str = "cat", outcome: str = OK, **changes: str) -> Record:
    texts = {"picture": "a.jpg", "model": "m", "id": f"id-{number}"} | changes
    return Record(number, texts["picture"], texts["model"], 0.0, id=texts["id"], label=label, outcome=outcome)


def judged(*records: Record) -> list[str]:
    judge = Judge()
    for each in records:
        judge.judge(each)
    return [each.outcome for each in records]


def test_the_same_label_again_is_right() -> None:
    assert judged(*map(record, range(3))) == [OK] * 3


def test_an_id_may_come_once_in_a_run() -> None:
    records = record(0), record(1, id="id-0"), record(2, id="id-0", picture="b.jpg"), record(3)
    assert judged(*records) == [OK, "duplicate id", "duplicate id", OK]
    assert records[1].message == "id-0"


def test_answers_without_ids_are_not_each_others_duplicates() -> None:
    assert judged(record(0, id=""), record(1, id="")) == [OK, OK]


def test_a_label_may_not_change() -> None:
    records = record(0), record(1, label="dog"), record(2)
    assert judged(*records) == [OK, "label changed", OK]
    assert records[1].message == "a.jpg: dog, not cat"


@pytest.mark.parametrize("change", [{"picture": "b.jpg"}, {"model": "other"}])
def test_another_picture_or_model_may_have_another_label(change: dict[str, str]) -> None:
    assert judged(record(0), record(1, label="dog", **change)) == [OK, OK]


def test_a_duplicate_does_not_say_what_the_label_is() -> None:
    records = record(0, picture="b.jpg"), record(1, id="id-0", label="dog"), record(2), record(3)
    assert judged(*records) == [OK, "duplicate id", OK, OK]


@pytest.mark.parametrize("outcome", ["timeout", "wrong label", INTERRUPTED])
def test_what_is_wrong_already_stays_so_and_says_nothing_of_labels(outcome: str) -> None:
    records = record(0, label="dog", outcome=outcome), record(1), record(2, id="id-1", outcome=outcome)
    records[0].message = records[2].message = "as it was"
    assert judged(*records) == [outcome, OK, outcome]
    assert {records[0].message, records[2].message} == {"as it was"}


def test_the_id_of_a_wrong_answer_may_not_come_again_either() -> None:
    assert judged(record(0, outcome="wrong label"), record(1, id="id-0")) == ["wrong label", "duplicate id"]


def test_what_a_judge_finds_is_a_contradiction() -> None:
    found = judged(record(0), record(1, id="id-0"), record(2, label="dog"))[1:]
    assert set(found) < CONTRADICTIONS
