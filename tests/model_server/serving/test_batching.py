"""Forming a batch, and finding the job that spoils one. No Redis, no clock, no engine."""

import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from broker import codec
from broker.consumer import ClaimedJob
from broker.errors import DeadlinePassed
from broker.messages import Job
from model_server.engines.engine import Outputs
from model_server.hooks.own_code import HookLost
from model_server.serving import batching
from model_server.serving.batching import Batch, BatchEntry
from model_server.tasks import TASKS
from pictures import refit
from tests.support.fakes import SPEC, FakeEngine, job
from tests.support.fakes import spec as model_spec

NOW = 1000.0


def _claimed(made: Job, *, attempts: int = 0, pending: bool = True) -> ClaimedJob:
    return ClaimedJob(made.id, attempts, pending, codec.encode_job(made))


def _form(*claimed: ClaimedJob, task: str = "classification") -> Batch:
    spec = dataclasses.replace(model_spec(Path()), task=TASKS[task])
    return batching.form(claimed, spec, began=0.0, now=NOW, max_attempts=3)


def _runnable(batch: Batch) -> list[BatchEntry]:
    return [entry for entry in batch.entries if entry.job is not None and entry.error is None]


@pytest.mark.parametrize(
    ("waiting", "now", "left"),
    [
        (0, 50.0, 0.0),  # nothing to wait with
        (1, 50.0, 0.02),
        (3, 50.015, 0.005),
        (3, 50.02, 0.0),
        (3, 60.0, 0.0),
        (4, 50.0, 0.0),  # full
        (9, 50.0, 0.0),
    ],
)
def test_a_batch_waits_from_its_first_picture_until_it_is_full_or_its_time_is_up(
    waiting: int, now: float, left: float
) -> None:
    found = batching.wait_left_s(waiting, 4, seen=50.0, now=now, wait_s=0.02)
    assert found == pytest.approx(left, abs=1e-9)


def _at_now(*, value: int = 0) -> Job:
    return job(now=NOW, value=value)


def test_every_sound_job_runs_in_claim_order() -> None:
    jobs = [_at_now(value=each) for each in (1, 2, 3)]
    batch = _form(*map(_claimed, jobs))
    assert [entry.id for entry in _runnable(batch)] == [each.id for each in jobs]


def test_a_cancelled_job_is_dropped_without_a_result() -> None:
    batch = _form(_claimed(_at_now(), pending=False), _claimed(_at_now()))
    assert len(_runnable(batch)) == 1
    assert batch.entries[0].job is None
    assert batch.entries[0].error is None


def test_a_job_at_its_deadline_is_completed_unrun() -> None:
    batch = _form(_claimed(job(now=NOW - 10, deadline_in_s=10)))
    assert _runnable(batch) == []
    assert batch.entries[0].error is not None
    assert batch.entries[0].error.code == "deadline_passed"
    assert not batch.entries[0].is_poison


def test_a_worn_out_job_is_given_up_and_one_attempt_before_that_it_runs() -> None:
    batch = _form(_claimed(_at_now(), attempts=3), _claimed(_at_now(), attempts=2))
    given_up, runs = batch.entries
    assert _runnable(batch) == [runs]
    assert given_up.is_poison
    assert given_up.error is not None
    assert given_up.error.code == "inference_failed"


def test_a_job_that_can_not_be_read_fails_alone() -> None:
    broken = dataclasses.replace(_claimed(_at_now()), payload=b'{"id":"x"}')
    batch = _form(broken, _claimed(_at_now()))
    assert len(_runnable(batch)) == 1
    assert batch.entries[0].is_poison
    assert batch.entries[0].error is not None
    assert batch.entries[0].error.code == "inference_failed"


def test_a_picture_of_the_wrong_shape_fails_alone() -> None:
    batch = _form(_claimed(_at_now()), _claimed(job(now=NOW, shape=(3, 2, 1))))
    assert _runnable(batch) == [batch.entries[0]]
    assert batch.entries[1].error is not None
    assert "(3, 2, 1)" in batch.entries[1].error.message


def test_the_network_runs_once_and_each_gets_its_own_row() -> None:
    engine = FakeEngine()
    batch = _form(*(_claimed(_at_now(value=each)) for each in (0, 128, 255)))
    batching.run(batch.entries, engine.predict)
    assert engine.batches == [3]
    assert [int(entry.outputs[0].argmax()) for entry in batch.entries] == [0, 1, 2]
    assert {entry.batch_size for entry in batch.entries} == {3}


@pytest.mark.slow
@given(count=st.integers(1, 40), bad=st.sets(st.integers(0, 39), max_size=4))
def test_only_the_bad_jobs_fail_and_each_stands_alone(count: int, bad: set[int]) -> None:
    bad = {each for each in bad if each < count}

    def on_batch(pictures: NDArray[np.uint8]) -> None:
        if (pictures == 13).any():
            raise RuntimeError("boom\nwith details")

    engine = FakeEngine(on_batch)
    batch = _form(*(_claimed(_at_now(value=13 if each in bad else 200)) for each in range(count)))
    batching.run(batch.entries, engine.predict)
    assert {row for row, entry in enumerate(batch.entries) if entry.error} == bad
    assert all(entry.is_poison for entry in batch.entries if entry.error)
    assert all(len(entry.outputs) == 1 for entry in batch.entries if not entry.error)
    if len(bad) == 1 and count > 1:
        assert len(engine.batches) <= 2 * np.ceil(np.log2(count)) + 1
        (failed,) = (entry.error for entry in batch.entries if entry.error)
        assert "boom" in failed.detail
        assert "details" not in failed.detail
        assert "boom" not in failed.message  # clients get that


def test_nothing_to_run_runs_nothing() -> None:
    engine = FakeEngine()
    assert batching.run([], engine.predict) == 0
    dropped = _form(_claimed(_at_now(), pending=False), _claimed(job(now=NOW - 10, deadline_in_s=10)))
    assert batching.run(dropped.entries, engine.predict) == 0
    assert engine.batches == []


@pytest.mark.parametrize("rows", [1, 3])
def test_outputs_for_another_number_of_pictures_are_no_answer(rows: int) -> None:
    def predict(_: NDArray[np.uint8]) -> Outputs:
        return (np.zeros((rows, 3), np.float32),)

    batch = _form(_claimed(_at_now()), _claimed(_at_now()))
    batching.run(batch.entries, predict)
    # One row for one picture is right again, once they stand alone.
    assert all((entry.error is None) == (rows == 1) for entry in batch.entries)


def test_a_picture_for_another_input_is_scaled_and_its_answer_says_so() -> None:
    (entry,) = _form(
        _claimed(msgspec.structs.replace(job(now=NOW, value=77, shape=(6, 4, 3)), input="4-6-3-crop"))
    ).entries
    assert entry.job is not None
    assert entry.job.image.shape == SPEC.shape
    assert (entry.job.image == 77).all()
    assert entry.notice == refit.NOTICE


def test_a_picture_of_the_right_size_that_was_fitted_otherwise_says_so_too() -> None:
    (entry,) = _form(_claimed(msgspec.structs.replace(_at_now(), input="2-2-1-pad"))).entries
    assert entry.notice == refit.NOTICE


def test_one_that_was_prepared_for_this_input_says_nothing() -> None:
    (entry,) = _form(_claimed(msgspec.structs.replace(_at_now(), input=SPEC.tag))).entries
    assert (entry.notice, entry.error) == ("", None)


@pytest.mark.parametrize(
    ("tag", "shape", "keeps"),
    [
        ("6-6-3-stretch", (6, 6, 3), True),
        ("6-4-3-stretch", (4, 6, 3), False),
        ("6-6-3-pad", (6, 6, 3), False),
        ("6-6-3-stretch-255", (6, 6, 3), False),
    ],
)
def test_where_places_matter_only_what_keeps_them_is_scaled(
    tag: str, shape: tuple[int, int, int], keeps: bool
) -> None:
    claimed = _claimed(msgspec.structs.replace(job(now=NOW, shape=shape), input=tag))
    (entry,) = _form(claimed, task="detection").entries
    assert (entry.error is None) is keeps
    assert not entry.is_poison


def test_what_is_late_behind_pictures_that_hang_is_not_run() -> None:
    """Each of them costs its time limit: those that have waited past their deadline have no use of it."""
    made = [job(now=NOW, value=value, deadline_in_s=seconds) for value, seconds in ((0, 60), (1, 5), (2, 60))]
    batch = _form(*map(_claimed, made))
    ran = []

    def predict(pictures: NDArray[np.uint8]) -> Outputs:
        ran.append(pictures[:, 0, 0, 0].tolist())
        if 0 in ran[-1]:
            raise HookLost
        return (np.zeros((len(pictures), 3), np.float32),)

    batching.run(batch.entries, predict, now=lambda: NOW + 10 * len(ran))
    assert ran == [[0, 1, 2], [0], [2]]
    assert [type(entry.error) for entry in batch.entries] == [HookLost, DeadlinePassed, type(None)]
    late = _form(_claimed(made[1]))
    batching.prepare(late.entries, lambda _: pytest.fail("it was prepared"), now=lambda: NOW + 10)
    assert isinstance(late.entries[0].error, DeadlinePassed)


def test_what_became_late_while_its_batch_waited_for_the_device_is_not_run() -> None:
    made = [job(now=NOW, value=value, deadline_in_s=seconds) for value, seconds in ((0, 60), (1, 5), (2, 60))]
    batch = _form(*map(_claimed, made))
    ran = []

    def predict(pictures: NDArray[np.uint8]) -> Outputs:
        ran.append(pictures[:, 0, 0, 0].tolist())
        return (np.zeros((len(pictures), 3), np.float32),)

    assert batching.run(batch.entries, predict, now=lambda: NOW + 10) == 2
    assert ran == [[0, 2]]
    assert [type(entry.error) for entry in batch.entries] == [type(None), DeadlinePassed, type(None)]
    late = _form(_claimed(made[1]))
    assert batching.run(late.entries, predict, now=lambda: NOW + 10) == 0


def test_deadlines_are_kept_on_the_monotonic_clock() -> None:
    spec = model_spec(Path())
    claimed = [_claimed(job(now=NOW, deadline_in_s=60)), _claimed(_at_now(), pending=False)]
    batch = batching.form(claimed, spec, began=0.0, now=NOW, max_attempts=3, offset_s=NOW - 7)
    assert [entry.late_at for entry in batch.entries] == [67, math.inf]
    assert batching.run(batch.entries, FakeEngine().predict, now=lambda: 66.9) == 1
    assert batching.run(batch.entries, FakeEngine().predict, now=lambda: 67.0) == 0
