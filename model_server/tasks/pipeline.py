"""Pipeline: the task of a model that is made of other models.

Owns what a pipeline is called. It reads no outputs: each of its steps has a task of its own. It stands in no
table: model.toml of a pipeline has fields of its own (catalogue/pipeline_toml.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from broker.errors import InferenceFailed
from model_server.tasks.task import ReadOptions, Task

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs


class PipelineTask(Task):
    """What a pipeline's card says of it."""

    name = "pipeline"
    noun = "a pipeline"
    has_labels = False
    gives_probabilities = False

    def read(self, _outputs: Outputs, _spec: ModelSpec, _options: ReadOptions, /) -> NoReturn:
        """Raise InferenceFailed: nothing was run."""
        raise InferenceFailed("A pipeline has no outputs of its own.")

    def compare(
        self, _spec: ModelSpec, _reference: Outputs, _outputs: Outputs, _precision: str, /
    ) -> NoReturn:
        """Raise ValueError: there is no network to compare."""
        raise ValueError("a pipeline has no network")

    def top_max(self, _labels: int, /) -> int:
        """None: each step says its own."""
        return 0
