"""What overlaps and what does not: the pipeline alone, its steps held by events."""

import threading
from collections.abc import Iterator

import pytest

from broker.errors import BrokerUnavailable
from model_server.serving.device import Device
from model_server.serving.pipeline import Pipeline
from tests.support.waiting import eventually

WAIT_S = 20


class Batch(list[int]):
    """A claim; one with a 13 in it runs alone."""

    @property
    def runs_alone(self) -> bool:
        return 13 in self


Numbers = Pipeline[Batch, Batch]


class Steps:
    """Batches out of a list; each step tells when it began, and ends when it may."""

    def __init__(self, *batches: list[int] | Exception) -> None:
        self.queue = [each if isinstance(each, Exception) else Batch(each) for each in batches]
        self.log: list[str] = []
        self.claimed: list[Batch] = []
        self.may_run = threading.Event()
        self.may_complete = threading.Event()
        self.may_run.set()
        self.may_complete.set()

    def claim(self) -> Batch | None:
        batch = self.queue.pop(0) if self.queue else None
        if isinstance(batch, Exception):
            raise batch
        if batch is not None:
            self.claimed.append(batch)
        return batch

    def run(self, batch: Batch) -> Batch:
        self.log.append(f"run {batch}")
        assert self.may_run.wait(WAIT_S)
        return batch

    def complete(self, batch: Batch) -> None:
        assert self.may_complete.wait(WAIT_S)
        self.log.append(f"completed {batch}")


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def made() -> Iterator[list[Numbers]]:
    pipelines: list[Numbers] = []
    yield pipelines
    for each in pipelines:
        each.close()


def _pipeline(steps: Steps, device: Device, made: list[Numbers]) -> Numbers:
    made.append(Pipeline("x", steps.claim, steps.run, steps.complete, device=device))
    return made[-1]


def _held(pipeline: Numbers, steps: Steps, log: str) -> threading.Thread:
    """A step in a thread, its batch on the device until `may_run` is set."""
    steps.may_run.clear()
    running = threading.Thread(target=pipeline.step)
    running.start()
    eventually(lambda: steps.log == [log])
    return running


def test_the_next_is_claimed_while_one_runs(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1], [2])
    pipeline = _pipeline(steps, device, made)
    steps.may_run.clear()
    running = threading.Thread(target=pipeline.step)
    running.start()
    eventually(lambda: steps.claimed == [[1], [2]])
    eventually(lambda: steps.log == ["run [1]"])
    steps.may_run.set()
    running.join(WAIT_S)


def test_the_next_runs_while_the_last_is_completed(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1], [2], [3])
    pipeline = _pipeline(steps, device, made)
    steps.may_complete.clear()
    assert pipeline.step() == 1
    running = threading.Thread(target=pipeline.step)
    running.start()
    eventually(lambda: steps.log == ["run [1]", "run [2]"])
    # But no third before the first is completed.
    running.join(0.2)
    assert running.is_alive()
    steps.may_complete.set()
    running.join(WAIT_S)
    pipeline.settle()
    assert steps.log == ["run [1]", "run [2]", "completed [1]", "completed [2]"]


def test_nothing_there_is_said_once_all_is_completed(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1])
    pipeline = _pipeline(steps, device, made)
    assert [pipeline.step(), pipeline.step()] == [1, 0]
    assert steps.log == ["run [1]", "completed [1]"]
    assert pipeline.step() == 0


def test_an_error_of_the_claim_ahead_comes_with_the_next_step(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1], BrokerUnavailable("away"), [2])
    pipeline = _pipeline(steps, device, made)
    assert pipeline.step() == 1
    with pytest.raises(BrokerUnavailable):
        pipeline.step()
    pipeline.settle()
    assert steps.log == ["run [1]", "completed [1]"]
    assert pipeline.step() == 1


def test_empty_drops_what_was_claimed_ahead(device: Device, made: list[Numbers]) -> None:
    for second in ([2], BrokerUnavailable("away")):
        steps = Steps([1], second, [3])
        pipeline = _pipeline(steps, device, made)
        pipeline.step()
        pipeline.empty()
        assert steps.log == ["run [1]", "completed [1]"]
        pipeline.step()
        assert steps.log[-2:] != ["run [2]"]
        assert steps.claimed[-1] == [3]


def test_nothing_is_claimed_ahead_while_a_sibling_wants_the_device(
    device: Device, made: list[Numbers]
) -> None:
    steps, sibling = Steps([1], [2]), Steps([9])
    pipeline, other = _pipeline(steps, device, made), _pipeline(sibling, device, made)
    ran: list[int] = []
    waiting = threading.Thread(target=lambda: ran.append(other.step()))

    def run_when_wanted(batch: Batch) -> Batch:
        waiting.start()
        eventually(lambda: device.is_wanted)
        return batch

    pipeline._claim_s = 0.0
    pipeline._run_s = 3600.0  # so that it is asked for only once the call has ended
    pipeline._run = run_when_wanted
    pipeline.step()
    assert steps.claimed == [[1]]
    waiting.join(WAIT_S)
    assert ran == [1]
    pipeline._run = steps.run
    assert pipeline.step() == 1
    assert steps.claimed == [[1], [2]]


def test_a_claim_ahead_waits_until_the_call_is_about_to_end(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1], [2])
    pipeline = _pipeline(steps, device, made)
    pipeline._run_s = 3600.0
    running = _held(pipeline, steps, "run [1]")
    running.join(0.2)
    assert steps.claimed == [[1]]
    # It ends sooner than was expected: the claim goes ahead at once.
    steps.may_run.set()
    running.join(WAIT_S)
    eventually(lambda: steps.claimed == [[1], [2]])


def test_nothing_is_claimed_beside_what_runs_alone(device: Device, made: list[Numbers]) -> None:
    steps = Steps([13], [2])
    pipeline = _pipeline(steps, device, made)
    running = _held(pipeline, steps, "run [13]")
    running.join(0.2)
    assert steps.claimed == [[13]]
    steps.may_run.set()
    running.join(WAIT_S)
    assert pipeline.step() == 1
    assert steps.claimed == [[13], [2]]


def test_empty_waits_for_what_is_being_completed(device: Device, made: list[Numbers]) -> None:
    steps = Steps([1])
    pipeline = _pipeline(steps, device, made)
    steps.may_complete.clear()
    pipeline.step()
    threading.Timer(0.2, steps.may_complete.set).start()
    pipeline.empty()
    assert steps.log == ["run [1]", "completed [1]"]


def test_a_look_ahead_that_found_nothing_waits_for_no_sibling(device: Device, made: list[Numbers]) -> None:
    """It would wait for the sibling's whole call before it listens for the next job."""
    pipeline = _pipeline(Steps([1]), device, made)
    assert pipeline.step() == 1
    assert pipeline._ahead is not None
    assert pipeline._ahead.result() == (True, None)
    with device:
        stepping = threading.Thread(target=pipeline.step)
        stepping.start()
        stepping.join(0.9)  # the device's patience is a second
        assert not stepping.is_alive()
