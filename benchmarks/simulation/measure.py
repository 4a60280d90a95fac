"""What a picture costs each process, measured: makes costs.json.

Owns the runs: the real service with a network that sleeps, small batches and large ones, several uploads and
inputs. Processor time is counted, of which other programs on the machine change little; the clock is not.
"""

import io
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import redis
from msgspec import structs
from PIL import Image

from benchmarks.serving.pictures import photo
from benchmarks.simulation import costs, real_service
from benchmarks.simulation.costs import CostFile, DecodeCost, InputCost, WebCost
from benchmarks.simulation.real_service import CpuTimes, RealService, main_thread_s
from broker.connection import connect
from broker.consumer import CompletedJob
from broker.keys import Keys
from broker.messages import Fit, InputSpec, Pace, Result
from pictures import fit
from tests.support import fakes
from tests.support.redis_server import running_redis

PICTURES: Final = ("640x480", "1280x720", "1920x1080", "4000x3000")
INPUTS: Final = ((28, 28, 1), (224, 224, 3), (640, 640, 3))

_BASE_PICTURE: Final = "640x480"
_BASE_INPUT: Final = (224, 224, 3)
_LEAST_INPUT: Final = INPUTS[0]
"""What does not depend on the input's size shows best beside the least."""

_AT_ONCE: Final = "1"
"""Milliseconds of the network's call: batches of one picture or two."""
_SLOWLY: Final = "1000"
"""And of ten and more."""

_SETTINGS: Final = {"WEB_WORKERS": "2", "BATCH_SIZE": "32", "REQUEST_TIMEOUT_S": "30"}

_RATE: Final = 12.0
"""Pictures a second: so few that a busy machine has them done as well."""
_IDLE_S: Final = 3.0
_BATCH: Final = 32
_ROUNDS: Final = 8
_DECODES: Final = 20
_MAX_PIXELS: Final = 50_000_000

_REPLY_SHARE: Final = 0.25
"""Which part of the web tier's Python comes after the result: an estimate that hardly matters, since all of
it is spent on the same cores and on a picture's way."""


@dataclass(frozen=True, slots=True)
class PictureCpu:
    """Processor seconds a picture, without what the processes use when idle."""

    web_s: float
    redis_s: float
    model_server_s: float
    batch: float
    """Pictures a call of the network."""


def run(seconds: float, out: Path) -> int:
    """Measure all, for so long each, and write the file."""
    processor, cores, when = real_service.about()
    in_redis = {each: RedisCpu.measure(each) for each in INPUTS}
    with tempfile.TemporaryDirectory() as name:
        uploads = {each: draw(Path(name), each) for each in PICTURES}
        base = uploads[_BASE_PICTURE]
        small, large = dict[tuple[int, int, int], PictureCpu](), dict[tuple[int, int, int], PictureCpu]()
        web_s: dict[str, float] = {}
        for shape in INPUTS:
            with real_service.real_service(_AT_ONCE, input_shape=shape, settings=_SETTINGS) as service:
                small[shape] = _picture_cpu(service, base, seconds)
                for each in PICTURES[1:] if shape == _BASE_INPUT else ():
                    web_s[each] = _picture_cpu(service, uploads[each], seconds).web_s
                service.change_speed(_SLOWLY)
                large[shape] = _picture_cpu(service, base, seconds)
        python = {shape: max(0.0, small[shape].web_s - _decode_s(base, shape)) for shape in INPUTS}
        python_s, decode_s = python[_BASE_INPUT], small[_BASE_INPUT].web_s - python[_BASE_INPUT]
        reply_s = _REPLY_SHARE * python_s
        pictures = [DecodeCost(_BASE_PICTURE, _kilobytes(base), _ms(decode_s))]
        for each, spent_s in web_s.items():
            pictures.append(DecodeCost(each, _kilobytes(uploads[each]), _ms(spent_s - python_s)))
        refusal_s = _refusal_s(base, seconds, accepted_s=small[_BASE_INPUT].web_s)
    rest_s, wait_s = _rest_of_redis(in_redis[_LEAST_INPUT], small[_LEAST_INPUT], large[_LEAST_INPUT])
    inputs = [
        _input_cost(
            each,
            in_redis[each],
            small[each],
            large[each],
            rest_s=rest_s,
            submit_s=max(0.0, python[each] - reply_s),
        )
        for each in INPUTS
    ]
    web = WebCost(_ms(reply_s), _ms(refusal_s))
    file = CostFile(
        processor, cores, when, _us(in_redis[_BASE_INPUT].ask_s), _us(wait_s), web, pictures, inputs
    )
    costs.write(file, out)
    sys.stdout.write(f"{out}: {processor}, {cores} cores, {when}\n")
    return 0


def draw(folder: Path, size: str) -> Path:
    """A folder of four photo-like pictures of that size, with as many bytes a pixel as a photo has."""
    width, height = map(int, size.split("x"))
    photos = [Image.open(io.BytesIO(photo(number))) for number in range(4)]
    (folder / size).mkdir()
    for number in range(4):
        wall = Image.new("RGB", (width, height))
        tiles = [(left, top) for left in range(0, width, 1280) for top in range(0, height, 720)]
        for place, corner in enumerate(tiles, number):
            wall.paste(photos[place % 4], corner)
        wall.save(folder / size / f"{number}.jpg", quality=80)
    return folder / size


def _picture_cpu(service: RealService, upload: Path, seconds: float) -> PictureCpu:
    service.send(_RATE, 2, picture=upload)  # warms everything up
    spent, load = _spent(service, lambda: service.send(_RATE, seconds, picture=upload))
    pictures = sum(each.status == 200 for each in load.requests)
    if pictures < len(load.requests):
        raise real_service.LoadFailed(f"{len(load.requests) - pictures} pictures were not answered")
    batch = statistics.mean(size for _, size in load.calls)
    found = PictureCpu(
        spent.web_s / pictures, spent.redis_s / pictures, spent.model_server_s / pictures, batch
    )
    sys.stdout.write(
        f"{upload.name}: {pictures} pictures, {batch:.1f} a batch; CPU ms a picture: web {_ms(found.web_s)}, "
        f"Redis {_ms(found.redis_s)}, model server {_ms(found.model_server_s)}\n"
    )
    sys.stdout.flush()
    return found


def _spent(
    service: RealService, act: Callable[[], real_service.RealLoad]
) -> tuple[CpuTimes, real_service.RealLoad]:
    """What the processes used for it, without what they use in as long a time that is idle."""
    idle_before, idle_began = service.cpu(), time.monotonic()
    time.sleep(_IDLE_S)
    before, began = service.cpu(), time.monotonic()
    load = act()
    after, ended = service.cpu(), time.monotonic()
    scale = (ended - began) / (began - idle_began)

    def net(field: str) -> float:
        idle_s = getattr(before, field) - getattr(idle_before, field)
        return float(getattr(after, field) - getattr(before, field) - scale * idle_s)

    return CpuTimes(net("web_s"), net("redis_s"), net("model_server_s")), load


def _refusal_s(upload: Path, seconds: float, *, accepted_s: float) -> float:
    """Of the web tier, a picture that finds the queue full."""
    settings = {"WEB_WORKERS": "2", "BATCH_SIZE": "1", "QUEUE_LIMIT": "1"}
    with real_service.real_service("2000", input_shape=_BASE_INPUT, settings=settings) as service:
        spent, load = _spent(service, lambda: service.send(8 * _RATE, seconds, picture=upload))
    refused = sum(each.status == 503 for each in load.requests)
    return max(0.0, spent.web_s - (len(load.requests) - refused) * accepted_s) / max(1, refused)


def _decode_s(upload: Path, shape: tuple[int, int, int]) -> float:
    height, width, channels = shape
    spec = InputSpec(width=width, height=height, channels=channels, fit=Fit.STRETCH)
    picture = next(upload.iterdir()).read_bytes()
    spent = []
    for _ in range(_DECODES):
        began = time.thread_time()
        fit.prepare(picture, spec, max_pixels=_MAX_PIXELS)
        spent.append(time.thread_time() - began)
    return statistics.median(spent)


@dataclass(frozen=True, slots=True)
class RedisCpu:
    """Seconds of Redis' thread: its operations one by one, in batches of 1 and of 32."""

    ask_s: float
    enqueue_s: float
    claims_s: dict[int, float]
    completions_s: dict[int, float]

    def picture_s(self, batch: float) -> float:
        """Of a picture, in batches of so many."""
        claim, claim_job = split(self.claims_s)
        complete, complete_job = split(self.completions_s)
        return self.enqueue_s + claim_job + complete_job + (claim + complete) / batch

    @classmethod
    def measure(cls, shape: tuple[int, int, int]) -> "RedisCpu":
        """For pictures of that shape, on a Redis of its own."""
        with running_redis() as server, connect(server.url, timeout_s=60) as client:
            return _redis_cpu(client, server.pid, shape)


def _redis_cpu(client: redis.Redis, pid: int, shape: tuple[int, int, int]) -> RedisCpu:
    keys = Keys("bw:")
    producer, consumer = fakes.producer(client, keys), fakes.consumer(client, keys)
    worker = fakes.lease(client, keys, lease_s=600).register(fakes.READY)
    image = np.frombuffer(os.urandom(shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
    blank = structs.replace(fakes.job(reply_to="bench"), image=image)
    spent: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[[], object], count: int) -> None:
        before = main_thread_s(pid)
        act()
        spent.setdefault(name, []).append((main_thread_s(pid) - before) / count)

    def enqueue() -> None:
        for _ in range(_BATCH):
            producer.enqueue(fakes.MODEL, structs.replace(blank, id=str(uuid.uuid4())))

    def ask() -> None:
        for _ in range(_BATCH):
            producer.admit(fakes.MODEL, size=1000, timeout_s=60, pace=Pace(), polled=True)

    def claim(batch: int) -> None:
        ids.extend(each.id for each in consumer.claim(worker, batch))

    def complete(batch: int) -> None:
        done = [CompletedJob(each, _result(each), reply_to="bench") for each in ids[:batch]]
        if not consumer.complete(worker, done):
            raise RuntimeError("the claims do not begin with this batch. This is a bug")
        del ids[:batch]

    for _ in range(_ROUNDS):
        for batch in (1, _BATCH):
            ids: list[str] = []
            timed("ask", ask, _BATCH)
            timed("enqueue", enqueue, _BATCH)
            for _ in range(_BATCH // batch):
                timed(f"claim {batch}", lambda batch=batch: claim(batch), 1)  # type: ignore[misc]
                timed(f"complete {batch}", lambda batch=batch: complete(batch), 1)  # type: ignore[misc]
    middle = {name: statistics.median(values) for name, values in spent.items()}
    return RedisCpu(
        middle["ask"],
        middle["enqueue"],
        {batch: middle[f"claim {batch}"] for batch in (1, _BATCH)},
        {batch: middle[f"complete {batch}"] for batch in (1, _BATCH)},
    )


def _result(job_id: str) -> Result:
    return Result(id=job_id, model=fakes.MODEL, model_version="1")


def split(seconds: dict[int, float]) -> tuple[float, float]:
    """What a call costs at all, and each job in it: a line through two sizes of a batch."""
    (few, low), (many, high) = sorted(seconds.items())
    each = max(0.0, (high - low) / (many - few))
    return max(0.0, low - few * each), each


def _rest_of_redis(in_redis: RedisCpu, small: PictureCpu, large: PictureCpu) -> tuple[float, float]:
    """What Redis spends beside the operations: on each job (messages, lengths), on each wait for the bell.

    In the small batches a worker claims each job, claims once more in vain, and waits.
    """
    rest_small = small.redis_s - in_redis.picture_s(small.batch)
    rest_large = large.redis_s - in_redis.picture_s(large.batch)
    call_s = max(0.0, (rest_small - rest_large) / (1 / small.batch - 1 / large.batch))
    claim_s, _ = split(in_redis.claims_s)
    return max(0.0, rest_large - call_s / large.batch), max(0.0, call_s - claim_s)


def _input_cost(
    shape: tuple[int, int, int],
    in_redis: RedisCpu,
    small: PictureCpu,
    large: PictureCpu,
    *,
    rest_s: float,
    submit_s: float,
) -> InputCost:
    claim, claim_job = split(in_redis.claims_s)
    complete, complete_job = split(in_redis.completions_s)
    # A picture's cost is a + b / batch: of two batches both follow.
    inverse = 1 / small.batch - 1 / large.batch
    call_s = max(0.0, (small.model_server_s - large.model_server_s) / inverse)
    job_s = max(0.0, large.model_server_s - call_s / large.batch)
    return InputCost(
        "x".join(map(str, shape)),
        _ms(submit_s),
        _us(in_redis.enqueue_s + rest_s),
        _us(claim),
        _us(claim_job),
        _us(complete),
        _us(complete_job),
        _ms(call_s),
        _ms(job_s),
    )


def _kilobytes(upload: Path) -> float:
    return round(statistics.mean(each.stat().st_size for each in upload.iterdir()) / 1000, 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)
