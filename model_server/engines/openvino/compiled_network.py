"""A network's file, compiled for this CPU, and how many images go through it in one call.

Owns that. Checks nothing: engine.py does, and the tools that convert and quantise.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_server.engines.engine import Outputs
from model_server.engines.openvino import runtime

CHUNK: Final = 8
"""Images in one call of the runtime; a larger batch takes several calls. ResNet50 in bf16 on 2 cores, images
a second in chunks of 1, 2, 4, 8, 16, 32: 55.7, 58.7, 60.8, 61.2, 58.9, 57.6 (a layer's output is still in the
cache when the next layer reads it), and 150 MB less resident than with 32."""


class CompiledNetwork:
    """A network's file, compiled for this CPU. Raises OpenVINO's RuntimeError."""

    def __init__(self, path: Path, precision: str, *, threads: int = 0) -> None:
        properties: dict[str, object] = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        model = runtime.core().read_model(path)
        self._compiled = runtime.compile_for_cpu(model, precision, NUM_STREAMS=1, **properties)
        self._request = self._compiled.create_infer_request()
        batch = self._compiled.input(0).partial_shape[0]
        self._chunk = CHUNK if batch.is_dynamic else batch.get_length()
        """Images in one call: 1 for an imported network that is correct only for single images."""

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of uint8 (N, height, width, channels), N at least 1."""
        batch = np.ascontiguousarray(batch)
        outputs: list[NDArray[np.float32]] = []
        calls = -(-len(batch) // self._chunk)
        # Even chunks: 9 images as 5 and 4, not as 8 and 1, which costs a tenth more for each image.
        for rows in np.array_split(np.arange(len(batch)), calls):
            chunk = slice(rows[0], rows[-1] + 1)
            self._request.infer([batch[chunk]], share_inputs=True, share_outputs=True)
            for number in range(len(self._compiled.outputs)):
                # A copy, because the next call overwrites the request's own memory.
                values = self._request.get_output_tensor(number).data
                if number == len(outputs):
                    outputs.append(np.empty((len(batch), *values.shape[1:]), np.float32))
                outputs[number][chunk] = values
        return tuple(outputs)
