"""The programs of `make serve`, and the words of its ready line."""

import configparser
import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import redis

from broker.clock import RedisClock
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from broker.registry import Registry
from deploy.serve import programs, ready
from deploy.serve.programs import CannotStart
from settings import Settings
from tests.support import http_server
from tests.support.fakes import CARD, KEY_TTL_S, MODEL
from tests.support.private_files import modes

SETTINGS = Settings.from_env({"MODEL_SERVERS": "3", "REDIS_URL": "redis://:hunter2@host:1/0"})


def _config(path: Path) -> configparser.RawConfigParser:
    config = configparser.RawConfigParser()
    assert config.read(path) == [str(path)]
    return config


def test_redis_starts_first_and_stops_last(tmp_path: Path) -> None:
    config = _config(programs.write(SETTINGS, tmp_path, embedded_redis=True))
    names = ("redis", "rewriting", "model_server", "web")
    order = [config.getint(f"program:{name}", "priority") for name in names]
    assert order == sorted({*order})
    assert config.get("program:model_server", "numprocs") == "3"
    drain_s = config.getint("program:model_server", "stopwaitsecs")
    assert drain_s >= SETTINGS.request_timeout_s + 2


@pytest.mark.parametrize(("embedded", "count"), [(True, 7), (False, 5)])
def test_its_processes_are_counted(tmp_path: Path, embedded: bool, count: int) -> None:
    assert programs.count(programs.write(SETTINGS, tmp_path, embedded_redis=embedded)) == count


def test_grpc_is_a_program_unless_its_port_is_0(tmp_path: Path) -> None:
    config = _config(programs.write(SETTINGS, tmp_path, embedded_redis=True))
    assert config.get("program:grpc", "command").endswith('"-m" "web.rpc"')
    for name in ("priority", "stopwaitsecs", "autorestart"):
        assert config.get("program:grpc", name) == config.get("program:web", name)
    without = replace(SETTINGS, grpc_port=0)
    assert not _config(programs.write(without, tmp_path, embedded_redis=True)).has_section("program:grpc")


def test_a_redis_of_the_user_s_is_not_started(tmp_path: Path) -> None:
    config = _config(programs.write(SETTINGS, tmp_path, embedded_redis=False))
    assert not config.has_section("program:redis")
    assert not config.has_section("program:rewriting")


def test_redis_files_are_its_user_s_alone_those_of_an_earlier_release_too(tmp_path: Path) -> None:
    old = tmp_path / "redis" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    old.parent.mkdir(parents=True)
    old.write_text("pictures")
    old.chmod(0o644)
    config = _config(programs.write(SETTINGS, tmp_path, embedded_redis=True))
    assert modes(tmp_path / "redis") == {"d700", "600"}
    assert config.get("program:redis", "umask") == "077"


def test_no_secret_is_written(tmp_path: Path) -> None:
    assert "hunter2" not in programs.write(SETTINGS, tmp_path, embedded_redis=False).read_text()


def test_the_embedded_redis_keeps_every_write_and_listens_on_no_port(tmp_path: Path) -> None:
    command = " ".join(programs.redis_command(tmp_path))
    for option in ("--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction", "--port 0"):
        assert option in command
    assert programs.redis_binary().is_file()


def test_odd_characters_in_a_path_reach_the_program_whole(tmp_path: Path) -> None:
    var = tmp_path / 'with space, 100% and "quotes"'
    config = _config(programs.write(SETTINGS, var, embedded_redis=True))
    # As supervisor reads it: percent signs are expanded, then the words are split.
    words = shlex.split(config.get("program:redis", "command") % {})
    assert str(var / "redis" / "redis.sock") in words


def test_a_path_too_long_for_a_socket_is_refused_in_words(tmp_path: Path) -> None:
    assert programs.redis_url(tmp_path) == f"unix://{tmp_path}/redis/redis.sock"
    with pytest.raises(CannotStart, match="too long for a Unix socket"):
        programs.redis_url(tmp_path / ("x" * 100))


CARDS = {
    "digits": {
        "model": "digits",
        "state": "ready",
        "engine": "tensorflow",
        "precision": "fp32",
        "weights": "w",
        "reason": "",
    },
    "resnet50": {"model": "resnet50", "state": "failed", "reason": "no weights"},
}


def test_the_announcement_names_what_failed_and_offers_what_works() -> None:
    said = ready.announcement("http://localhost:5000", CARDS, ("resnet50", ""), seconds=12.3)
    assert said.startswith("Batchwire is ready on http://localhost:5000 after 12 s.\n")
    assert "resnet50  FAILED  no weights" in said
    assert "curl -X POST -F image=@docs/digit-7.png 'http://localhost:5000/predict?model=digits'" in said


def test_the_announcement_prefers_a_model_with_a_picture_in_the_project() -> None:
    cards = dict.fromkeys(("tiny", "digits"), CARDS["digits"])
    said = ready.announcement("http://localhost:5000", cards, ("tiny", ""), seconds=1)
    assert "-F image=@docs/digit-7.png 'http://localhost:5000/predict?model=digits'" in said


def test_a_failed_model_s_name_is_said_once() -> None:
    card = CARDS["resnet50"] | {"reason": "mine: ENGINE=jax can't run net.onnx."}
    said = ready.announcement("http://h", {"mine": card}, ("mine", ""), seconds=1)
    assert "  mine  FAILED  ENGINE=jax can't run net.onnx.\n" in said


def test_the_announcement_names_the_port_of_grpc() -> None:
    said = ready.announcement("http://localhost:5000", CARDS, ("digits", ""), seconds=1, grpc_port=8001)
    assert said.startswith("Batchwire is ready on http://localhost:5000 (gRPC: port 8001) after 1 s.\n")


def test_without_any_model_it_does_not_say_ready() -> None:
    cards = {"resnet50": CARDS["resnet50"]}
    said = ready.announcement("http://localhost:5000", cards, ("resnet50", "digits"), seconds=1)
    assert "is ready" not in said
    assert "curl" not in said


@pytest.fixture
def models() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A server whose /models gives what the list holds."""
    shown: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"models": shown}).encode())

        def log_message(self, *_: object) -> None: ...

    with http_server.running(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}", shown


def test_waits_until_each_model_is_ready_or_has_failed(
    models: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, shown = models
    looks: list[None] = []

    def running() -> bool:
        looks.append(None)
        if len(looks) == 3:
            shown[:] = [{"model": "digits", "state": "ready"}, {"model": "resnet50", "state": "loading"}]
        if len(looks) == 5:
            shown[1]["state"] = "failed"
        return len(looks) < 50

    monkeypatch.setattr(ready, "_LOOK_S", 0.0)
    cards = ready.wait(url, ("resnet50", "digits"), say=print, running=running)
    assert cards is not None
    assert list(cards) == ["resnet50", "digits"]
    assert len(looks) == 5


STREET: dict[str, object] = {
    "model": "street",
    "state": "no worker",
    "reason": "No model server serves blobs, lite, which its steps ask.",
    "steps": [{"model": "blobs"}, {"model": "lite"}, {"model": "blobs"}],
}


@pytest.mark.parametrize("elsewhere", ["not in MODELS", "in MODELS"])
def test_a_pipeline_without_its_steps_models_is_waited_for_only_where_they_are_to_come(
    elsewhere: str, models: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, shown = models
    shown[:] = [STREET, dict(CARDS["digits"])]
    looks = iter(range(5))
    monkeypatch.setattr(ready, "_LOOK_S", 0.0)
    monkeypatch.setattr(ready, "_KNOWN_S", 0.0)
    served = ("street", "digits") if elsewhere == "not in MODELS" else ("street", "digits", "blobs", "lite")
    cards = ready.wait(url, served, say=print, running=lambda: next(looks) < 4)
    if elsewhere == "in MODELS":
        assert cards is None
        return
    assert cards is not None
    said = ready.announcement(url, cards, ("street", "digits"), seconds=1)
    assert said.startswith(f"Batchwire is ready on {url} after 1 s.\n")
    assert (
        f"  street  WAITS   {STREET['reason']} Name them in MODELS: MODELS=street,blobs,lite, or serve "
        in said
    )
    alone = ready.announcement(url, {"street": cards["street"]}, ("street", ""), seconds=1)
    assert alone.startswith(f"Batchwire answers on {url}, but no model can answer yet.\n")


def test_a_pipeline_that_has_no_worker_yet_is_waited_for() -> None:
    cards = {"street": STREET | {"reason": ""}}
    assert not ready._elsewhere("street", cards, ("street",))
    assert ready._elsewhere("street", {"street": STREET}, ("street", "blobs"))
    assert not ready._elsewhere("street", {"street": STREET, "lite": CARDS["digits"]}, ("street", "blobs"))


def test_where_clients_need_a_key_redis_is_asked_for_the_models(
    models: tuple[str, list[dict[str, object]]], client: redis.Redis, keys: Keys
) -> None:
    lease = Lease(client, keys, CARD, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
    lease.register(State(WorkerState.READY, "v1"))
    registry = Registry(client, keys, RedisClock())
    cards = ready.wait(models[0], (MODEL,), say=print, running=lambda: True, registry=registry)
    assert cards is not None
    assert (cards[MODEL]["state"], cards[MODEL]["engine"]) == ("ready", CARD.engine)
    said = ready.announcement("http://h", cards, (MODEL, ""), seconds=1, has_keys=True)
    assert '-H "X-API-Key: KEY" ' in said
    assert "-m web.keys add NAME" in said


def test_gives_up_when_what_it_waits_for_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_LOOK_S", 0.0)
    left = iter([True, True, False])
    assert ready.wait("http://127.0.0.1:9", ("a",), say=print, running=lambda: next(left)) is None
