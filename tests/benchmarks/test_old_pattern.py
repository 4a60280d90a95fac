"""The old pattern is made again with its defects: without them the comparison would be unfair."""

import io
import json
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from benchmarks.serving import old_pattern
from benchmarks.serving.old_pattern import Floats


def ones(batch: Floats) -> Floats:
    return np.tile(np.arange(10, dtype=np.float32), (len(batch), 1))


def put(client: redis.Redis, count: int, first: int = 0) -> None:
    pixels = np.zeros(old_pattern.SHAPE, np.float32)
    for number in range(first, first + count):
        client.rpush(old_pattern.QUEUE, old_pattern.pack(f"job-{number}", pixels))


def test_a_picture_travels_as_float32_in_base64() -> None:
    pixels = np.random.default_rng(0).random(old_pattern.SHAPE).astype(np.float32)
    entry = old_pattern.pack("a", pixels)
    assert len(json.loads(entry)["image"]) == 802_816
    job_id, back = old_pattern.unpack(entry.encode())
    assert job_id == "a"
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.slow
def test_a_batch_is_of_32_at_most_and_is_trimmed_off(client: redis.Redis) -> None:
    put(client, 40)
    assert old_pattern.serve_once(client, ones) == 32
    assert client.llen(old_pattern.QUEUE) == 8
    best = json.loads(str(client.get("job-31"), "ascii"))  # type: ignore[arg-type]
    assert [each["label"] for each in best] == [9, 8, 7, 6, 5]
    assert client.ttl("job-31") == -1
    assert client.get("job-32") is None
    assert old_pattern.serve_once(client, ones) == 8
    assert old_pattern.serve_once(client, ones) == 0


@pytest.mark.slow
def test_two_model_processes_delete_what_neither_has_seen(client: redis.Redis) -> None:
    put(client, 64)

    def meanwhile_another(batch: Floats) -> Floats:
        old_pattern.serve_once(client, ones)
        return ones(batch)

    old_pattern.serve_once(client, meanwhile_another)
    assert client.llen(old_pattern.QUEUE) == 0
    assert client.get("job-31") is not None
    assert client.get("job-32") is None


def test_who_asks_polls_every_quarter_of_a_second(client: redis.Redis) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            old_pattern.serve_once(client, ones)

    picture = io.BytesIO()
    Image.new("RGB", (32, 24)).save(picture, "JPEG")
    answer: Any = old_pattern.ask(client, picture.getvalue(), sleep=sleep)
    assert slept == [0.25] * 3
    assert answer[0]["label"] == 9
    assert client.keys() == []


@pytest.mark.parametrize("size", [(1280, 720), (30, 40)])
def test_a_picture_is_resized_whole(size: tuple[int, int]) -> None:
    picture = io.BytesIO()
    Image.new("RGB", size, "red").save(picture, "PNG")
    assert old_pattern.prepare(picture.getvalue()).shape == old_pattern.SHAPE
