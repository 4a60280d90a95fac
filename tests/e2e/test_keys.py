"""API keys over real processes: two web processes, gRPC, a model server, and the operator's command.

One stack for all. At the end no secret is in any log, nor in a dump of Redis.
"""

import base64
import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from broker.connection import connect
from tests.support import http, program_fork
from tests.support.redis_server import as_user, running_redis
from tests.support.stack import MODEL, Stack, shade
from tests.support.waiting import eventually
from tests.web.rpc.client import METHODS, RpcClient, encoded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LIVE_S = 2.5
"""Two seconds until every process knows, and what a busy machine adds."""


class Service(Stack):
    """The stack with keys, and what its operator makes."""

    secrets: list[str]
    redis_url: str
    web: "subprocess.Popen[bytes]"
    model_server: "subprocess.Popen[bytes]"

    def start_shades(self) -> None:
        """Start a model server: `start_model_server` asks without a key which workers are ready."""
        self.model_server = self.start(
            "tests.e2e.shades_server", str(self.executions), "0", log="model_server"
        )

    def command(self, *arguments: str) -> str:
        """What `python -m web.keys` prints."""
        environment = {**self.environment, "REDIS_URL": as_user(self.redis_url, "operator")}
        done = program_fork.run(["web.keys", *arguments], env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        if arguments[0] in ("add", "rotate"):
            self.secrets.append(done.stdout.strip())
        return done.stdout.strip()

    def add(self, name: str, *options: str) -> dict[str, str]:
        """The header field of a new key, which every process knows."""
        field = {"X-API-Key": self.command("add", name, *options)}
        self.eventually_everywhere(field, lambda status: status != 401)
        return field

    def eventually_everywhere(self, field: dict[str, str], holds: Any, within_s: float = 20.0) -> None:  # noqa: ANN401
        """Until so many connections see it so, all open: the processes share them evenly."""

        def is_so() -> bool:
            with contextlib.ExitStack() as connections:
                clients = [connections.enter_context(http.client(timeout=20)) for _ in range(12)]
                return all(
                    holds(client.get(f"{self.url}/v2", headers=field).status_code) for client in clients
                )

        eventually(is_so, within_s=within_s)

    def reload(self) -> None:
        """Have Gunicorn start web processes anew, and until the ones before have gone."""
        before = psutil.Process(self.web.pid).children()
        self.web.send_signal(signal.SIGHUP)
        psutil.wait_procs(before, timeout=60)
        assert not any(process.is_running() for process in before)

    def rpc_code(self, field: dict[str, str]) -> str:
        """The status of a call with that field."""
        metadata = [(name.lower(), value) for name, value in field.items()]
        with RpcClient(self.grpc_port) as rpc:
            try:
                message = METHODS["ModelInfer"][1](**encoded(shade(7), model_name=MODEL))
                rpc.method("ModelInfer")(message, metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_redis() as redis:
        made = Service(tmp_path_factory.mktemp("keys"), redis.url)
        made.secrets, made.redis_url = [], redis.url
        made.environment |= {
            "API_KEYS": "required",
            "WEB_WORKERS": "2",
            "LOG_LEVEL": "debug",
            "ACCESS_LOG": "on",
        }
        try:
            made.web = made.start_web()
            made.start_grpc()
            made.start_shades()
            eventually(lambda: made.answers(f"/readyz?model={MODEL}"), within_s=60)
            yield made
        finally:
            made.stop()


def _dialects() -> list[tuple[str, dict[str, Any]]]:
    form = {"files": {"image": ("x.png", shade(7), "image/png")}}
    return [
        ("/predict", form),
        ("/run", form),
        (f"/predictions/{MODEL}", form),
        (f"/v1/models/{MODEL}:predict", {"json": {"instances": [{"b64": _base64(shade(7))}]}}),
        (
            f"/v2/models/{MODEL}/infer",
            {
                "json": {
                    "inputs": [
                        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_base64(shade(7))]}
                    ]
                }
            },
        ),
    ]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _post(service: Service, path: str, field: dict[str, str], **sent: Any) -> httpx.Response:  # noqa: ANN401
    return http.post(service.url + path, headers=field, timeout=30, **sent)


def test_every_dialect_asks_for_a_key_that_is_known(service: Service) -> None:
    ann, revoked = service.add("ann"), service.add("revoked")
    service.command("revoke", "revoked")
    service.eventually_everywhere(revoked, lambda status: status == 401, within_s=LIVE_S + 5)
    wrong = {"X-API-Key": ann["X-API-Key"][:-4] + "aaaa"}
    for path, sent in _dialects():
        assert _post(service, path, ann, **sent).status_code == 200, path
        refused = [_post(service, path, field, **sent) for field in ({}, wrong, revoked)]
        assert [each.status_code for each in refused] == [401] * 3, path
        assert len({each.text for each in refused if "request_id" not in each.text}) <= 1
    # Its process has a snapshot of its own.
    eventually(lambda: service.rpc_code(revoked) == "UNAUTHENTICATED", within_s=LIVE_S + 5)
    codes = [service.rpc_code(field) for field in (ann, {}, wrong, revoked)]
    assert codes == ["OK", "UNAUTHENTICATED", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert "ann  bw_" in service.command("list")


def test_a_large_upload_by_nobody_is_refused_by_its_head(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        # Ten megabytes that never come: nobody waits for them.
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nx")
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_rotation_reaches_every_process_and_the_old_secret_works_meanwhile(service: Service) -> None:
    old = service.add("rotated")
    fresh = {"X-API-Key": service.command("rotate", "rotated", "--keep-old", "3600")}
    service.eventually_everywhere(fresh, lambda status: status == 200, within_s=LIVE_S + 5)
    service.eventually_everywhere(old, lambda status: status == 200)
    newest = {"X-API-Key": service.command("rotate", "rotated")}
    for field in (old, fresh):
        service.eventually_everywhere(field, lambda status: status == 401, within_s=LIVE_S + 5)
    assert http.get(f"{service.url}/v2", headers=newest, timeout=20).status_code == 200


def test_jobs_are_their_key_s_and_are_listed_for_it(service: Service) -> None:
    ben, cleo = service.add("ben"), service.add("cleo")
    accepted = _post(
        service,
        "/predict",
        {**ben, "Prefer": "respond-async"},
        files={"image": ("x.png", shade(7), "image/png")},
    )
    assert accepted.status_code == 202
    address = service.url + accepted.headers["Location"]
    for method in ("GET", "DELETE"):
        assert http.request(method, address, headers=cleo, timeout=20).status_code == 404
    eventually(lambda: http.get(address, headers=ben, timeout=20).status_code == 200)
    listed = [
        http.get(f"{service.url}/jobs", headers=field, timeout=20).json()["jobs"] for field in (ben, cleo)
    ]
    assert [[job["id"] for job in jobs] for jobs in listed] == [[accepted.json()["id"]], []]


def test_limits_hold_over_all_processes_together(service: Service) -> None:
    limited = service.add("limited", "--rate", "0.001", "--burst", "6")
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(_post(service, "/predict", limited, files={"image": ("x.png", shade(7), "image/png")}))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.status_code for each in answers) == [200] * 6 + [429] * 6
    assert all(int(each.headers["Retry-After"]) > 900 for each in answers if each.status_code == 429)
    # The process of gRPC may learn of the key later than those of HTTP.
    eventually(lambda: service.rpc_code(limited) == "RESOURCE_EXHAUSTED", within_s=LIVE_S + 5)
    service.command("change", "limited", "--rate", "0")
    eventually(lambda: service.rpc_code(limited) == "OK", within_s=LIVE_S + 5)
    scraper = service.add("scraper", "--may", "metrics")
    told = http.get(f"{service.url}/metrics", headers=scraper, timeout=20).text
    assert 'batchwire_requests_limited_total{key="limited",reason="rate_limited"}' in told


def test_a_key_s_backlog_keeps_no_other_waiting(service: Service) -> None:
    """Whatever its priority: each priority of each key has a turn among the first four."""
    heavy, light = service.add("heavy", "--priority", "high"), service.add("light")
    service.model_server.kill()
    service.model_server.wait(20)
    seen = len(service.executed())
    sent = [(heavy, 1, "normal")] * 12 + [(light, 2, "normal"), (heavy, 3, "high"), (light, 4, "low")]
    for field, value, priority in sent:
        files = {"image": ("x.png", shade(value), "image/png")}
        path = f"/predict?priority={priority}"
        accepted = _post(service, path, {**field, "Prefer": "respond-async"}, files=files)
        assert accepted.status_code == 202, accepted.text
    service.start_shades()
    eventually(lambda: len(service.executed()) == seen + len(sent), within_s=60)
    order = service.executed()[seen:]
    assert max(order.index(value) for value in (2, 3, 4)) < 4


def test_a_process_that_stops_tells_which_keys_it_has_seen(service: Service) -> None:
    service.reload()  # those tell it by themselves in a minute
    service.add("seen")

    def line() -> str:
        return next(each for each in service.command("list").splitlines() if each.startswith("seen "))

    assert "  used -  " in line()
    service.reload()
    assert "  used 2" in line()


def test_no_secret_is_in_a_log_or_in_redis(service: Service) -> None:
    assert len(service.secrets) > 5
    logs = "".join(path.read_text("utf-8", "replace") for path in service.folder.glob("*.log"))
    assert "ann" in logs  # the lines of requests have the names
    with connect(service.redis_url, timeout_s=5) as client:
        client.config_set("save", "")
        dumped = [client.dump(key) or b"" for key in client.keys()]
        stored = client.hgetall("bw:keys")
    files = b"".join(path.read_bytes() for path in _redis_files(service) if path.is_file())
    assert b"ann" in stored
    for text in service.secrets:
        secret = text.split("_", 2)[2]
        assert secret not in logs
        assert secret.encode() not in files
        assert not any(secret.encode() in each for each in (*dumped, *stored.values()))


def _redis_files(service: Service) -> list[Path]:
    """Its append-only file among them."""
    place = Path(service.redis_url.removeprefix("unix://").partition("?")[0])
    return [*place.parent.rglob("*")]
