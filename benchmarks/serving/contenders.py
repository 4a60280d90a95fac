"""Who is compared: how each is started, asked and told apart. Data only.

Owns the commands and the environment of every contender's programs. Starts nothing; must give all of them the
same network, the same pictures and batches of up to 32.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.programs import ROOT
from deploy.serve.programs import redis_binary, redis_command
from model_server.engines.choice import choose

PACKAGE: Final = ROOT / "benchmarks" / "serving"
ENGINE: Final = "engine"
"""The environment with OpenVINO; the other environments have the name of their peer."""

_V2_BODY: Final = {
    "inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["$image_base64"]}],
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs: a short folder of its own, a port, the environments' Pythons, the network."""

    folder: Path
    ports: tuple[int, ...]
    """The first is where it answers."""
    pythons: dict[str, str]
    network: Path
    engine: str
    """As engine.py names it."""

    @property
    def port(self) -> int:
        """Where the contender answers."""
        return self.ports[0]


@dataclass(frozen=True, slots=True)
class Program:
    """One process to start. `kind` is what its CPU time is counted as, its children's too."""

    kind: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to measure."""

    name: str
    about: str
    programs: Callable[[Place], list[Program]]
    path: str = "/predict"
    field: str = "image"
    body: str = "multipart"
    """As stress_test.py takes it: multipart, raw, or a template, which is written to a file."""
    environment: str = ENGINE
    decode: str = "full"
    """How much of a JPEG it decodes: its figures are compared with the limit of the same decode."""
    is_peer: bool = False
    has_null: bool = True
    """Whether its path is measured with the null engine, too."""


def module(program: str) -> str:
    """The import path of one of peers/."""
    return f"benchmarks.serving.peers.{program}"


def common(place: Place, wait_ms: float = 0) -> dict[str, str]:
    """What every program is told."""
    return {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "BENCH_ENGINE": place.engine,
        "BENCH_PRECISION": choose("openvino", "auto", keras_backend="tensorflow").precision,
        "BENCH_NETWORK": str(place.network),
        "BENCH_PORT": str(place.port),
        "BENCH_WAIT_MS": str(wait_ms),
    }


def _batchwire(place: Place, *, full_decode: bool, product_engine: bool) -> list[Program]:
    (place.folder / "redis").mkdir()
    environment = common(place) | {
        "REDIS_URL": f"unix://{place.folder}/redis/redis.sock",
        "PORT": str(place.port),
        "MODELS": "resnet50",
        "RESNET50_WEIGHTS": "random",
    }
    model = [place.pythons[ENGINE], "-m", module("batchwire_model")]
    if product_engine and place.engine != "null":
        model = [sys.executable, "-m", "model_server"]
    web = [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py"]
    web += [f"{module('batchwire_full_decode')}:app"] if full_decode else []
    return [
        Program("Redis", redis_command(place.folder)),
        Program("model server", model, environment),
        Program("web", web, environment),
    ]


def _old_pattern(place: Place, *, published: bool) -> list[Program]:
    socket = place.folder / "redis.sock"
    environment = common(place) | {"BENCH_REDIS": f"unix://{socket}"}
    redis = [str(redis_binary()), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    python = sys.executable if published else place.pythons[ENGINE]
    model = [python, "-m", module("old_model"), "published" if published else "engine"]
    # Threads enough that the loads of 128 clients all wait where the pattern makes them wait.
    gunicorn = ["-m", "gunicorn", "--workers", "2", "--threads", "128", "--worker-class", "gthread"]
    bind = ["--bind", f"127.0.0.1:{place.port}", f"{module('old_web')}:app"]
    return [
        Program("Redis", [*redis, "--dir", str(place.folder)]),
        Program("model server", model, environment),
        Program("web", [sys.executable, *gunicorn, *bind], environment),
    ]


def _litserve(place: Place, wait_ms: float) -> list[Program]:
    command = [place.pythons["litserve"], "-m", module("litserve_server")]
    return [Program("server", command, common(place, wait_ms))]


def _mosec(place: Place, wait_ms: float) -> list[Program]:
    address = ["--address", "127.0.0.1", "--port", str(place.port), "--timeout", "60000"]
    command = [place.pythons["mosec"], "-m", module("mosec_server"), *address]
    return [Program("server", command, common(place, wait_ms))]


def _mlserver(place: Place, wait_ms: float) -> list[Program]:
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), place.ports, strict=True))
    model = {"implementation": f"{module('mlserver_runtime')}.Classifier", "name": "net"}
    batching = {"max_batch_size": 32, "max_batch_time": wait_ms / 1000}
    (place.folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False} | ports))
    (place.folder / "model-settings.json").write_text(json.dumps(model | batching))
    command = [str(Path(place.pythons["mlserver"]).parent / "mlserver"), "start", str(place.folder)]
    home = {"MLSERVER_ENVIRONMENTS_DIR": str(place.folder / "environments")}
    return [Program("server", command, common(place, wait_ms) | home)]


def _bentoml(place: Place) -> list[Program]:
    address = ["--host", "127.0.0.1", "--port", str(place.port)]
    command = [place.pythons["bentoml"], "-m", "bentoml", "serve", f"{module('bentoml_service')}:Classifier"]
    home = {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "true"}
    return [Program("server", [*command, *address], common(place) | home)]


def contenders(*, product_engine: bool) -> list[Contender]:
    """Everyone, in the order of the table."""

    def ours(*, full_decode: bool) -> Callable[[Place], list[Program]]:
        return lambda place: _batchwire(place, full_decode=full_decode, product_engine=product_engine)

    path = "/predict?model=resnet50"
    found = [
        Contender("Batchwire", "as shipped", ours(full_decode=False), path, decode="draft"),
        Contender("Batchwire, full decode", "as the others decode", ours(full_decode=True), path),
        Contender(
            "old pattern, as published",
            "model.predict",
            lambda place: _old_pattern(place, published=True),
            has_null=False,
        ),
        Contender("old pattern, same engine", "", lambda place: _old_pattern(place, published=False)),
    ]
    for wait_ms in (10, 1):
        found += _peers(wait_ms)
    multipart = "images"
    bentoml = Contender(
        "BentoML", "one service", _bentoml, field=multipart, environment="bentoml", is_peer=True
    )
    return [*found, bentoml]


def _peers(wait_ms: int) -> list[Contender]:
    """Those with a window to wait in. LitServe can do without; mosec's least is 1 ms, MLServer's above 0."""
    made = [
        ("LitServe", _litserve, "/predict", "multipart", 0),
        ("mosec", _mosec, "/inference", "raw", 1),
        ("MLServer", _mlserver, "/v2/models/net/infer", json.dumps(_V2_BODY), 0.1),
    ]
    found = []
    for name, programs, path, body, least_ms in made:
        window: float = wait_ms if wait_ms > 1 else least_ms
        found.append(
            Contender(
                f"{name}, {window:g} ms",
                f"window of {window:g} ms",
                # Bound now: the loop's names change.
                lambda place, programs=programs, window=window: programs(place, window),  # type: ignore[misc]
                path,
                body=body,
                environment=name.lower(),
                is_peer=True,
                has_null=wait_ms > 1,
            )
        )
    return found
