"""`python -m benchmarks.same_host`: what pixels by shared memory would save where both tiers share a host.

Owns the measurement: the real service, before a network that costs nothing, with the pixels in the job as
they are (`redis`), in a file in /dev/shm for each job (`files`), and in slots of one mapping (`slots`: the
reader copies nothing, nothing is made or removed, so no way can cost less). The last two are prototypes,
which change how a job is coded and guard against nothing. docs/decisions.md has what followed.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from benchmarks.programs import BenchmarkFailed
from benchmarks.serving import pictures
from broker import codec
from broker.messages import Job
from model_server.engines.engine import OutputNames
from tests.support.redis_server import RedisServer, as_user, running_redis
from tests.support.stack import START_S, Stack
from tests.support.waiting import eventually

MODES: Final = ("redis", "files", "slots")
INPUTS: Final = {28: 1, 224: 3}
"""Side and channels."""
PHOTOS: Final = {28: ("1280 x 720",), 224: ("1280 x 720", "224 x 224")}
"""What is uploaded, by the input: most of the path is decoding, of which a small photo needs little."""
CLIENTS: Final = (1, 16)

_CLASSES: Final = 10
_SLOTS: Final = 256
"""More than there are jobs at a time: nothing says that a slot is free."""
_TOML: Final = """\
task = "classification"
labels = "labels.csv"
top = 1

[source]
kind = "keras_file"
file = "none.keras"

[input]
width = {side}
height = {side}
channels = {channels}
fit = "stretch"
normalise = "none"
"""

Encode = Callable[[Job], bytes]
Decode = Callable[[bytes], Job]


class _PlacedJob(Job, frozen=True, kw_only=True, omit_defaults=True):
    """A job whose JSON says where its pixels are."""

    image: str  # type: ignore[assignment] # in the same place
    shape: tuple[int, int, int]


def _placed(job: Job, place: str) -> bytes:
    fields = msgspec.structs.asdict(job) | {"image": place, "shape": job.image.shape}
    return msgspec.json.encode(_PlacedJob(**fields))


def _with_pixels(job: _PlacedJob, pixels: NDArray[np.uint8]) -> Job:
    fields = msgspec.structs.asdict(job) | {"image": pixels.reshape(job.shape)}
    del fields["shape"]
    return Job(**fields)


def _by_files(folder: Path) -> tuple[Encode, Decode]:
    def encode(job: Job) -> bytes:
        file = os.open(folder / job.id, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, job.image.data)
        finally:
            os.close(file)
        return _placed(job, job.id)

    def decode(payload: bytes) -> Job:
        job = codec.decode(payload, _PlacedJob)
        path = folder / job.image
        pixels = np.frombuffer(path.read_bytes(), np.uint8)
        path.unlink()
        return _with_pixels(job, pixels)

    return encode, decode


def _by_slots(folder: Path, size: int) -> tuple[Encode, Decode]:
    with (folder / "slots").open("a+b") as file:
        file.truncate(_SLOTS * size)
        mapped = mmap.mmap(file.fileno(), _SLOTS * size)
    slots: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8).reshape(_SLOTS, size)
    numbers = itertools.count()

    def encode(job: Job) -> bytes:
        slot = next(numbers) % _SLOTS
        slots[slot] = job.image.reshape(-1)
        return _placed(job, str(slot))

    def decode(payload: bytes) -> Job:
        job = codec.decode(payload, _PlacedJob)
        return _with_pixels(job, slots[int(job.image)])

    return encode, decode


def ways(mode: str, folder: Path, size: int) -> tuple[Encode, Decode]:
    """How jobs are coded and read whose pixels, `size` bytes, are in that folder."""
    return _by_files(folder) if mode == "files" else _by_slots(folder, size)


class _Null:
    """The network."""

    name = "null"
    precision = "fp32"
    outputs = OutputNames()

    def predict(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return (np.full((len(batch), _CLASSES), 1 / _CLASSES, np.float32),)


class Service(Stack):
    """The real processes, whose jobs are coded in one way, for one input."""

    def __init__(self, folder: Path, redis: RedisServer, mode: str, side: int) -> None:
        self.mode = mode
        self._redis = redis
        folder /= mode
        folder.mkdir()
        super().__init__(folder, redis.url, model=f"{mode}-{side}")
        catalogue = folder / "models" / self.model
        catalogue.mkdir(parents=True)
        (catalogue / "model.toml").write_text(_TOML.format(side=side, channels=INPUTS[side]))
        rows = "".join(f"{number},n{number},{number}\n" for number in range(_CLASSES))
        (catalogue / "labels.csv").write_text("index,class_id,label\n" + rows)
        self.environment |= {"MODELS_DIR": str(folder / "models"), "LEASE_S": "30"}
        self._asked = ["benchmarks.same_host", "--url", redis.url, "--mode", mode, "--folder", str(folder)]
        self._asked += ["--size", str(side * side * INPUTS[side]), "--side"]

    def begin(self) -> None:
        """Start both tiers; they are ready when this returns."""
        self._web = self.start(*self._asked, "web", log="web")
        self._model = self.start(*self._asked, "model", log="model_server")
        eventually(lambda: bool(self.ready_workers()), within_s=3 * START_S)

    def run(self, photos: list[bytes], count: int, clients: int) -> dict[str, float]:
        """CPU milliseconds a picture of each process, and the median and 95th percentile of latencies."""
        web = [self._web.pid, *(child.pid for child in psutil.Process(self._web.pid).children())]
        tiers = {"web": web, "redis": [self._redis.pid], "model": [self._model.pid]}
        before = {tier: sum(map(_cpu_s, pids)) for tier, pids in tiers.items()}
        with ThreadPoolExecutor(clients) as pool:
            each = [pool.submit(self._send, photos, count // clients) for _ in range(clients)]
            took_ms = [ms for future in each for ms in future.result()]
        spent = {
            tier: (sum(map(_cpu_s, pids)) - before[tier]) / len(took_ms) * 1000
            for tier, pids in tiers.items()
        }
        p95 = statistics.quantiles(took_ms, n=20)[18]
        return {**spent, "all": sum(spent.values()), "p50": statistics.median(took_ms), "p95": p95}

    def _send(self, photos: list[bytes], count: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        took_ms = []
        with contextlib.closing(connection):
            for number in range(count):
                began = time.perf_counter()
                photo = photos[number % len(photos)]
                connection.request("POST", "/predict", photo, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise BenchmarkFailed(f"{self.mode}: {answer.status} {body[:200]!r}")
                took_ms.append((time.perf_counter() - began) * 1000)
        return took_ms


def _cpu_s(pid: int) -> float:
    """User and system seconds of a process, with all its threads, also of those that have ended."""
    return time.clock_gettime(~pid << 3 | 2)  # Linux' clock of another process: CPUCLOCK_SCHED


def _photos(size: str) -> list[bytes]:
    """JPEGs of that size; those of 1280 x 720 are of 100 KB, and the smaller ones of 10."""
    photos = [pictures.photo(number) for number in range(8)]
    if size == "1280 x 720":
        return photos
    small = []
    for photo in photos:
        Image.open(io.BytesIO(photo)).resize((224, 224)).save(buffer := io.BytesIO(), "JPEG", quality=85)
        small.append(buffer.getvalue())
    return small


def measure(*, rounds: int, count: int) -> list[dict[str, Any]]:
    """Every way, in turn, for each input."""
    rows: list[dict[str, Any]] = []
    photos = {size: _photos(size) for size in PHOTOS[224]}
    for side in INPUTS:
        with (
            running_redis() as redis,
            tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
            contextlib.ExitStack() as stack,
        ):
            services = [Service(Path(folder), redis, mode, side) for mode in MODES]
            for service in services:
                stack.callback(service.stop)
                service.begin()
                service.run(photos["1280 x 720"], 64, 16)  # warm
            for number, clients, size in itertools.product(range(rounds), CLIENTS, PHOTOS[side]):
                for service in services if number % 2 else services[::-1]:
                    found = service.run(photos[size], count if clients > 1 else count // 4, clients)
                    case = f"{side:4} x {side:<4} {size:>10} {clients:7}"
                    rows.append({"case": case, "mode": service.mode, **found})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """The medians over all rounds, and what each way saves in the median round."""
    names = ("web", "redis", "model", "all", "p50", "p95")
    lines = [f"      input      photo clients     by {' '.join(f'{name:>7}' for name in names)}"]
    for case, mode in itertools.product(dict.fromkeys(row["case"] for row in rows), MODES):
        own, base = (
            [row for row in rows if (row["case"], row["mode"]) == (case, which)] for which in (mode, MODES[0])
        )
        medians = {name: statistics.median(row[name] for row in own) for name in names}
        shares = [1 - row["all"] / other["all"] for row, other in zip(own, base, strict=True)]
        saved = f"  saves {statistics.median(shares):.0%}" if mode != MODES[0] else ""
        lines.append(f"{case} {mode:>6} {' '.join(f'{medians[name]:7.3f}' for name in names)}{saved}")
    lines.append("CPU milliseconds a picture of each process and of all; latency in milliseconds.")
    return "\n".join(lines)


def _serve(asked: argparse.Namespace) -> None:
    """Be one tier of a service."""
    if asked.mode != "redis":
        encode, decode = ways(asked.mode, asked.folder, asked.size)
        vars(codec).update(encode_job=encode, decode_job=decode)
    if asked.side == "web":
        from gunicorn.app import wsgiapp  # noqa: PLC0415 - the model server has no use for it

        os.environ["REDIS_URL"] = as_user(asked.url, "web")  # Stack takes it for a model server
        sys.argv = ["gunicorn", "-c", "web/gunicorn.conf.py"]
        wsgiapp.run()
    from model_server.commands import serve  # noqa: PLC0415 - the web tier has no use for it
    from model_server.engines import loading  # noqa: PLC0415

    vars(loading).update(load=lambda *_, **__: _Null())
    sys.argv = ["model_server"]
    sys.exit(serve.main())


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_host", description="Pixels through Redis and by shared memory."
    )
    parser.add_argument("--rounds", type=int, default=9, help="of all, in turn (default: 9)")
    parser.add_argument("--pictures", type=int, default=400, help="of each turn (default: 400)")
    for name, kind in (("--side", str), ("--url", str), ("--mode", str), ("--folder", Path), ("--size", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        _serve(asked)
    sys.stdout.write(report(measure(rounds=asked.rounds, count=asked.pictures)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
