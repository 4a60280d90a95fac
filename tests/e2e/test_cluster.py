"""Real processes over a Redis Cluster whose slots move: every request gets its own picture's answer."""

import threading
from pathlib import Path

import pytest

from broker.keys import Keys
from tests.support import http
from tests.support.redis_cluster import running_cluster
from tests.support.stack import MODEL, Stack, shade, web_up

pytestmark = pytest.mark.slow

REQUESTS = 60


def test_slots_move_under_real_pictures(tmp_path: Path) -> None:
    with running_cluster() as cluster:
        stack = Stack(tmp_path, cluster.url)
        with web_up(stack):
            stack.start_model_server()
            stopping = threading.Event()

            def move() -> None:
                while not stopping.wait(0.2):
                    cluster.move(Keys("bw:").of(MODEL).queue)

            mover = threading.Thread(target=move)
            mover.start()
            try:
                _send(stack)
            finally:
                stopping.set()
                mover.join()


def _send(stack: Stack) -> None:
    right = 0
    for number in range(REQUESTS):
        value = number % 8 * 32
        answer = http.post(stack.url + "/predict", files={"image": shade(value)}, timeout=30)
        assert answer.status_code in (200, 503), answer.text  # a slot that moved for long refuses
        if answer.status_code == 200:
            assert answer.json()["predictions"][0]["label"] == str(value)
            right += 1
    assert right > REQUESTS / 2
