"""LitServe: one worker, batches of up to 32, as its documentation of batching shows it.

Owns the API class and its start. `decode_request` runs in the worker, picture by picture.
"""

import os
from typing import Any

import litserve as ls
import numpy as np
from fastapi import Request

from benchmarks.serving import decode, engine


class Classifier(ls.LitAPI):
    """The network behind POST /predict, a form with a file `image`."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the network in the worker."""
        self._predict = engine.from_environment()

    def decode_request(self, request: Request) -> Any:  # noqa: ANN401 - LitServe goes by this type
        """One picture's pixels."""
        return decode.pixels(request["image"].file.read())

    def batch(self, inputs: list[Any]) -> Any:  # noqa: ANN401
        """Pictures to a batch."""
        return np.stack(inputs)

    def predict(self, batch: Any) -> Any:  # noqa: ANN401
        """Run the network."""
        return self._predict(batch)

    def unbatch(self, output: Any) -> list[Any]:  # noqa: ANN401
        """The batch's rows."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:  # noqa: ANN401
        """One picture's answer."""
        return decode.answer(output)


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=float(os.environ["BENCH_WAIT_MS"]) / 1000)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False)
