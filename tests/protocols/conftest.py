"""One service for all clients: web tier, Redis and the model server of `digits`."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.protocols import digits
from tests.support import ROOT
from tests.support.redis_server import running_redis
from tests.support.stack import Stack, web_up
from tests.support.waiting import eventually


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service."""
    with running_redis() as server:
        stack = Stack(tmp_path_factory.mktemp("served"), server.url, digits.MODEL)
        stack.environment["MODELS_DIR"] = str(ROOT / "models")
        stack.start("model_server", log="model_server")
        with web_up(stack):
            stack.start_grpc()
            eventually(lambda: stack.answers(f"/readyz?model={digits.MODEL}"), within_s=120)
            yield stack


@pytest.fixture(scope="package")
def predicted(served: Stack) -> NDArray[np.float64]:
    """What /predict says of the pictures: a row of probabilities each."""
    rows = digits.predicted(served)
    # Else a client that sent one picture for all would not be noticed.
    assert [*rows.argmax(axis=1)] == [*digits.DIGITS]
    return rows
