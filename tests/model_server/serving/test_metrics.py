"""What a model server counts: batches, how jobs end, lost workers; each by what was done on a real Redis."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from msgspec import structs
from prometheus_client import REGISTRY

from broker import metrics as ports
from broker.errors import ModelUnavailable
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from model_server.engines.engine import Engine
from model_server.serving import metrics
from model_server.serving.batching import Batch
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.worker import Worker, load_or_reason
from tests.support import fakes
from tests.support.fakes import MODEL
from tests.support.stack import free_port


@pytest.fixture
def worker(client: redis.Redis, keys: Keys, tmp_path: Path) -> Worker:
    """A worker that may take four jobs at once; its network is loaded."""
    made = fakes.worker(client, keys, fakes.FakeEngine(), tmp_path)
    made.pipeline.engine = made.load()
    return made


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"batchwire_{name}", {"model": MODEL, **labels}) or 0.0


def _moved(act: Callable[[], object], name: str, **labels: str) -> float:
    before = _value(name, **labels)
    act()
    return _value(name, **labels) - before


@pytest.mark.parametrize(
    ("jobs", "reason"), [(4, "full"), (3, "queue_empty")], ids=["as many as it may", "all there were"]
)
def test_why_a_batch_was_not_larger(
    client: redis.Redis, keys: Keys, worker: Worker, jobs: int, reason: str
) -> None:
    fakes.enqueue(client, keys, *(fakes.job() for _ in range(jobs)))
    assert _moved(lambda: fakes.step(worker), "batches_total", reason=reason) == 1


def test_a_slow_network_gets_smaller_batches() -> None:
    def claim() -> None:
        metrics.claimed(MODEL, 2, most=2, batch_size=4, is_recovered=False)

    assert _moved(claim, "batches_total", reason="call_time") == 1


@pytest.mark.slow
def test_where_owners_share_a_model_batches_are_no_larger_than_is_efficient(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    pipeline = worker.pipeline

    def claimed(reason: str) -> list[str]:
        """Whose jobs the next batch has, which is not larger for that reason."""
        batches: list[Batch | None] = []
        assert _moved(lambda: batches.append(pipeline.claim()), "batches_total", reason=reason) == 1
        (batch,) = batches
        assert batch is not None
        return [entry.job.owner for entry in batch.entries if entry.job is not None]

    for pictures in (1, 4, 1, 4):  # it costs by the picture
        pipeline.times.add(pictures, 0.1 * pictures)
    fakes.enqueue(client, keys, *(structs.replace(fakes.job(), lane="ann@100") for _ in range(20)))
    assert [claimed("full") for _ in range(2)] == [["ann"] * 4] * 2
    fakes.enqueue(client, keys, structs.replace(fakes.job(), lane="bob@100"))
    assert claimed("lanes") == ["bob"]
    # For bob's next, although he has had his turn and his lane is forgotten.
    assert [claimed("lanes") for _ in range(12)] == [["ann"]] * 12
    assert pipeline.parts.waiting() == 0


def test_owners_of_other_models_of_a_process_make_batches_small_as_well(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    pipeline = worker.pipeline
    for pictures in (1, 4, 1, 4):
        pipeline.times.add(pictures, 0.1 * pictures)
    pipeline.device.owners.add({"bob"}, time.monotonic())
    fakes.enqueue(client, keys, *(structs.replace(fakes.job(), lane="ann@100") for _ in range(8)))
    batches = [pipeline.claim() for _ in range(3)]
    assert [len(each.entries) for each in batches if each is not None] == [4, 1, 1]


def test_a_recovered_job_comes_alone_and_is_told_so(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "server_uptime_s", lambda _: 1000)
    fakes.enqueue(client, keys, fakes.job(), fakes.job())
    lost = fakes.lease(client, keys).register(State(WorkerState.READY, "v"))
    fakes.consumer(client, keys).claim(lost, 1)
    fakes.lapse(client, keys, lost)
    keeper = LeaseKeeper(worker.registration, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    recovered, lost_before = _value("jobs_recovered_total"), _value("workers_lost_total")
    keeper.tick(0.0)
    assert _value("jobs_recovered_total") - recovered == 1
    assert _value("workers_lost_total") - lost_before == 1
    retried = _value("jobs_retried_total")
    assert _moved(lambda: fakes.step(worker), "batches_total", reason="recovered") == 1
    assert _value("jobs_retried_total") - retried == 1


def test_how_jobs_end(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    outcomes = ("ok", "cancelled", "deadline_passed")
    before = {outcome: _value("jobs_total", outcome=outcome) for outcome in outcomes}
    sizes = _value("batch_size_sum")
    cancelled = fakes.job()
    fakes.enqueue(client, keys, fakes.job(), cancelled, fakes.job(deadline_in_s=-1), fakes.job())
    fakes.producer(client, keys).cancel(MODEL, cancelled.id)
    fakes.step(worker)
    ended = {outcome: _value("jobs_total", outcome=outcome) - before[outcome] for outcome in outcomes}
    assert ended == {"ok": 2, "cancelled": 1, "deadline_passed": 1}
    assert _value("batch_size_sum") - sizes == 2  # what was run


def test_a_job_that_can_not_be_read_is_a_dead_letter(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    (job,) = fakes.enqueue(client, keys, fakes.job())
    payload = client.lpop(keys.of(MODEL).queue)
    assert isinstance(payload, bytes)
    client.rpush(keys.of(MODEL).queue, re.sub(b'"image":"[^"]*"', b'"image":"!"', payload))
    assert job.id.encode() in payload
    assert _moved(lambda: fakes.step(worker), "dead_letters_total") == 1


def test_a_lease_that_lapsed_is_counted(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    keeper = LeaseKeeper(worker.registration, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    fakes.lapse(client, keys, worker.lease.worker)
    fakes.lease(client, keys).recover_lost()
    assert _moved(lambda: keeper.tick(0.0), "leases_lost_total") == 1


def test_rare_counts_begin_at_zero() -> None:
    metrics.begin("just-started")
    labels = {"model": "just-started"}
    for name in ("workers_lost", "jobs_recovered", "dead_letters", "leases_lost", "jobs_retried"):
        assert REGISTRY.get_sample_value(f"batchwire_{name}_total", labels) == 0


def test_a_load_and_its_end_are_told(worker: Worker) -> None:
    def fails() -> Engine:
        raise ModelUnavailable("no weights")

    load_or_reason("fails-to-load", fails)
    assert REGISTRY.get_sample_value("batchwire_model_load_seconds", {"model": "fails-to-load"}) is not None
    for state in (WorkerState.FAILED, WorkerState.READY):
        worker.status.publish(State(state, "v"))
        assert _value("model_state", batchwire_model_state=state.value) == 1
    assert _value("model_state", batchwire_model_state="failed") == 0


def test_each_process_of_a_host_takes_a_port_of_its_own() -> None:
    first = free_port()
    for _ in range(2):
        ports.serve(first, ports=2, address="127.0.0.1")
    for port in (first, first + 1):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert b"batchwire_batch_size" in answer.read()


def test_where_all_ports_are_taken_it_serves_on(caplog: pytest.LogCaptureFixture) -> None:
    first = free_port()
    for _ in range(2):
        ports.serve(first, ports=1, address="127.0.0.1")
    assert "METRICS_PORT" in caplog.text
