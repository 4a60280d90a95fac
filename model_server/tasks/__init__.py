"""Tasks: what a model answers, with a file for each.

Owns the table of the tasks. task.py says what a task is; everything that differs between two of them is in
their own files. Knows no Redis.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from model_server.tasks.classification import ClassificationTask
from model_server.tasks.detection import DetectionTask
from model_server.tasks.embedding import EmbeddingTask
from model_server.tasks.image import ImageTask
from model_server.tasks.keypoints import KeypointsTask
from model_server.tasks.multi_label import MultiLabelTask
from model_server.tasks.raw import RawTask
from model_server.tasks.regression import RegressionTask
from model_server.tasks.segmentation import SegmentationTask
from model_server.tasks.task import Task

_ALL: Final[tuple[Task, ...]] = (
    ClassificationTask(),
    MultiLabelTask(),
    DetectionTask(),
    SegmentationTask(),
    KeypointsTask(),
    EmbeddingTask(),
    RegressionTask(),
    ImageTask(),
    RawTask(),
)

TASKS: Final[Mapping[str, Task]] = MappingProxyType({task.name: task for task in _ALL})
"""Each task by its name in model.toml."""
