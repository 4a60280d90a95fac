"""The one network that every contender runs: uint8 pictures in, float32 probabilities out.

Owns its loading, for programs of any environment that has OpenVINO and NumPy. Must not import anything of
Batchwire: the peers' environments have none of what it needs.
"""

import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

NAMES: Final = ("openvino", "null")
SIDE: Final = 224
CLASSES: Final = 1000

_CHUNK: Final = 8
"""Pictures in one call of the runtime, as Batchwire's own engine: larger batches run as several, since what a
layer leaves then still lies in the cache when the next reads it."""


def load(name: str) -> Predict:
    """Load and warm a network: `openvino` (the file that BENCH_NETWORK names) or `null` (costs nothing)."""
    if name == "null":
        return _null
    if name != "openvino":
        raise ValueError(f"unknown engine {name!r}")
    predict = _openvino(os.environ["BENCH_NETWORK"])
    for size in range(_CHUNK, 0, -1):
        predict(np.zeros((size, SIDE, SIDE, 3), np.uint8))
    return predict


def from_environment() -> Predict:
    """The network that the benchmark told this process to run."""
    return load(os.environ["BENCH_ENGINE"])


def _null(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Constant answers at once."""
    return np.full((len(batch), CLASSES), 1 / CLASSES, np.float32)


def _openvino(network: str) -> Predict:
    import openvino  # noqa: PLC0415 - the null engine does without

    core = openvino.Core()
    hint = {"fp32": "f32", "bf16": "bf16"}[os.environ["BENCH_PRECISION"]]
    properties = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    compiled: Any = core.compile_model(network, "CPU", properties)
    request = compiled.create_infer_request()

    def predict(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = np.empty((len(batch), CLASSES), np.float32)
        calls = -(-len(batch) // _CHUNK)
        for rows in np.array_split(np.arange(len(batch)), calls):
            chunk = slice(rows[0], rows[-1] + 1)
            request.infer([np.ascontiguousarray(batch[chunk])], share_inputs=True, share_outputs=True)
            found[chunk] = request.get_output_tensor(0).data
        return found

    return predict
