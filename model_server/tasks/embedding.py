"""Embedding: a network's vector for a picture, such that similar pictures have similar vectors.

Owns the vector's normalisation, and what else its task is. Knows no runtime and no Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from broker.errors import InferenceFailed
from broker.messages import TaskResult
from model_server.engines.check import plain_numbers
from model_server.tasks.numbers import finite
from model_server.tasks.task import ReadOptions, Task, table_of

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs

_LEAST: Final = 8
"""Fewer numbers hardly describe a picture: `hint` does not suggest it."""


class Embedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[embedding]: how a vector is given."""

    normalise: Literal["none", "l2"] = "l2"
    """`l2`: divided by its length, so that the product of two vectors is their cosine."""


class EmbeddingTask(Task):
    """What an image is like: a vector to compare with other images' vectors."""

    name = "embedding"
    noun = "an embedding model"
    table = Embedding
    has_labels = False
    gives_probabilities = False
    is_exact = True

    def read(self, outputs: Outputs, spec: ModelSpec, _options: ReadOptions, /) -> TaskResult:
        """The vector, of length 1 unless model.toml says otherwise."""
        vector = finite(outputs[0]).reshape(-1).astype(np.float64)
        if table_of(spec.options, Embedding).normalise == "l2":
            length = float(np.linalg.norm(vector))
            if length == 0:
                raise InferenceFailed("The network's vector for this picture is 0: it has no direction.")
            vector /= length
        return TaskResult(embedding=tuple(vector.astype(np.float32).tolist()))

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> plain_numbers.NumbersVerdict:
        """Differences as a share of the vectors' length."""
        return plain_numbers.compare(reference, outputs, precision)

    def misfit(self, _spec: ModelSpec, shapes: list[tuple[int, ...]], /) -> str:
        """A vector has one axis, besides axes of length 1."""
        if _is_vector(shapes[0]):
            return ""
        return (
            f"the network's output for a picture is {shapes[0]}, but an embedding is a vector: export the "
            "network with its pooling layer"
        )

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """A vector that is too long for quantities may describe the picture."""
        if any(_is_vector(shape) and max(shape) > _LEAST for shape in shapes):
            return 'If the vector describes the picture, write task = "embedding", without labels.'
        return ""


def _is_vector(shape: tuple[int, ...]) -> bool:
    return sum(side > 1 for side in shape) == 1
