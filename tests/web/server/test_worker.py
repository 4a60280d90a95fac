"""The patient worker's loop over real sockets, in this process, with an app of its own and short bounds."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.errors import Overloaded
from tests.support.waiting import eventually
from tests.web.server.serving import AT_MOST, GET, HALF, MUCH, THREADS, Client, Serving, post
from web.server import answer_socket, holding, request_reader, stages, worker
from web.server.connection import Connection
from web.server.request_reader import Arrival
from web.server.worker import PatientWorker


def test_requests_on_one_connection_are_answered_in_order_however_they_come(serving: Serving) -> None:
    client = serving.client()
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    client.send(GET + post(b"x" * 100_000) + chunked + post(b"y")[:-1])
    lengths = [client.answer()[1]["length"] for _ in range(3)]
    client.send(b"y" + GET)
    lengths += [client.answer()[1]["length"] for _ in range(2)]
    assert lengths == [0, 100_000, 3, 1, 0]


def test_a_thread_sees_whether_its_client_has_sent_more_or_closed(serving: Serving) -> None:
    clients = [serving.client() for _ in range(THREADS)]
    for client in clients:
        client.send(GET.replace(b"/echo", b"/wait"))
    eventually(lambda: len(serving.waiting) == THREADS)
    assert not any(each.has_input for each in serving.waiting)
    kept = next(each for each in serving.waiting if each.getpeername() == clients[0].socket.getsockname())
    clients[0].send(GET)
    clients[1].close()
    eventually(lambda: all(each.has_input for each in serving.waiting))
    serving.release.set()
    assert [clients[0].answer()[0] for _ in range(2)] == [200, 200]
    eventually(lambda: not kept.has_input)


@pytest.mark.parametrize(
    ("kept_s", "named_s"), [(1, 1), (2, 1), (30, 27), (50, 45), (120, 115), (3600, 3595)]
)
def test_the_margin_of_keep_alive_is_a_tenth_within_bounds(kept_s: int, named_s: int) -> None:
    assert worker._named_s(kept_s) == named_s


def test_an_answer_says_how_long_its_connection_may_be_idle(serving: Serving) -> None:
    client = serving.client()
    for request in (GET, post(b"abc")):
        client.send(request)
        head = _head(client)
        assert head["connection"] == "keep-alive"
        assert head["keep-alive"] == "timeout=27"  # of 30
    old = b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    client.send(old)
    head = _head(client)
    assert (head["connection"], head["keep-alive"]) == ("keep-alive", "timeout=27")
    client.send(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    head = _head(client)
    assert head["connection"] == "close"
    assert "keep-alive" not in head
    assert client.at_end()


def test_an_answer_that_closes_names_no_time(serving: Serving) -> None:
    for request in (b"GET /echo HTTP/1.0\r\n\r\n", post(b"x" * (AT_MOST + 1))[:100]):
        client = serving.client()
        client.send(request)
        head = _head(client)
        assert head["connection"] == "close"
        assert "keep-alive" not in head


def _head(client: Client) -> dict[str, str]:
    """The next answer's fields, by names in small letters; its body is read as well."""
    return {name.lower(): value for name, value in client.answer()[2].items()}


def test_an_idle_connection_is_closed_late_and_never_under_a_request(serving: Serving) -> None:
    serving.worker.cfg.set("keepalive", 1)
    idle, used = serving.client(), serving.client()
    for client in (idle, used):
        client.send(GET)
        assert client.answer()[0] == 200
    eventually(lambda: len(serving.worker.keepalived_conns) == 2)
    looked_at = threading.Event()

    def busy() -> None:  # the loop is at other work while the time passes and the request comes
        used.send(GET)
        for conn in serving.worker.keepalived_conns:
            conn.timeout = 0.0
        serving.worker.murder_keepalived()
        looked_at.set()

    serving.worker.method_queue.defer(busy)
    assert looked_at.wait(10)
    assert used.answer()[0] == 200
    assert idle.at_end()


@pytest.mark.slow
def test_the_idle_time_counts_from_the_answer_s_last_byte(serving: Serving) -> None:
    serving.worker.cfg.set("keepalive", 1)
    client = serving.client()
    client.send(GET.replace(b"/echo", b"/wait"))
    time.sleep(1.2)  # longer than it may be idle
    serving.release.set()
    assert client.answer()[0] == 200
    answered = time.monotonic()
    assert client.at_end()
    assert time.monotonic() - answered >= 0.9


def test_a_client_that_waits_for_100_continue_gets_it_once(serving: Serving) -> None:
    client = serving.client()
    client.send(post(b"abc", b"Expect: 100-continue")[:-3])
    assert client.answer()[0] == 100
    client.send(b"abc")
    assert client.answer()[:2] == (200, {"length": 3, "path": "/echo?", "client": "127.0.0.1"})


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HALF, 408, "upload_timeout"),
        (post(b"x" * 100)[:-50], 408, "upload_timeout"),
        (post(b"x" * (AT_MOST + 1))[:100], 413, "too_large"),
        (b"GET /" + b"x" * 5000, 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000, 431, "header_too_large"),
        (post(b"", b"Content-Length: 3"), 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n", 400, "bad_request"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: x\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /x\r\n\r\n", 400, "bad_request"),
    ],
)
def test_what_never_gets_whole_is_refused_in_words_and_its_connection_closed(
    serving: Serving, sent: bytes, status: int, code: str
) -> None:
    client = serving.client()
    client.send(sent)
    answer = client.answer()
    assert (answer[0], answer[1]["success"]) == (status, False)
    assert answer[1]["error"]["code"] == code  # type: ignore[index]
    assert answer[2]["Connection"] == "close"
    assert client.at_end()
    client.close()
    eventually(lambda: serving.worker.nr_conns == 0)
    assert serving.worker.arriving.held == 0


def test_a_request_that_is_cut_short_is_told_so(serving: Serving) -> None:
    client = serving.client()
    client.send(post(b"abc")[:-1])
    client.socket.shutdown(socket.SHUT_WR)
    assert client.answer()[0] == 400
    assert client.at_end()


def test_an_answer_reaches_a_client_that_is_still_sending(serving: Serving) -> None:
    client = serving.client()
    client.send(post(b"x" * (AT_MOST + 1))[:-1])  # all of it before the first look at the answer
    assert client.answer()[0] == 413
    assert client.at_end()


def test_a_client_that_reads_nothing_before_it_has_sent_everything_gets_its_413(serving: Serving) -> None:
    client = serving.client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * AT_MOST))
    for _ in range(20):  # twice as long as the fixture lets one linger that sends nothing
        client.send(b"x" * (AT_MOST // 10))
        time.sleep(0.04)
    status, body, _ = client.answer()
    assert (status, body["error"]["code"]) == (413, "too_large")  # type: ignore[index]


@pytest.mark.slow
def test_clients_of_every_slow_kind_hold_no_thread(serving: Serving) -> None:
    for _ in range(20 * THREADS):
        serving.client().send(HALF)
        serving.client().send(post(b"x" * 100)[:-50])
        closing = serving.client()
        closing.send(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        serving.client()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: serving.answers(), range(40)))
    assert serving.worker.tpool._work_queue.empty()


def test_a_client_that_sends_ahead_does_not_keep_the_loop_awake(serving: Serving) -> None:
    client = serving.client()
    client.send(GET.replace(b"/echo", b"/wait"))
    eventually(lambda: bool(serving.worker.tpool._threads))
    client.send(GET)
    eventually(lambda: len(serving.worker.poller.get_map()) == 2)  # the listener, and the pipe of the threads
    serving.release.set()
    assert [client.answer()[0] for _ in range(2)] == [200, 200]


def test_what_was_woken_for_a_closed_connection_does_nothing(serving: Serving) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(serving.worker.cfg, ours, None, None)
        serving.worker.nr_conns += 1
        serving.worker._drop(connection)
        serving.worker._on_readable(connection, ours)
    assert serving.worker.nr_conns == 0


def much(serving: Serving, *, buffer: int = 4096) -> Client:
    """A client that has asked for more than the kernel takes, and reads nothing yet."""
    reader = serving.client()
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    reader.send(GET.replace(b"/echo", b"/much"))
    return reader


@pytest.mark.slow
def test_clients_that_read_slowly_hold_no_thread(serving: Serving) -> None:
    readers = [much(serving) for _ in range(10 * THREADS)]
    eventually(lambda: len(serving.worker.sending) == len(readers))
    assert serving.worker.sending.unsent > 0
    assert all(serving.answers() for _ in range(20))
    assert readers[0].socket.recv(1000)  # they trickle, and are still being answered
    assert len(serving.worker.sending) == len(readers)
    for reader in readers:
        reader.close()
    eventually(lambda: serving.worker.sending.unsent == 0)
    eventually(lambda: len(serving.worker.sending) == 0)


def test_a_client_that_reads_late_gets_all_of_its_answer_and_the_next_one(serving: Serving) -> None:
    reader = much(serving, buffer=65536)
    reader.send(GET)
    eventually(lambda: len(serving.worker.sending) == 1)
    assert reader.raw() == (200, b"x" * MUCH)
    assert reader.answer()[0] == 200
    assert serving.worker.sending.unsent == 0


def test_what_comes_as_an_answer_ends_that_is_not_read_yet_waits_for_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = serving.client()
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    begin, sweep, given = serving.worker.enqueue_req, serving.worker.murder_pending, list[Connection]()
    turns = iter(range(2))

    def after_each_turn() -> None:
        sweep()
        if given and next(turns, None) == 1:
            begin(given[0])
            eventually(lambda: not serving.worker.method_queue._queue.empty())
            reader.send(GET)  # the next turn is woken for the end of the answer, and after that for this

    with monkeypatch.context() as patch:
        patch.setattr(serving.worker, "enqueue_req", given.append)
        patch.setattr(serving.worker, "murder_pending", after_each_turn)
        reader.send(GET.replace(b"/echo", b"/much"))
        eventually(lambda: len(serving.worker.sending) == 1)
    assert reader.raw() == (200, b"x" * MUCH)
    assert reader.answer()[0] == 200
    eventually(lambda: len(serving.worker.keepalived_conns) == 1)
    assert (len(serving.worker.sending), serving.worker.sending.unsent) == (0, 0)


@pytest.mark.parametrize("name", ["SILENCE_S", "GRACE_S"])
def test_a_client_that_reads_nothing_or_too_slowly_is_given_up(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(answer_socket, "PACE_BYTES_PER_S", 1e12)
    monkeypatch.setattr(answer_socket, name, 0.3)
    monkeypatch.setattr(answer_socket, {"SILENCE_S": "GRACE_S", "GRACE_S": "SILENCE_S"}[name], 60)
    reader = much(serving)
    # One who must only read something now and then does so; the other reads on, and never comes to an end.
    eventually(lambda: serving.worker.nr_conns == 0 or (name == "GRACE_S" and not reader.socket.recv(1000)))
    assert len(serving.worker.sending) == 0
    assert serving.worker.sending.unsent == 0


def test_of_too_much_that_is_unread_the_client_with_the_most_is_given_up(serving: Serving) -> None:
    serving.worker.sending.unsent_most = 3 * MUCH // 2
    readers = [much(serving) for _ in range(2)]
    eventually(lambda: serving.worker.nr_conns == 1)
    assert serving.worker.sending.unsent <= MUCH
    for reader in readers:
        reader.close()


def test_a_client_that_never_closes_is_closed(serving: Serving) -> None:
    client = serving.client()
    client.send(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    assert client.answer()[0] == 200
    assert client.at_end()
    eventually(lambda: serving.worker.nr_conns == 0)


@pytest.mark.parametrize("connections", [10])
@pytest.mark.parametrize("sent", [b"", HALF, GET.replace(b"Host: x", b"Host: x\r\nConnection: close")])
def test_when_all_places_are_taken_one_that_does_nothing_gives_way(serving: Serving, sent: bytes) -> None:
    for _ in range(30):
        serving.client().send(sent)
    assert serving.answers()
    assert serving.worker.nr_conns <= 10


@pytest.mark.parametrize("connections", [32])
def test_a_flood_of_half_requests_takes_its_places_from_itself(serving: Serving) -> None:
    """Clients that were idle, or had just come, used to be reset; those of the flood stayed."""
    kept = serving.client()
    kept.send(GET)
    assert kept.answer()[0] == 200
    flood: list[Client] = []

    def flood_on() -> None:
        for _ in range(30):
            flood.append(serving.client())
            flood[-1].send(HALF)

    flood_on()
    fresh = serving.client()  # its request is on its way
    flood_on()
    for honest in (kept, fresh):
        honest.send(GET)
        assert honest.answer()[0] == 200
    status, body, fields = flood[0].answer()
    assert (status, body["error"]["code"]) == (503, "overloaded")  # type: ignore[index]
    assert fields["Retry-After"] == "1"
    assert serving.worker.nr_conns <= 32


@pytest.mark.parametrize("connections", [32])
def test_those_that_never_sent_anything_give_way_first(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SILENT_S", 0.0)
    honest = [serving.client() for _ in range(15)]
    for client in honest:
        client.send(GET)
        assert client.answer()[0] == 200
    for _ in range(60):
        serving.client()
    for client in honest:  # the largest crowd, for a while
        client.send(GET)
        assert client.answer()[0] == 200


@pytest.mark.parametrize("connections", [32])
def test_a_request_that_came_while_the_loop_was_busy_is_not_silence(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SILENT_S", 0.0)
    busy = threading.Event()
    clients = [serving.client() for _ in range(27)]
    eventually(lambda: serving.worker.nr_conns == 27)
    serving.worker.method_queue.defer(busy.wait, 30)
    clients += [serving.client() for _ in range(10)]
    for client in clients:
        client.send(GET)
    busy.set()
    assert [client.answer()[0] for client in clients] == [200] * 37


def test_of_too_many_bytes_the_largest_upload_gives_way(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_reader, "SILENCE_S", 60)
    serving.worker.arriving.held_most = 500_000
    first, largest, last = (serving.client() for _ in range(3))
    for client, size in ((first, 150_000), (largest, 250_000)):
        before = serving.worker.arriving.held
        client.send(post(b"x" * AT_MOST)[: size - AT_MOST])
        eventually(lambda more=before + size: serving.worker.arriving.held == more)  # type: ignore[misc]
    last.send(post(b"x" * AT_MOST)[: 200_000 - AT_MOST])
    refused = largest.answer()
    assert (refused[0], refused[1]["error"]["code"]) == (503, "overloaded")  # type: ignore[index]
    assert refused[2]["Retry-After"] == "1"
    eventually(lambda: serving.worker.arriving.held == 350_000)
    assert serving.answers()


@pytest.mark.slow
def test_an_upload_on_its_way_when_it_is_told_to_stop_is_answered(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.server.worker.STOP_KEEPALIVE_LINGER", 0.1)
    half, idle = serving.client(), serving.client()
    idle.send(GET)
    assert idle.answer()[0] == 200
    whole = post(b"abc")
    half.send(whole[:-1])
    eventually(lambda: len(serving.worker.arriving) == 1)
    serving.told_to_stop()
    assert idle.at_end()  # whoever sends nothing has had its time
    half.send(whole[-1:])
    assert half.answer()[0] == 200


@pytest.mark.slow
def test_told_to_stop_it_answers_what_is_whole_and_waits_for_nothing_else(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, half, idle = serving.client(), serving.client(), serving.client()
    working.send(GET.replace(b"/echo", b"/wait"))
    eventually(lambda: bool(serving.worker.tpool._threads))
    idle.send(GET)
    assert idle.answer()[0] == 200
    monkeypatch.setattr(request_reader, "SILENCE_S", 60)
    monkeypatch.setattr("web.server.worker.STOP_KEEPALIVE_LINGER", 0.3)
    serving.worker.cfg.set("graceful_timeout", 4)
    monkeypatch.setattr(request_reader, "GRACE_S", 60)
    half.send(post(b"abc")[:-1])
    eventually(lambda: len(serving.worker.arriving) == 1)
    serving.told_to_stop()
    assert idle.at_end()
    assert half.answer()[0] == 503
    half.close()
    serving.release.set()
    assert working.answer()[0] == 200
    eventually(serving.ended)


def test_after_its_loop_it_may_go_on_until_it_must_have_ended(serving: Serving) -> None:
    """What is polled ends then; Gunicorn, which hears nothing any more, would kill it after a while."""
    serving.told_to_stop()
    eventually(serving.ended)
    left_s = serving.worker.tmp.last_update() - time.monotonic()
    assert 10 < left_s <= serving.worker.left_s() + 1 <= 19


def test_when_gunicorn_s_master_is_gone_it_keeps_no_connection(serving: Serving) -> None:
    busy = serving.client()
    busy.send(GET)
    assert busy.answer()[2]["Connection"] == "keep-alive"
    serving.worker.ppid = -1

    def is_closed() -> bool:
        busy.send(GET)
        return busy.answer()[2]["Connection"] == "close"

    eventually(is_closed)
    assert busy.at_end()
    eventually(serving.ended)


@pytest.mark.parametrize("given", [b"X-Request-ID: mine-1\r\n", b"X-Request-ID: a b\r\n", b""])
def test_a_refusal_says_the_request_s_id_as_answers_do(serving: Serving, given: bytes) -> None:
    client = serving.client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + given + b"Content-Length: 9999999999\r\n\r\n")
    status, body, fields = client.answer()
    assert (status, body["request_id"]) == (413, fields["X-Request-ID"])
    assert (fields["X-Request-ID"] == "mine-1") is (b"mine-1" in given)
    assert len(fields["X-Request-ID"]) in (6, 36)


def test_the_refusal_of_a_head_has_no_body(serving: Serving) -> None:
    client = serving.client()
    client.send(b"HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
    raw = b""
    while more := client.socket.recv(65536):
        raw += more
    assert raw.startswith(b"HTTP/1.1 413 ")
    assert raw.endswith(b"\r\n\r\n")
    assert b"success" not in raw


@pytest.fixture
def turning_away(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every POST is turned away, and its body's first byte noted; nothing is a storm until a test says so."""
    seen: list[bytes] = []

    def turn_away(arrival: Arrival) -> Overloaded | None:
        if arrival.head.method != "POST":
            return None
        seen.append(arrival.opened().body.read(1))
        return Overloaded("Full.", retry_after_s=3)

    monkeypatch.setattr(PatientWorker, "turn_away", staticmethod(turn_away))
    return seen


def test_a_request_that_is_turned_away_takes_no_thread_and_keeps_its_connection(
    serving: Serving, turning_away: list[bytes]
) -> None:
    busy = [serving.client() for _ in range(THREADS)]
    for client in busy:
        client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    client = serving.client()
    for byte in (b"a", b"b"):
        client.send(post(byte * 100_000, b"X-Request-ID: mine"))
        status, body, fields = client.answer()
        assert (status, body["error"]) == (503, {"code": "overloaded", "message": "Full."})
        assert fields["Retry-After"] == "3"
        assert fields["X-Request-ID"] == "mine"
        assert (fields["Connection"], fields["Keep-Alive"]) == ("keep-alive", "timeout=27")
    assert turning_away == [b"a", b"b"]
    assert serving.worker.arriving.held < 1000
    serving.release.set()
    client.send(GET)
    assert client.answer()[0] == 200
    assert [each.answer()[0] for each in busy] == [200, 200]


@pytest.mark.parametrize(
    "request_",
    [
        post(b"x", b"Connection: close"),
        post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"x") + post(b"y"),  # what comes along would be turned away within the same call, and so on
    ],
)
def test_one_that_closes_is_turned_away_and_closed(
    serving: Serving, turning_away: list[bytes], request_: bytes
) -> None:
    client = serving.client()
    client.send(request_)
    status, _, fields = client.answer()
    assert (status, fields["Connection"]) == (503, "close")
    assert client.at_end()
    assert turning_away[0] == b"x"


def _after_a_storm(serving: Serving) -> Client:
    """A client whose requests have been turned away as often as makes a storm."""
    client = serving.client()
    for _ in range(holding.STORM):
        client.send(post(b"x"))
        client.answer()
    return client


def test_in_a_storm_refusals_are_held_without_a_thread(
    serving: Serving, turning_away: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_S", 0.5)
    _after_a_storm(serving)
    gone, patient = serving.client(), serving.client()
    began = time.monotonic()
    gone.send(post(b"y"))
    patient.send(post(b"x"))
    eventually(lambda: len(serving.worker.held.waiting) == 2)
    gone.close()
    assert serving.answers()
    assert time.monotonic() - began < 0.5
    assert patient.answer()[0] == 503
    assert time.monotonic() - began >= 0.5
    patient.send(GET)
    assert patient.answer()[0] == 200
    assert turning_away.count(b"x") == holding.STORM + 1


def test_a_process_that_stops_holds_no_refusal(
    serving: Serving, turning_away: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_S", 60)
    client = _after_a_storm(serving)
    client.send(post(b"x"))
    eventually(lambda: len(serving.worker.held.waiting) == 1)
    serving.told_to_stop()
    status, _, fields = client.answer()
    assert (status, fields["Connection"]) == (503, "close")
    assert turning_away


def test_told_to_stop_it_takes_who_waits_to_be_accepted_and_refuses_who_comes_later(serving: Serving) -> None:
    at_work = serving.client()
    at_work.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    waiting = [serving.client() for _ in range(300)]
    for client in waiting:
        client.send(GET)
    serving.told_to_stop()

    def is_refused() -> bool:
        try:
            socket.create_connection(serving.address, timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(is_refused, within_s=10)
    assert not serving.ended()
    serving.release.set()
    assert at_work.answer()[0] == 200
    assert [client.answer()[0] for client in waiting] == [200] * len(waiting)
