"""What servers do to a client's connections: refuse, lose, garble, flood, lead astray."""

import asyncio
import socket
import threading
from typing import Any

import msgspec
import pytest

from loadtest.sending.load_loop import Client
from loadtest.sending.messages import OK, LoadPlan, Record, Target, Traffic
from loadtest.sending.target import prepare
from loadtest.sending.traffic import Requests
from tests.loadtest.driving import begin, drive
from tests.loadtest.stub import StubServer, answer


def test_a_location_may_not_lead_to_another_host() -> None:
    def script(_: int) -> dict[str, Any]:
        return {"status": 202, "location": "http://127.0.0.2:9/predictions/x"}

    _, records = drive(script, lambda client: client.run(begin(clients=1, requests=1)), polled=1.0)
    assert [record.outcome for record in records] == ["bad answer: Location leads elsewhere"]


def test_a_refused_connection_is_told_from_a_lost_one() -> None:
    _, records = drive(lambda _: None, lambda client: client.run(begin(clients=1, requests=1)))
    assert [record.outcome for record in records] == ["connection lost"]
    _, records = drive(
        answer,
        lambda client: client.run(begin(clients=1, requests=1)),
        server_does=lambda server: server.socket.close(),
    )
    assert [record.outcome for record in records] == ["connection refused"]


@pytest.mark.parametrize(("keep_alive", "connections"), [(True, 1), (False, 5)])
def test_connections_are_kept_or_not_as_asked(
    keep_alive: bool, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: set[int] = set()
    take = StubServer.process_request

    def process(server: StubServer, request: socket.socket, address: tuple[str, int]) -> None:
        ports.add(address[1])
        take(server, request, address)

    monkeypatch.setattr(StubServer, "process_request", process)
    drive(answer, lambda client: client.run(begin(clients=1, requests=5)), keep_alive=keep_alive)
    assert len(ports) == connections


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.sending.connections._LARGEST_ANSWER", 100_000)
    _, records = drive(
        lambda number: b"x" * 100_001 if number else answer(0, padding="x" * 90_000),
        lambda client: client.run(begin(clients=1, requests=2)),
    )
    assert [record.outcome for record in records] == [OK, "bad answer: too large"]


def test_a_garbled_answer_writes_no_secret_down() -> None:
    """Aiohttp's own words for it hold the request's headers."""
    target = Target("", headers=(("Authorization", "s3cret"),))
    with socket.create_server(("127.0.0.1", 0)) as garbage:

        def babble() -> None:
            connection, _ = garbage.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 \xff\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        url = f"http://127.0.0.1:{garbage.getsockname()[1]}"
        records = asyncio.run(one(msgspec.structs.replace(target, url=url)))
        thread.join()
    assert [record.outcome for record in records] == ["connection lost"]
    assert "s3cret" not in repr(records)


async def one(target: Target) -> list[Record]:
    plan = LoadPlan(target, Traffic())
    requests = Requests(plan.traffic)
    client = Client(plan, requests, await prepare(target, requests, [""]))
    try:
        await client.run(begin(clients=1, requests=1))
        return client.taken()
    finally:
        await client.close()


@pytest.mark.parametrize("location", ["http://[", "/predictions/\x1b]0;x\x07"])
def test_every_request_has_its_record_whatever_a_server_says(location: str) -> None:
    _, records = drive(
        lambda _: {"status": 202, "location": location},
        lambda client: client.run(begin(clients=1, requests=3)),
        polled=1.0,
    )
    assert [record.number for record in records] == [0, 1, 2]
    assert all(record.outcome != OK and record.outcome.isprintable() for record in records)
    assert all(record.message.isprintable() for record in records)
