"""What the tests of the model server share: a worker on a real Redis, with a network that is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.keys import Keys
from model_server.serving.worker import Worker
from tests.model_server.serving.versioned import Model
from tests.support import fakes, keras_fork
from tests.support.fakes import FakeEngine
from tests.support.waiting import eventually


@pytest.fixture
def converts_in_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each conversion is by a process that has loaded Keras already; test_conversion.py is about new ones."""
    monkeypatch.setattr("model_server.engines.openvino.conversion.subprocess", keras_fork.CONVERSIONS)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def worker(client: redis.Redis, keys: Keys, engine: FakeEngine, tmp_path: Path) -> Iterator[Worker]:
    made = fakes.worker(client, keys, engine, tmp_path)
    made.pipeline.engine = engine
    yield made
    made.pipeline.close()


@pytest.fixture
def model(client: redis.Redis, keys: Keys, tmp_path: Path) -> Iterator[Model]:
    """A model whose folder can be changed, and what serves it; nothing looks by itself."""
    made = Model(tmp_path, client, keys)
    eventually(made.is_settled)
    yield made
    made.end(client, keys)
