"""MLServer: a custom runtime with its adaptive batching, in its one parallel worker.

Owns the runtime; contenders.py writes its two files of settings. Pictures come base64-encoded in the V2
protocol, many in one merged request, and are decoded side by side.
"""

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving import decode, engine


class Classifier(MLModel):
    """The network behind POST /v2/models/net/infer."""

    async def load(self) -> bool:
        """Load the network."""
        self._predict = engine.from_environment()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a merged request."""
        raw: list[Any] = list(payload.inputs[0].data)
        pictures = [base64.b64decode(each) for each in raw]
        rows = self._predict(np.stack(list(self._pool.map(decode.pixels, pictures))))
        answers = [json.dumps(decode.answer(row)) for row in rows]
        output = StringCodec.encode_output("answers", answers)
        return InferenceResponse(model_name=self.name, outputs=[output])
