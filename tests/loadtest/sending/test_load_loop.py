"""The sending of one client process, in this process, against the tests' own small server."""

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest

from loadtest.sending.load_loop import Client
from loadtest.sending.messages import INTERRUPTED, OK, LoadEnd
from tests.loadtest.driving import begin, drive
from tests.loadtest.stub import answer


@pytest.mark.parametrize(("late_s", "outcome"), [(5.0, OK), (20.0, "timeout")])
def test_latency_and_time_out_count_from_when_a_request_was_due(late_s: float, outcome: str) -> None:
    _, records = drive(
        answer, lambda client: client.run(begin(rate=1, requests=1, start=time.monotonic() - late_s))
    )
    assert [record.outcome for record in records] == [outcome]
    assert records[0].ended - records[0].due >= late_s


def test_open_loop_sends_when_due_and_not_before() -> None:
    ask = begin(rate=100, requests=5, start=time.monotonic() + 0.05)
    done, records = drive(answer, lambda client: client.run(ask))
    assert [record.due - ask.start for record in records] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert all(record.sent is not None and record.sent >= record.due for record in records)
    assert done.begun == 5


def test_a_share_sends_only_its_own_numbers() -> None:
    done, records = drive(answer, lambda client: client.run(begin(rate=1000, requests=10, share=(1, 3))))
    assert [record.number for record in records] == [1, 4, 7]
    assert done.begun == 3
    done, records = drive(answer, lambda client: client.run(begin(clients=5, requests=10, share=(2, 3))))
    # In proportion to its clients: two of five have four of ten requests.
    assert [record.number for record in records] == [2, 5, 8, 11]


@pytest.mark.slow
def test_closed_loop_ends_by_time() -> None:
    done, records = drive(answer, lambda client: client.run(begin(clients=2, duration_s=0.5)))
    assert records
    assert [record.number for record in records] == list(range(done.begun))
    assert all(record.outcome == OK for record in records)


@pytest.mark.slow
def test_no_more_requests_at_once_than_connections() -> None:
    here, most, lock = [0], [0], threading.Lock()
    three = threading.Barrier(3, timeout=20)  # each of the first three is answered when all are there

    def script(number: int) -> dict[str, Any]:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        if number < 3:
            three.wait()
        time.sleep(0.02)
        with lock:
            here[0] -= 1
        return answer(number)

    _, records = drive(script, lambda client: client.run(begin(rate=1000, requests=12)), connections=3)
    assert most[0] == 3
    waited = [(record.sent or 0.0) - record.due for record in records]
    assert waited[-1] > 0.05


@pytest.mark.parametrize("abandon", [False, True])
def test_halt_waits_for_what_was_sent_or_abandons_it(abandon: bool) -> None:
    release, reached = threading.Event(), threading.Event()

    def script(number: int) -> dict[str, Any]:
        reached.set()
        release.wait(20)
        return answer(number)

    async def halted(client: Client) -> LoadEnd:
        running = asyncio.create_task(client.run(begin(rate=0.01)))
        await asyncio.to_thread(reached.wait, 20)
        client.halt(abandon=abandon)
        if not abandon:
            release.set()
        return await running

    done, records = drive(script, halted)
    release.set()
    assert done.begun == 1
    assert [record.outcome for record in records] == [INTERRUPTED if abandon else OK]


def test_a_point_can_follow_another_after_a_halt() -> None:
    async def twice(client: Client) -> LoadEnd:
        client.halt(abandon=False)
        client.arm()
        await client.run(begin(clients=1, requests=2))
        return await client.run(begin(clients=1, requests=3))

    done, records = drive(answer, twice)
    assert (done.begun, len(records)) == (3, 5)


def test_a_halt_between_two_points_is_not_lost() -> None:
    async def halted(client: Client) -> LoadEnd:
        client.arm()
        running = asyncio.create_task(client.run(begin(rate=1000, duration_s=5)))
        client.halt(abandon=False)  # before the point has had a turn
        return await running

    done, _ = drive(answer, halted)
    assert done.begun < 1000


@pytest.mark.slow
@pytest.mark.parametrize("load", [{"rate": 3000.0}, {"clients": 32}])
def test_what_is_abandoned_has_its_record_too(load: dict[str, Any]) -> None:
    """Also what was begun in the very turn of the event loop in which it was abandoned."""

    async def abandoned(client: Client) -> LoadEnd:
        begun = 0
        for _ in range(20):
            client.arm()
            running = asyncio.create_task(client.run(begin(duration_s=5, **load)))
            await asyncio.sleep(0.01)
            client.halt(abandon=True)
            begun += (done := await running).begun
        return msgspec.structs.replace(done, begun=begun)

    done, records = drive(answer, abandoned)
    assert done.begun > 0
    assert len(records) == done.begun
