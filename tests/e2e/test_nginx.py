"""nginx in front of several web hosts that are killed, hang, come and go under load."""

import itertools
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.chaos import numbers
from tests.e2e.web_hosts import BROKEN_OFF, CLIENTS, Host, Load, Sent, WebHosts, ask, is_answered
from tests.support.nginx import Nginx, nginx_before
from tests.support.redis_server import running_redis
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded, read
from web.rpc import health

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

CALL_S: Final = 0.1
"""What a call of the network takes: pictures are under way whenever a host is struck."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHosts]:
    """Redis and a model server. Its web hosts are each test's own, but one."""
    with running_redis() as redis:
        service = WebHosts(tmp_path_factory.mktemp("service"), redis.url)
        service.environment |= {
            "REQUEST_TIMEOUT_S": "40",
            "TRUSTED_PROXIES": "127.0.0.1",
            "ACCESS_LOG": "on",
        }
        try:
            service.web_hosts(3)
            service.start_numbers(delay_s=CALL_S)
            yield service
        finally:
            service.stop()


@contextmanager
def in_front(folder: Path, hosts: list[Host], **changes: str) -> Iterator[Nginx]:
    """A context: nginx in front of these web hosts, each of which has answered a picture."""
    with nginx_before(folder / "nginx", [host.port for host in hosts], changes=changes) as nginx:
        for host in hosts:  # each learns of the model by itself
            eventually(partial(is_answered, host.url, "/readyz"))
        yield nginx


def _is_broken_off(sent: Sent) -> bool:
    return isinstance(sent.body, bytes) and sent.body.startswith(BROKEN_OFF)


def _require_json(failed: list[Sent], status: int, code: str) -> None:
    """All of these were answered so, in the service's shape."""
    for each in failed:
        assert each.status == status, each
        assert each.body["error"]["code"] == code
        assert each.body["request_id"] == f"number-{each.number}"


def test_a_web_host_that_is_killed_takes_its_own_requests_and_none_runs_twice(
    service: WebHosts, tmp_path: Path
) -> None:
    hosts = service.web_hosts(3)
    with in_front(tmp_path, hosts) as nginx, Load(nginx.url) as load:
        load.go_on(3 * CLIENTS)
        assert not load.failed
        hosts[1].kill()
        load.go_on(6 * CLIENTS)
    _require_json([each for each in load.failed if not _is_broken_off(each)], 502, "unavailable")
    assert 1 <= len(load.failed) <= CLIENTS
    runs = service.runs()
    assert {runs[number] for number in load.right} == {1}
    assert max(runs[each.number] for each in load.failed) <= 1


def test_a_picture_with_a_name_outlives_its_web_host_and_runs_once(service: WebHosts, tmp_path: Path) -> None:
    hosts = service.web_hosts(3)
    with in_front(tmp_path, hosts) as nginx, Load(nginx.url, named=True) as load:
        load.go_on(3 * CLIENTS)
        hosts[1].kill()
        load.go_on(6 * CLIENTS)
    assert not load.failed
    assert "upstream prematurely closed" in nginx.log()  # some were under way in that host
    runs = service.runs()
    assert {runs[number] for number in load.right} == {1}


def test_a_web_host_that_hangs_holds_few_and_none_runs_twice(service: WebHosts, tmp_path: Path) -> None:
    hosts = service.web_hosts(3)
    with in_front(tmp_path, hosts, proxy_read_timeout="4s") as nginx, Load(nginx.url) as load:
        load.go_on(3 * CLIENTS)
        with hosts[1].hanging():
            eventually(lambda: bool(load.failed))
            load.go_on(6 * CLIENTS)
        load.go_on(CLIENTS)
    _require_json(load.failed, 504, "deadline_passed")
    assert len(load.failed) <= 2 * CLIENTS
    runs = service.runs()
    assert {runs[number] for number in load.right} == {1}
    assert max(runs[each.number] for each in load.failed) <= 1


def test_hosts_come_and_go_by_a_reload_and_no_request_is_lost(service: WebHosts, tmp_path: Path) -> None:
    hosts = service.web_hosts(3)
    first, *others = hosts
    with in_front(tmp_path, hosts[:2]) as nginx, Load(nginx.url) as load:
        load.go_on(2 * CLIENTS)
        nginx.hosts([host.port for host in others])
        nginx.reload()
        first.leave()
        load.go_on(2 * CLIENTS)
        for _ in range(3):
            nginx.reload()
            load.go_on(CLIENTS)
    assert not load.failed
    runs = service.runs()
    assert {runs[number] for number in load.right} == {1}


@contextmanager
def _closing_host() -> Iterator[tuple[int, Counter[str]]]:
    """A context: a host that takes requests and closes. Its port, and how often it got each path."""
    asked: Counter[str] = Counter()

    def close_all(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked[connection.recv(65536).split()[1].decode()] += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=close_all, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_only_what_cannot_run_twice_goes_to_a_second_host(service: WebHosts, tmp_path: Path) -> None:
    picture = numbers.picture(0)
    requests: dict[str, tuple[str, dict[str, str]]] = {
        "/run": ("GET", {}),
        "/predictions/numbers": ("PUT", {}),
        "/infer": ("POST", {}),
        "/predict": ("POST", {}),
        "/readyz": ("GET", {}),
        "/predict?named": ("POST", {"Idempotency-Key": "closing"}),
    }
    (host,) = service.web_hosts(1)
    with (
        _closing_host() as (port, asked),
        nginx_before(tmp_path / "nginx", [port, host.port], max_fails="0") as nginx,
    ):
        statuses = {
            path: {
                ask(nginx.url, method, path, picture, {"Content-Type": "image/png", **headers})[0]
                for _ in range(4)
            }
            for path, (method, headers) in requests.items()
        }
    assert set(asked) == set(requests)
    assert [path for path in requests if 502 in statuses[path]] == [
        "/run",
        "/predictions/numbers",
        "/infer",
        "/predict",
    ]
    assert all(200 in each for each in statuses.values()), statuses


def test_the_web_tier_believes_nginx_where_a_client_is(service: WebHosts, tmp_path: Path) -> None:
    (host,) = service.web_hosts(1)
    with in_front(tmp_path, [host]) as nginx, socket.socket() as client:
        client.bind(("127.0.0.2", 0))
        client.settimeout(30)
        where = urlsplit(nginx.url)
        client.connect((where.hostname or "", where.port or 0))
        client.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: from-afar\r\n"
            b"X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n"
        )
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    log = (service.folder / f"gunicorn-{host.port}.log").read_text()
    (line,) = [each for each in log.splitlines() if "from-afar" in each]
    assert "127.0.0.2" in line
    assert "203.0.113.9" not in line


def test_a_client_of_http_1_0_need_name_no_host(service: WebHosts, tmp_path: Path) -> None:
    (host,) = service.web_hosts(1)
    with in_front(tmp_path, [host]) as nginx:
        where = urlsplit(nginx.url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_without_a_web_host_nginx_is_alive_and_says_in_json_that_it_is_alone(tmp_path: Path) -> None:
    with nginx_before(tmp_path / "nginx", [9]) as nginx:
        assert ask(nginx.url, "GET", "/nginx-healthz") == (200, b'{"status":"ok"}\n')
        named = {"Idempotency-Key": "alone"}
        for method, path, headers in (
            ("GET", "/run", {}),
            ("POST", "/predict", named),
            ("GET", "/healthz", {}),
        ):
            status, body = ask(nginx.url, method, path, b"x", headers)
            assert (status, json.loads(body)["error"]["code"]) == (502, "unavailable")


def test_a_stream_of_events_and_a_wait_last_for_half_a_minute(service: WebHosts, tmp_path: Path) -> None:
    hosts = service.web_hosts(1)
    with in_front(tmp_path, hosts, proxy_read_timeout="45s") as nginx, ThreadPoolExecutor(2) as pool:
        service.model_server.send_signal(signal.SIGSTOP)
        try:
            headers = {"Prefer": "respond-async"}
            status, body = ask(nginx.url, "POST", "/predict", numbers.picture(0), headers)
            assert status == 202, body
            address = f"/predictions/{json.loads(body)['id']}"
            stream = pool.submit(_lines, nginx, f"{address}/events?model=numbers")
            began = time.monotonic()
            waited, _ = ask(nginx.url, "GET", f"{address}?model=numbers&wait=30")
            took_s = time.monotonic() - began
        finally:
            service.model_server.send_signal(signal.SIGCONT)
        came = stream.result(timeout=60)
    assert (waited, took_s >= 30) == (202, True)
    assert [line for _, line in came if line.startswith("event: ")] == ["event: pending", "event: done"]
    beats = [at - began for at, line in came if line.startswith(":")]
    assert len(beats) >= 5
    assert beats[0] < 20  # five seconds, where nobody else has the cores: it did not wait for the rest


def _lines(nginx: Nginx, path: str) -> list[tuple[float, str]]:
    """The lines of an answer, and when each came."""
    where = urlsplit(nginx.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        return [(time.monotonic(), line.decode().rstrip()) for line in client.makefile("rb")]


class _Calls:
    """Clients of gRPC that each ask for number after number, and count what they are answered."""

    def __init__(self, port: int, first: int) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._numbers = itertools.count(first)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, count: int) -> None:
        """Wait until so many more were answered."""
        before = self.answers["right"]
        eventually(lambda: self.answers["right"] >= before + count, within_s=60)

    def _ask(self) -> None:
        with RpcClient(self._port) as client:
            while not self._over.is_set():
                number = next(self._numbers)
                picture = encoded(numbers.picture(number), model_name=numbers.MODEL)
                try:
                    answer = client.ask("ModelInfer", timeout=60, **picture)
                except grpc.RpcError as error:
                    self.answers[f"{error.code().name}: {error.details()}"] += 1
                else:
                    best = int(read(answer)["probabilities"].argmax())
                    self.answers["right" if best == number else f"{best} for {number}"] += 1


def test_a_grpc_host_that_is_killed_takes_its_own_calls_and_none_runs_twice(
    service: WebHosts, tmp_path: Path
) -> None:
    hosts = service.grpc_hosts(2)
    first = numbers.COUNT // 2
    with nginx_before(tmp_path / "nginx", [9], grpc=[host.port for host in hosts]) as nginx:
        with RpcClient(nginx.grpc_port) as client:
            eventually(lambda: client.ask("Check").status == health_pb2.HealthCheckResponse.SERVING)
        with _Calls(nginx.grpc_port, first) as calls:
            calls.go_on(3 * CLIENTS)
            hosts[0].kill()
            calls.go_on(6 * CLIENTS)
    cut = "UNAVAILABLE: No gRPC process could be reached, or it ended before it answered."
    assert set(calls.answers) == {"right", cut}
    assert calls.answers[cut] <= CLIENTS
    assert {count for number, count in service.runs().items() if number >= first} == {1}


def test_grpc_takes_what_its_process_takes_and_is_refused_in_its_own_words(
    service: WebHosts, tmp_path: Path
) -> None:
    (host,) = service.grpc_hosts(1)
    with (
        nginx_before(tmp_path / "nginx", [9], grpc=[host.port]) as nginx,
        RpcClient(nginx.grpc_port) as client,
    ):
        eventually(lambda: client.ask("Check").status == health_pb2.HealthCheckResponse.SERVING)
        large = numbers.picture(5) + bytes(15 * 1024 * 1024)
        answer = client.ask("ModelInfer", **encoded(large, model_name=numbers.MODEL))
        assert int(read(answer)["probabilities"].argmax()) == 5
        larger = encoded(numbers.picture(5) + bytes(20 * 1024 * 1024), model_name=numbers.MODEL)
        refused = client.refused("ModelInfer", **larger)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Received message larger than max" in refused.details()
        watch = client.channel.unary_stream(
            f"/{health.SERVICE}/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with host.hanging():
            late = client.refused("ServerLive")
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not answer" in late.details()
        host.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        host.process.wait(timeout=60)
        gone = client.refused("Check")
        assert gone.code() is grpc.StatusCode.UNAVAILABLE
        assert gone.details() == "No gRPC process could be reached, or it ended before it answered."
