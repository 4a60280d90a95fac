"""Real processes over a Redis Cluster whose slots move: every request gets its own picture's answer."""

import itertools
import threading
from pathlib import Path

import pytest

from broker.keys import Keys, shard_of
from tests.support import http
from tests.support.redis_cluster import running_cluster
from tests.support.stack import MODEL, Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

REQUESTS = 60
REFUSED = -1


@pytest.mark.parametrize("shards", [1, 4])
def test_slots_move_under_real_pictures(tmp_path: Path, shards: int) -> None:
    own = Keys("bw:").of(MODEL)
    parts = [own, *map(own.of_shard, range(shards))] if shards > 1 else [own]
    with running_cluster() as cluster:
        stack = Stack(tmp_path, cluster.url)
        stack.environment["QUEUE_SHARDS"] = str(shards)
        with web_up(stack):
            stack.start_model_server()
            # The web tier reads how many shards there are every other second.
            eventually(lambda: shards == 1 or _ask(stack, 0) in range(shards))
            stopping = threading.Event()

            def move() -> None:
                for part in itertools.cycle(parts):
                    if stopping.wait(0.2):
                        return
                    cluster.move(part.queue)

            mover = threading.Thread(target=move)
            mover.start()
            try:
                used = _send(stack)
            finally:
                stopping.set()
                mover.join()
    assert used == ({None} if shards == 1 else set(range(shards)))


def _send(stack: Stack) -> set[int | None]:
    """Send pictures, check their answers, and return the shards that they went through."""
    used = [_ask(stack, number % 8 * 32) for number in range(REQUESTS)]
    answered = [shard for shard in used if shard != REFUSED]
    assert len(answered) > REQUESTS / 2
    return set(answered)


def _ask(stack: Stack, value: int) -> int | None:
    """The shard that a rightly answered picture went through; None where there is one queue alone."""
    answer = http.post(stack.url + "/predict", files={"image": shade(value)}, timeout=30)
    if answer.status_code == 503:  # a slot that moved for long refuses
        return REFUSED
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"] == str(value)
    return shard_of(answer.json()["id"])
