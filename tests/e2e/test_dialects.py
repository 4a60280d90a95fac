"""Processes that are killed under the load of other protocols' clients: each picture gets its own answer.

`/predict` under every fault is tests/chaos'. Here each protocol meets the two that its own code could spoil.
"""

import base64
import contextlib
import http.client
import itertools
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import pytest

from broker.connection import connect
from tests.support import http as once
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stack import MODEL, START_S, Stack, shade
from tests.support.waiting import eventually
from web.uploads.parameters import MAX_PICTURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHADES: Final = range(0, 240, 3)
"""A picture each; never are there two of one shade at once."""

CLIENTS: Final = 8
BATCH_S: Final = 0.15
TOLERANCE: Final = 1e-6

Probabilities = dict[int, float]
"""Label -> probability."""


@dataclass(frozen=True)
class Dialect:
    """How a protocol asks about one picture, and where its answer has the probabilities."""

    method: str
    path: str
    body: Callable[[bytes], bytes]
    read: Callable[[Any], Probabilities]


def _tensors(picture: bytes) -> bytes:
    element = str(base64.b64encode(picture), "ascii")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [element]}
    return json.dumps({"inputs": [tensor]}).encode()


def _rows(picture: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": str(base64.b64encode(picture), "ascii")}]}).encode()


DIALECTS: Final = {
    "open inference": Dialect(
        "POST",
        f"/v2/models/{MODEL}/infer",
        _tensors,
        lambda answer: dict(enumerate(answer["outputs"][0]["data"])),
    ),
    "tensorflow serving": Dialect(
        "POST",
        f"/v1/models/{MODEL}:predict",
        _rows,
        lambda answer: dict(enumerate(answer["predictions"][0])),
    ),
    "torchserve": Dialect(
        "PUT",
        f"/predictions/{MODEL}",
        lambda picture: picture,
        lambda answer: {int(label): probability for label, probability in answer.items()},
    ),
}


@dataclass(frozen=True)
class Exchange:
    """A request and what became of it."""

    shade: int
    outcome: str
    """`right`, `cut`, or what was wrong."""
    port: int
    """Of the client."""
    began: float
    ended: float


@dataclass
class Load:
    """Clients that ask again as soon as they are answered, each on a connection of its own."""

    port: int
    dialect: Dialect
    predicted: dict[int, Probabilities]
    ledger: list[Exchange] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A context: they ask; at the end the last answers have come."""
        stopping, shades = threading.Event(), itertools.cycle(SHADES)
        threads = [threading.Thread(target=self._ask, args=(shades, stopping)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def wait(self, count: int) -> None:
        """Until so many more are answered."""
        before = len(self.ledger)
        eventually(lambda: len(self.ledger) >= before + count, within_s=START_S)

    def of(self, outcome: str) -> list[Exchange]:
        """The requests that ended so."""
        return [exchange for exchange in self.ledger if exchange.outcome == outcome]

    def others(self) -> set[str]:
        """How else requests ended than right or cut."""
        return {exchange.outcome for exchange in self.ledger} - {"right", "cut"}

    def _ask(self, shades: Iterator[int], stopping: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not stopping.is_set():
            value = next(shades)  # one C call: no two threads get the same
            began, port = time.monotonic(), 0
            try:
                if connection.sock is None:
                    connection.connect()
                port = connection.sock.getsockname()[1]
                connection.request(self.dialect.method, self.dialect.path, self.dialect.body(shade(value)))
                answer = connection.getresponse()
                outcome = self._judged(value, answer.status, answer.read())
            except (ConnectionError, http.client.HTTPException):
                connection.close()
                outcome = "cut"
            except TimeoutError:
                connection.close()
                outcome = "no answer"
            self.ledger.append(Exchange(value, outcome, port, began, time.monotonic()))
        connection.close()

    def _judged(self, value: int, status: int, body: bytes) -> str:
        if status != 200:
            return f"{status}: {body[:200]!r}"
        found, right = self.dialect.read(json.loads(body)), self.predicted[value]
        off = {label for label, each in found.items() if not abs(each - right[label]) <= TOLERANCE}
        return "right" if value in found and not off else f"wrong for {value}: {found}"


class ModelServer(NamedTuple):
    """A process, and what its network has seen."""

    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Service:
    """Two web processes and two model servers over one Redis."""

    stack: Stack
    redis: RedisServer
    web: psutil.Process
    """Gunicorn's master."""
    servers: list[ModelServer] = field(default_factory=list)
    """The later the newer; killed ones, too."""

    def add_server(self) -> None:
        """Start another model server."""
        self.stack.executions = self.stack.folder / f"executions-{len(self.servers)}"
        self.stack.executions.touch()
        process = self.stack.start_model_server(delay_s=BATCH_S)
        self.servers.append(ModelServer(process, self.stack.executions))

    def executed(self) -> Counter[int]:
        """How often each shade was seen by a network."""
        return Counter(int(line) for server in self.servers for line in server.log.read_text().split())

    def connected(self, process: psutil.Process) -> list[int]:
        """The ports of the clients that a web process has."""
        return sorted(
            each.raddr.port
            for each in process.net_connections("tcp")
            if each.raddr and each.laddr.port == self.stack.port and each.status == psutil.CONN_ESTABLISHED
        )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service."""
    with running_redis() as redis:
        stack = Stack(tmp_path_factory.mktemp("service"), redis.url)
        stack.environment |= {"WEB_WORKERS": "2", "RESULT_TTL_S": "5", "REQUEST_TIMEOUT_S": "30"}
        try:
            whole = Service(stack, redis, psutil.Process(stack.start_web().pid))
            for _ in range(2):
                whole.add_server()
            yield whole
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def predicted(service: Service) -> dict[int, Probabilities]:
    """What /predict says of each picture while nothing happens."""
    found: dict[int, Probabilities] = {}
    for first in range(0, len(SHADES), MAX_PICTURES):
        values = SHADES[first : first + MAX_PICTURES]
        files = [("image", (f"{value}.png", shade(value))) for value in values]
        answer = once.post(f"{service.stack.url}/predict?top=256", files=files, timeout=60).json()
        for value, result in zip(values, answer["results"], strict=True):
            found[value] = {int(each["label"]): each["probability"] for each in result["predictions"]}
            assert max(found[value], key=found[value].__getitem__) == value
    return found


@pytest.fixture(params=DIALECTS)
def load(request: pytest.FixtureRequest, service: Service, predicted: dict[int, Probabilities]) -> Load:
    """Clients of one protocol."""
    return Load(service.stack.port, DIALECTS[request.param], predicted)


def test_a_killed_web_process_costs_its_own_clients_one_request_each(service: Service, load: Load) -> None:
    """The one that waits for an answer; or the next one, sent into a connection that has gone."""
    eventually(lambda: len(service.web.children()) == 2, within_s=START_S)
    with load.running():
        load.wait(2 * CLIENTS)
        victim = max(service.web.children(), key=lambda process: len(service.connected(process)))
        ports = service.connected(victim)
        victim.kill()
        load.wait(4 * CLIENTS)
    assert load.others() == set()
    assert ports
    assert sorted(exchange.port for exchange in load.of("cut")) == ports


def test_a_killed_model_server_costs_no_request(service: Service, load: Load) -> None:
    before = service.executed()
    victim = service.servers[-2]
    with load.running():
        load.wait(2 * CLIENTS)
        size = victim.log.stat().st_size
        eventually(lambda: victim.log.stat().st_size > size)  # it has just begun a batch
        struck = time.monotonic()
        victim.process.kill()
        victim.process.wait(timeout=20)
        service.add_server()
        load.wait(2 * CLIENTS)
    assert (load.others(), load.of("cut")) == (set(), [])
    # Every client waited at that moment, but for one or two that were about to ask.
    assert sum(each.began < struck < each.ended for each in load.ledger) > CLIENTS / 2
    executed = service.executed() - before
    answered = Counter(exchange.shade for exchange in load.ledger)
    assert answered - executed == Counter()
    assert executed - answered != Counter()  # else no batch was lost


def test_then_nothing_is_left_in_redis(service: Service) -> None:
    """Of the jobs of the tests before: a result is kept for RESULT_TTL_S."""
    kinds = ("result", "claims", "queue", "polled", "attempts", "dead")
    with connect(service.redis.url, timeout_s=5) as client:

        def jobs() -> list[bytes]:
            return [key for kind in kinds for key in client.keys(f"*:{kind}*")]

        eventually(lambda: not jobs())
