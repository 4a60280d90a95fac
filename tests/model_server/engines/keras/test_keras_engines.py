"""TensorFlow and JAX with the real ones, each in a process of its own: Keras has one backend a process."""

import json
import subprocess
import sys
from typing import Any

import pytest

from settings import PROJECT
from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_RUN = """
import json, sys
from pathlib import Path
import numpy as np
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.check import drawn_pictures
spec = read_model(Path("models"), "digits")
options = EngineOptions(batch_size=4, cache=Path("none"), threads=1)
{load}
drawn = drawn_pictures.draw(spec.input)
print(json.dumps({{
    "found": engine.predict(drawn)[0].argmax(axis=1).tolist(),
    "shapes": [engine.predict(drawn[:rows])[0].shape for rows in (1, 2, 3, 6, 9)],
    "dtype": str(engine.predict(drawn)[0].dtype),
    "buckets": engine.buckets,
    **told()
}}))
"""

_TENSORFLOW = """
from model_server.engines.keras.tensorflow import TensorFlowEngine, tf
engine = TensorFlowEngine(spec, {precision!r}, options, with_xla={xla})
told = lambda: {{"captured": len(engine._call.captured_inputs), "threads": tf.config.threading.get_intra_op_parallelism_threads()}}
"""  # noqa: E501

_JAX = """
from model_server.engines.keras.jax import JaxEngine
engine = JaxEngine(spec, {precision!r}, options)
told = lambda: {{"compilations": engine._call._cache_size()}}
"""


def _run(load: str, *, by_jax: bool = False) -> dict[str, Any]:
    arguments = ["-c", _RUN.format(load=load)]
    if by_jax:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    else:
        done = keras_fork.run(arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _right(told: dict[str, Any]) -> bool:
    shapes = [[rows, 10] for rows in (1, 2, 3, 6, 9)]
    return (told["found"], told["shapes"], told["dtype"]) == (list(range(10)), shapes, "float32")


def test_tensorflow_on_a_cpu_is_a_frozen_graph_of_any_size() -> None:
    told = _run(_TENSORFLOW.format(precision="fp32", xla=False))
    assert _right(told)
    assert told["buckets"] == []
    assert told["captured"] == 0  # no variable is left
    assert told["threads"] == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_tensorflow_as_on_a_gpu_compiles_each_bucket_in_mixed_precision(precision: str) -> None:
    told = _run(_TENSORFLOW.format(precision=precision, xla=True))
    assert _right(told)
    assert told["buckets"] == [1, 2, 4]


@pytest.mark.optional
def test_jax_compiles_each_bucket_once() -> None:
    for precision in ("fp32", "bf16"):
        told = _run(_JAX.format(precision=precision), by_jax=True)
        assert _right(told)
        assert told["compilations"] == len(told["buckets"]) == 3


def test_a_network_of_another_normalisation_is_refused() -> None:
    spoil = (
        "from model_server.engines.keras.network import KerasNetwork\n"
        "from model_server.engines.keras.tensorflow import TensorFlowEngine\n"
        "plain = KerasNetwork.plain\n"
        "KerasNetwork.plain = lambda self, batch: plain(self, batch // 2)\n"
        "try: TensorFlowEngine(spec, 'fp32', options)\n"
        "except ModelUnavailable as error: print(json.dumps({'error': error.message})); sys.exit()\n"
    )
    assert "tensorflow in fp32 does not compute what plain Keras does" in _run(spoil)["error"]
