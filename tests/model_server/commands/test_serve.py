"""What the process hands to its workers: the choice of engine, for the card, the answers and the loading."""

from functools import partial
from pathlib import Path

import pytest

from broker.outage import Outage
from model_server.commands import serve as server
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.hooks import HookOptions
from model_server.serving.device import Device
from settings import Settings, for_own_code
from tests.model_server.engines import tiny

CHOICE = EngineChoice("some-engine", "some-precision")


def test_a_worker_that_fails_by_a_bug_of_ours_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model would go on without its worker, and nobody would start one."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)

    class Broken:
        spec = type("Spec", (), {"name": "broken"})

        def run(self) -> None:
            raise RuntimeError("a bug")

    server._run(Broken())  # type: ignore[arg-type]
    assert ended == [1]


def test_the_choice_reaches_the_card_the_answers_and_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "CACHE_DIR": "kept",
        "ENGINE_THREADS": "3",
        "BATCH_SIZE": "5",
    }
    loaded: list[object] = []
    monkeypatch.setattr(loading, "load", lambda *arguments: loaded.extend(arguments))
    settings, spec = Settings.from_env(given), tiny.spec(tmp_path)
    monkeypatch.setattr(server, "_choice", lambda *_: CHOICE)
    load, outage = partial(server.load_engine, settings, spec), Outage()
    worker = server.worker_threads(settings, Device(), outage, lambda: None, spec, load).worker
    assert (worker.spec.engine, worker.spec.precision) == (CHOICE.engine, CHOICE.precision)
    card = worker.spec.card()
    assert (card.engine, card.precision) == (CHOICE.engine, CHOICE.precision)
    assert worker.outage is outage
    worker.load()
    hooks = HookOptions(are_on=True, environment=for_own_code())
    options = EngineOptions(5, cache=Path("kept"), threads=3, hooks=hooks)
    assert loaded == [worker.spec, CHOICE, options]


def test_a_network_whose_file_can_t_be_looked_into_gets_a_worker_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice of int8 reads the file; its failure must not end the process and the other models."""

    def fail(*_: object) -> EngineChoice:
        raise RuntimeError("no graph")

    settings, spec = Settings.from_env({"REDIS_URL": "redis://127.0.0.1:9/0"}), tiny.spec(tmp_path)
    monkeypatch.setattr(server, "_choice", fail)
    load, outage = partial(server.load_engine, settings, spec), Outage()
    worker = server.worker_threads(settings, Device(), outage, lambda: None, spec, load).worker
    with pytest.raises(RuntimeError, match="no graph"):
        worker.load()
