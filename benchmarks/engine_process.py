"""One engine in a process of its own: `python -m benchmarks.engine_process`, which engines.py starts.

Owns one engine and its clock. Says in a line of JSON how it started, or why not, then measures as each line
on stdin asks, and ends with it. Its arguments: MODEL WEIGHTS ENGINE PRECISION NAME CACHE.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from broker.errors import ModelUnavailable
from model_server import engines
from model_server.catalogue.model_spec import read_model
from model_server.engines import EngineOptions
from model_server.engines.choice import EngineChoice

_ROOT: Final = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Load, say so, measure until stdin ends; return the exit status."""
    model, weights, engine, precision, name, cache = arguments
    began = time.time() - psutil.Process().create_time()
    clock = time.monotonic()
    spec = read_model(_ROOT / "models", model, weights=weights or None)
    if name == "tf.function":
        _with_variables()
    try:
        loaded = engines.load(spec, EngineChoice(engine, precision), EngineOptions(32, Path(cache)))
    except ModelUnavailable as error:
        _say({"error": error.message})
        return 1
    _say(
        {"start_s": began + time.monotonic() - clock, "resident_mb": psutil.Process().memory_info().rss / 1e6}
    )
    pictures = np.random.default_rng(0).integers(0, 256, (32, *spec.input.shape), dtype=np.uint8)
    for line in sys.stdin:
        asked = json.loads(line)
        batch, count = pictures[: asked["batch"]], 0
        start = time.perf_counter()
        while (took := time.perf_counter() - start) < asked["seconds"] or not count:
            loaded.predict(batch)
            count += len(batch)
        _say({"per_s": count / took})
    return 0


def _with_variables() -> None:
    """Leave the frozen graph out, as the engine was before it."""
    from model_server.engines.keras import tensorflow  # noqa: PLC0415 - only for its own row

    tensorflow.frozen = tensorflow.graph


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
