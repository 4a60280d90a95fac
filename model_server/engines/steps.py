"""The engine of a pipeline, which has no network: its steps' models are asked in their own queues.

Owns that nothing is run in a pipeline's own queue. The web tier takes a picture through the steps.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from model_server.engines.engine import OutputNames, Outputs

NAME: Final = "steps"
"""Stands where other models have the name of their engine."""

PRECISION: Final = "own"
"""Each step has its own."""


class StepsEngine:
    """Announces a pipeline, and refuses what is put into its queue by another than the web tier."""

    name = NAME
    precision = PRECISION
    outputs = OutputNames()

    def predict(self, _batch: NDArray[np.uint8]) -> Outputs:
        """Raise InferenceFailed."""
        raise InferenceFailed("A pipeline runs nothing itself: send the picture to POST /predict.")
