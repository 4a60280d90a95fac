"""One engine in a process of its own: `python -m benchmarks.engine_process`, which engines.py starts.

Owns one engine and its clock. Says in a line of JSON how it started, or why not, then measures as each line
on stdin asks, and ends with it. Its argument is an EngineRun as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import Engine, EngineOptions

_ROOT: Final = Path(__file__).resolve().parent.parent


class EngineRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to load."""

    engine: str
    precision: str
    cache: str
    """Where converted networks lie."""
    model: str = "resnet50"
    models_dir: str = str(_ROOT / "models")
    weights: str = ""
    """Of a network of keras.applications; empty: those that model.toml names."""
    provider: str = "auto"
    """Of ONNX Runtime."""
    batch_size: int = 32
    has_variables: bool = False
    """Whether TensorFlow runs a `tf.function` with variables, not a frozen graph."""


def main(arguments: list[str]) -> int:
    """Load, say so, measure until stdin ends; return the exit status."""
    asked_run = msgspec.json.decode(arguments[0], type=EngineRun)
    began = time.time() - psutil.Process().create_time()
    clock = time.monotonic()
    spec = read_model(Path(asked_run.models_dir), asked_run.model, weights=asked_run.weights or None)
    if asked_run.has_variables:
        _with_variables()
    options = EngineOptions(asked_run.batch_size, Path(asked_run.cache), provider=asked_run.provider)
    try:
        loaded = loading.load(spec, EngineChoice(asked_run.engine, asked_run.precision), options)
    except ModelUnavailable as error:
        _say({"error": error.message})
        return 1
    _say(
        {
            "start_s": began + time.monotonic() - clock,
            "resident_mb": psutil.Process().memory_info().rss / 1e6,
            "device": _device(loaded),
        }
    )
    shape = (asked_run.batch_size, *spec.input.shape)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for line in sys.stdin:
        asked = json.loads(line)
        batch, count = pictures[: asked["batch"]], 0
        start, cpu = time.perf_counter(), time.process_time()
        while (took := time.perf_counter() - start) < asked["seconds"] or not count:
            loaded.predict(batch)
            count += len(batch)
        _say({"per_s": count / took, "cpu_ms": (time.process_time() - cpu) / count * 1e3})
    return 0


def _device(engine: Engine) -> str:
    """Where it computes: cpu or gpu. TensorFlow and JAX fall back to the CPU without an error."""
    if engine.name == "tensorflow":
        return "gpu" if sys.modules["tensorflow"].config.list_logical_devices("GPU") else "cpu"
    if engine.name == "jax":
        return "cpu" if sys.modules["jax"].default_backend() == "cpu" else "gpu"
    if engine.name == "onnxruntime":
        return "cpu" if vars(engine)["provider"] == "CPUExecutionProvider" else "gpu"
    return "cpu"


def _with_variables() -> None:
    """Leave the frozen graph out, as the engine was before it."""
    from model_server.engines.keras import tensorflow  # noqa: PLC0415 - only for its own row

    tensorflow.frozen = tensorflow.graph


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
