"""What overlaps and what does not: the pipeline alone, its steps held by events."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from broker.clock import RedisClock
from broker.consumer import CompletedJob, Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from model_server.catalogue.model_spec import ModelSpec
from model_server.serving.batching import Batch, BatchEntry
from model_server.serving.device import Device
from model_server.serving.pipeline import Pipeline, WorkerLimits
from model_server.serving.queue_parts import BatchShare
from model_server.serving.registration import Registration
from model_server.serving.traces import BatchTrace
from tests.support import fakes
from tests.support.waiting import eventually

WAIT_S = 20


class Steps(Pipeline):
    """Batches out of a list; each step tells when it began, and ends when it may."""

    def __init__(
        self,
        *batches: list[int] | Exception,
        registration: Registration,
        consumer: Consumer,
        spec: ModelSpec,
        device: Device,
    ) -> None:
        limits = WorkerLimits(batch_size=4, max_attempts=3)
        super().__init__(spec, registration, consumer, RedisClock(), limits=limits, device=device)
        self.queue = list(batches)
        self.asked = 0
        self.log: list[str] = []
        self.claimed: list[list[int]] = []
        self.on_run: Callable[[], object] = lambda: None
        self.may_run = threading.Event()
        self.may_complete = threading.Event()
        self.may_run.set()
        self.may_complete.set()

    def claim(self) -> Batch | None:
        self.asked += 1
        numbers = self.queue.pop(0) if self.queue else None
        if isinstance(numbers, Exception):
            raise numbers
        if numbers is None:
            return None
        self.claimed.append(numbers)
        entries = [BatchEntry(str(number), attempts=0) for number in numbers]
        return Batch(
            entries,
            claimed_at=0.0,
            began=0.0,
            waited_s=0.0,
            runs_alone=13 in numbers,
            shares=(BatchShare(self.parts.own, "w", len(entries)),),
        )

    def run(self, batch: Batch) -> list[CompletedJob]:
        outcomes = [CompletedJob(entry.id) for entry in batch.entries]
        self.log.append(f"run {_numbers(outcomes)}")
        self.on_run()
        assert self.may_run.wait(WAIT_S)
        return outcomes

    def complete(
        self, share: BatchShare, outcomes: list[CompletedJob], trace: BatchTrace | None = None
    ) -> None:
        assert share.part is self.parts.own
        assert share.worker == "w"
        assert trace is None  # nothing is traced
        assert self.may_complete.wait(WAIT_S)
        self.log.append(f"completed {_numbers(outcomes)}")


def _numbers(outcomes: list[CompletedJob]) -> list[int]:
    return [int(outcome.id) for outcome in outcomes]


@pytest.fixture
def device() -> Device:
    return Device()


MakeSteps = Callable[..., Steps]


@pytest.fixture
def steps_of(client: redis.Redis, keys: Keys, tmp_path: Path, device: Device) -> Iterator[MakeSteps]:
    made: list[Steps] = []
    worker = fakes.worker(client, keys, fakes.FakeEngine(), tmp_path)

    def make(*batches: list[int] | Exception) -> Steps:
        consumer = fakes.consumer(client, keys)
        made.append(
            Steps(
                *batches,
                registration=worker.registration,
                consumer=consumer,
                spec=worker.spec,
                device=device,
            )
        )
        return made[-1]

    yield make
    for steps in made:
        steps.close()


def _held(steps: Steps, log: str) -> threading.Thread:
    """A step in a thread, its batch on the device until `may_run` is set."""
    steps.may_run.clear()
    running = threading.Thread(target=steps.step)
    running.start()
    eventually(lambda: steps.log == [log])
    return running


def test_the_next_is_claimed_while_one_runs(steps_of: MakeSteps) -> None:
    steps = steps_of([1], [2])
    steps.may_run.clear()
    running = threading.Thread(target=steps.step)
    running.start()
    eventually(lambda: steps.claimed == [[1], [2]])
    eventually(lambda: steps.log == ["run [1]"])
    steps.may_run.set()
    running.join(WAIT_S)


def test_the_next_runs_while_the_last_is_completed(steps_of: MakeSteps) -> None:
    steps = steps_of([1], [2], [3])
    steps.may_complete.clear()
    assert steps.step() == 1
    running = threading.Thread(target=steps.step)
    running.start()
    eventually(lambda: steps.log == ["run [1]", "run [2]"])
    # But no third before the first is completed.
    running.join(0.2)
    assert running.is_alive()
    steps.may_complete.set()
    running.join(WAIT_S)
    steps.parts.settle()
    assert steps.log == ["run [1]", "run [2]", "completed [1]", "completed [2]"]


def test_nothing_there_is_said_once_all_is_completed(steps_of: MakeSteps) -> None:
    steps = steps_of([1])
    assert [steps.step(), steps.step()] == [1, 0]
    assert steps.log == ["run [1]", "completed [1]"]
    assert steps.step() == 0


def test_an_error_of_the_claim_ahead_comes_with_the_next_step(steps_of: MakeSteps) -> None:
    steps = steps_of([1], BrokerUnavailable("away"), [2])
    assert steps.step() == 1
    with pytest.raises(BrokerUnavailable):
        steps.step()
    steps.parts.settle()
    assert steps.log == ["run [1]", "completed [1]"]
    assert steps.step() == 1


def test_giving_back_drops_what_was_claimed_ahead(steps_of: MakeSteps) -> None:
    for second in ([2], BrokerUnavailable("away")):
        steps = steps_of([1], second, [3])
        steps.step()
        steps.give_back()
        assert steps.log == ["run [1]", "completed [1]"]
        steps.step()
        assert steps.log[-2:] != ["run [2]"]
        assert steps.claimed[-1] == [3]


def test_nothing_is_claimed_ahead_while_a_sibling_wants_the_device(
    device: Device, steps_of: MakeSteps
) -> None:
    steps, sibling = steps_of([1], [2]), steps_of([9])
    ran: list[int] = []
    waiting = threading.Thread(target=lambda: ran.append(sibling.step()))

    def wait_until_wanted() -> None:
        waiting.start()
        eventually(lambda: device.waiting > 0)

    steps.times.picture_s = 3600.0  # so that it is asked for only once the call has ended
    steps.on_run = wait_until_wanted
    steps.step()
    assert steps.claimed == [[1]]
    waiting.join(WAIT_S)
    assert ran == [1]
    steps.on_run = lambda: None
    assert steps.step() == 1
    assert steps.claimed == [[1], [2]]


def test_a_claim_ahead_waits_until_the_call_is_about_to_end(steps_of: MakeSteps) -> None:
    steps = steps_of([1], [2])
    steps.times.picture_s = 3600.0
    running = _held(steps, "run [1]")
    running.join(0.2)
    assert steps.claimed == [[1]]
    # It ends sooner than was expected: the claim goes ahead at once.
    steps.may_run.set()
    running.join(WAIT_S)
    eventually(lambda: steps.claimed == [[1], [2]])


def test_nothing_is_claimed_beside_what_runs_alone(steps_of: MakeSteps) -> None:
    steps = steps_of([13], [2])
    running = _held(steps, "run [13]")
    running.join(0.2)
    assert steps.claimed == [[13]]
    steps.may_run.set()
    running.join(WAIT_S)
    assert steps.step() == 1
    assert steps.claimed == [[13], [2]]


def test_with_shards_no_step_waits_for_a_completion_however_brief_its_call(steps_of: MakeSteps) -> None:
    """It may be stuck, if the shard's node is away; the others go on."""
    steps = steps_of([1])
    steps.times.picture_s, steps._claim_s, steps.parts.shards = 0.001, 1.0, 2
    steps.may_complete.clear()
    assert steps.step() == 1
    assert steps.log == ["run [1]"]
    steps.may_complete.set()


def test_giving_back_waits_for_what_is_being_completed(steps_of: MakeSteps) -> None:
    steps = steps_of([1])
    steps.may_complete.clear()
    steps.step()
    threading.Timer(0.2, steps.may_complete.set).start()
    steps.give_back()
    assert steps.log == ["run [1]", "completed [1]"]


def test_a_look_ahead_that_found_nothing_waits_for_no_sibling(device: Device, steps_of: MakeSteps) -> None:
    """It would wait for the sibling's whole call before it listens for the next job."""
    steps = steps_of([1])
    assert steps.step() == 1
    eventually(lambda: steps.asked == 2)
    with device:
        stepping = threading.Thread(target=steps.step)
        stepping.start()
        stepping.join(0.9)  # the device's patience is a second
        assert not stepping.is_alive()
