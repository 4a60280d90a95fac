"""Does one client's flood slow another? `python -m benchmarks.fair_share [--model MODEL | --call SECONDS]`.

Owns the measurement: the service's processes over a Redis of their own, with two API keys of equal weight.
The light one asks for a tenth of what the model server can do, alone, and then beside the heavy one, which
offers ten times as much as it can do; both send at fixed rates, whatever the answers. Without a model the
network takes a constant time a call (tests/e2e/shades_server.py), or with `--call 0.0045+0.037 --batch 32`
some for each picture, as ResNet50 does, but none of the cores. Must not judge the figures;
docs/decisions.md has them.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from broker.connection import connect
from broker.keys import Keys
from loadtest.cli.units import number
from settings import PROJECT
from tests.support.api_keys import add_key
from tests.support.redis_server import running_redis
from tests.support.stack import MODEL, Stack
from tests.support.waiting import eventually

_CALL_S: Final = "0.5"
_BATCH: Final = 4
"""Of the network with a constant time: 8 pictures a second, so that the clients leave the cores some time."""

_TIMES_HEAVY: Final = 10.0
_TIMES_LIGHT: Final = 0.1

_HEAD_START_S: Final = 4.0
"""Of the flood, before the light client is measured."""


@dataclass(frozen=True)
class LightRun:
    """What the light client saw: latencies in milliseconds, and the failures by kind."""

    p50_ms: float
    p95_ms: float
    failures: dict[str, int]


@contextlib.contextmanager
def service(
    model: str, names: tuple[str, ...], *, call_s: str = _CALL_S, batch: int = _BATCH
) -> Iterator[tuple[Stack, dict[str, str]]]:
    """Run the service, with keys of these names; give it, and the keys' texts.

    Without a model a call of the network takes `call_s`, and has `batch` pictures at most.
    """
    with tempfile.TemporaryDirectory() as folder, running_redis() as redis:
        stack = Stack(Path(folder), redis.url, model or MODEL)
        stack.environment |= {"API_KEYS": "required", "WEB_WORKERS": "2"}
        with connect(redis.url, timeout_s=5) as client:
            keys = {name: add_key(client, Keys("bw:"), name) for name in names}
        try:
            if model:
                stack.environment["MODELS_DIR"] = str(PROJECT / "models")
                stack.start("model_server", log="model_server")
            else:
                stack.environment["BATCH_SIZE"] = str(batch)
                stack.start(
                    "tests.e2e.shades_server",
                    str(stack.executions),
                    call_s,
                    "mended",
                    log="model_server",
                )
            stack.start_web()
            eventually(lambda: stack.answers(f"/readyz?model={stack.model}"), within_s=240)
            time.sleep(3)  # each web process learns of the model within two seconds of its own
            yield stack, keys
        finally:
            stack.stop()


def load(
    stack: Stack, key: str, kind: tuple[str, str], seconds: float, figures: Path
) -> "subprocess.Popen[bytes]":
    """Begin to send for so long: `kind` is --rate or --concurrency, and its number."""
    return subprocess.Popen(  # noqa: S603 - our own command, no shell
        [
            *(sys.executable, "stress_test.py", "--url", stack.url, "--model", stack.model),
            *(*kind, "--duration", f"{seconds:g}s", "--warmup", "0s", "--timeout", "15s"),
            *("--processes", "1", "--draw", "32x24" if stack.model == MODEL else "640x480"),
            *("--api-key", "FAIR_SHARE_KEY", "--json", str(figures)),
        ],
        cwd=PROJECT,
        env={**os.environ, "FAIR_SHARE_KEY": key},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _rate(per_s: float) -> tuple[str, str]:
    return "--rate", f"{per_s:.3g}"


def capacity_of(stack: Stack, key: str, seconds: float) -> float:
    """Pictures a second that the service answers sixteen clients."""
    figures = stack.folder / "capacity.json"
    load(stack, key, ("--concurrency", "16"), seconds, figures).wait()
    (found,) = json.loads(figures.read_text("utf-8"))["points"]
    return float(found["per_s"])


def light(stack: Stack, keys: dict[str, str], capacity: float, seconds: float, *, beside: bool) -> LightRun:
    """Measure the light client for so long, alone or beside the heavy one."""
    heavy = None
    if beside:
        rate, its_seconds = capacity * _TIMES_HEAVY, seconds + _HEAD_START_S + 2
        heavy = load(stack, keys["heavy"], _rate(rate), its_seconds, stack.folder / "heavy.json")
        time.sleep(_HEAD_START_S)
    figures = stack.folder / "light.json"
    load(stack, keys["light"], _rate(capacity * _TIMES_LIGHT), seconds, figures).wait()
    if heavy is not None:
        heavy.wait()
    (found,) = json.loads(figures.read_text("utf-8"))["points"]
    return _read(found)


def _read(found: dict[str, Any]) -> LightRun:
    latency = found["latency_ms"]
    return LightRun(
        latency["p50"], latency["p95"], {kind: each["count"] for kind, each in found["errors"].items()}
    )


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fair_share", description=__doc__)
    parser.add_argument("--model", default="", help="a model of models/ (default: a constant time a call)")
    parser.add_argument("--call", default=_CALL_S, help="seconds of a call[+of each picture] (default: 0.5)")
    parser.add_argument("--batch", type=int, default=_BATCH, help="pictures of such a call (default: 4)")
    parser.add_argument("--capacity", type=number, help="pictures a second it can do (default: measured)")
    parser.add_argument("--seconds", type=number, default=20.0, help="of each run (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="of both (default: 3)")
    asked = parser.parse_args()
    runs: dict[bool, list[LightRun]] = {False: [], True: []}
    with service(asked.model, ("heavy", "light"), call_s=asked.call, batch=asked.batch) as (stack, keys):
        capacity = asked.capacity or capacity_of(stack, keys["heavy"], asked.seconds)
        sys.stdout.write(f"{capacity:.1f} pictures a second, {os.cpu_count()} cores\n")
        for _ in range(asked.rounds):
            for beside, its_runs in runs.items():
                its_runs.append(light(stack, keys, capacity, asked.seconds, beside=beside))
                time.sleep(5)  # the flood's last jobs end
    for beside, its_runs in runs.items():
        p50s, p95s = [each.p50_ms for each in its_runs], [each.p95_ms for each in its_runs]
        sys.stdout.write(
            f"light {'beside the heavy one' if beside else 'alone'}: p50 {statistics.median(p50s):.0f} ms, "
            f"p95 {statistics.median(p95s):.0f} ms ({min(p95s):.0f} to {max(p95s):.0f}), "
            f"{dict(sum((Counter(each.failures) for each in its_runs), Counter[str]())) or 'all answered'}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
