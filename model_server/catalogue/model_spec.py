"""The catalogue: models/NAME with its model.toml and its labels, read and checked.

Owns what a model is, as its folder describes it. model_toml.py owns the fields of model.toml. Loads no
network: engines/ do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from broker.keys import MODEL_NAME
from broker.messages import AS_UPLOADED, Card, InputSpec, Label
from model_server.catalogue import file_kinds, hooks_file, labels, model_toml, pipeline_toml
from model_server.catalogue.detection_layout import Output
from model_server.catalogue.folder_watch import version_of
from model_server.catalogue.hooks_file import HooksFile
from model_server.catalogue.model_toml import (
    Activation,
    Darknet,
    FrozenGraph,
    ImportedSource,
    KerasApplication,
    KerasFile,
    Normalise,
    Onnx,
    Order,
    OwnNetwork,
    Paddle,
    SavedModel,
    Source,
    TFLite,
    TorchExport,
    TorchNetwork,
    TorchScript,
    TorchSource,
)
from model_server.catalogue.pipeline_toml import StepModels
from model_server.catalogue.toml_errors import CatalogueError
from model_server.tasks import TASKS
from model_server.tasks.pipeline import PipelineTask
from model_server.tasks.task import Task

__all__ = [
    "CatalogueError",
    "Darknet",
    "KerasApplication",
    "KerasFile",
    "Label",
    "ModelSpec",
    "Normalise",
    "Source",
    "read_model",
    "read_spec",
    "unread",
]


@dataclass(frozen=True)
class ModelSpec:
    """A model as its folder describes it.

    `normalise` says how uint8 becomes the network's float32: `none` (as it is), `unit` (0..1), `tf` (-1..1),
    `torch` (0..1, then ImageNet's mean and deviation), `caffe` (BGR less ImageNet's mean); the last three are
    those of keras.applications.imagenet_utils.preprocess_input. A table gives the mean and the deviation
    themselves. `order` is the channel order of the network; normalisation follows it.
    """

    name: str
    folder: Path
    task: Task
    source: Source | StepModels
    input: InputSpec
    normalise: Normalise
    labels: tuple[Label, ...]
    top: int
    order: Order = "rgb"
    activation: Activation = "none"
    """The function that turns the network's outputs into probabilities, if it ends in logits."""
    output: Output | None = None
    """The output that is served, if model.toml names one."""
    options: Struct | None = None
    """The task's own table of model.toml, with its defaults; None for a task that has none."""
    hooks: HooksFile | None = None
    """The functions of its hooks.py, if it has one."""
    engine: str = ""
    """The engine that runs it in this process; empty until an entry point has chosen."""
    precision: str = ""
    """The precision that it computes in; empty until an entry point has chosen."""
    in_use: object = field(default=None, repr=False, compare=False)
    """What keeps the folder on disk while this spec or a copy lives, where it came from a store."""
    _versions: dict[tuple[Path, str], str] = field(default_factory=dict, repr=False, compare=False)
    """Shared with copies of this spec, so that they do not read the files again: 1.5 s for 500 MB."""

    @property
    def is_imported(self) -> bool:
        """Whether a front end of OpenVINO reads the network, so that no Keras engine runs it."""
        return isinstance(self.source, ImportedSource)

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch reads the network's file, and can run it."""
        return isinstance(self.source, TorchSource)

    @property
    def is_onnx(self) -> bool:
        """Whether the network is an ONNX file, which ONNX Runtime can run."""
        return isinstance(self.source, Onnx)

    @property
    def has_own_input(self) -> bool:
        """Whether pictures pass hooks.py before, or in place of, a network: it alone knows their numbers."""
        is_prepared = self.hooks is not None and "preprocess" in self.hooks.names
        return is_prepared or isinstance(self.source, OwnNetwork)

    @property
    def weights(self) -> str:
        """Where the weights come from: `imagenet`, `random` or the name of a file."""
        match self.source:
            case KerasApplication(weights=weights):
                return weights if weights in ("imagenet", "random") else Path(weights).name
            case SavedModel(folder=folder):
                return folder
            case Darknet(weights=weights) | TorchNetwork(weights=weights):
                return weights
            case TorchScript(file=file) | TorchExport(file=file):
                return file
            case KerasFile(file=file) | Onnx(file=file) | TFLite(file=file):
                return file
            case FrozenGraph(file=file) | Paddle(file=file):
                return file
            case OwnNetwork():
                return hooks_file.NAME
            case StepModels():
                return "none"

    @property
    def top_max(self) -> int:
        """The most predictions that a client may ask for."""
        return self.task.top_max(len(self.labels))

    @property
    def elsewhere(self) -> Path | None:
        """The weights file that the user named and that lies outside the model's folder, if there is one."""
        source = self.source
        if not isinstance(source, KerasApplication) or source.weights in ("imagenet", "random"):
            return None
        return Path(source.weights)

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with the folder's content, the source and its weights.

        It is that of the files when it was first read: code that loads them must check that they still match.
        """
        source = self.source
        if isinstance(source, KerasApplication) and self.elsewhere is not None:
            # By its content: another file at the same path is another version, the same elsewhere is not.
            source = KerasApplication(source.name, "")
        key = (self.folder, repr(self.source))
        if key not in self._versions:
            self._versions[key] = version_of(self.folder, repr(source), self.elsewhere)
        return self._versions[key]

    @cached_property
    def indices(self) -> dict[tuple[str, str], int]:
        """Class id and label -> place among the labels, from 0; of two that are alike, the first."""
        places = list(enumerate((label.class_id, label.label) for label in self.labels))
        return {name: place for place, name in reversed(places)}

    def card(self) -> Card:
        """What the web tier gets to know about the model."""
        return Card(
            model=self.name,
            task=self.task.name,
            input=self.input,
            classes=len(self.labels),
            top=self.top,
            top_max=self.top_max,
            engine=self.engine,
            precision=self.precision,
            weights=self.weights,
            model_version=self.version,
            steps=self.source.steps if isinstance(self.source, StepModels) else (),
        )


def read_model(models_dir: Path, name: str, *, weights: str | None = None) -> ModelSpec:
    """Read models_dir/name. `weights` replaces the weights that a keras_application names.

    Raises CatalogueError.
    """
    folder = models_dir / name
    path = folder / "model.toml"
    if not MODEL_NAME.fullmatch(name):
        raise CatalogueError(
            f"{name!r} can't be a model's name: the folder's name may only have a-z, 0-9, _ and -."
        )
    if not path.is_file():
        if old := file_kinds.paddle_0_11(folder, ""):
            raise CatalogueError(old)
        names = sorted(toml.parent.name for toml in models_dir.glob("*/model.toml"))
        known = [known_name for known_name in names if MODEL_NAME.fullmatch(known_name)]
        raise CatalogueError(
            f"Unknown model {name!r}: there is no file {path}. Available: {', '.join(known) or 'none'}."
        )
    if pipeline_toml.is_pipeline(path):
        return _pipeline(name, path)
    toml = model_toml.read(path)
    source, input_ = toml.source, toml.input
    named = getattr(source, "file", getattr(source, "folder", path.name))
    if old := file_kinds.paddle_0_11(folder, str(named)):
        raise CatalogueError(old)
    if weights is not None and isinstance(source, KerasApplication):
        source = KerasApplication(name=source.name, weights=weights)
    task = TASKS[toml.task]
    classes = labels.read(folder / toml.labels) if toml.labels is not None else ()
    spec = ModelSpec(
        name=name,
        folder=folder,
        task=task,
        source=source,
        input=toml.input_spec,
        normalise=input_.normalise,
        labels=classes,
        top=toml.top or task.usual_top(len(classes)),
        order=input_.order,
        activation=toml.output.activation,
        output=toml.output.name,
        options=task.options(toml),
        hooks=hooks_file.read(folder, toml.hooks),
    )
    model_toml.require_known(path, task.label_problems(spec))
    model_toml.require_top(path, spec.top, spec.top_max, task.top_limit(len(spec.labels)))
    return spec


def unread(name: str) -> ModelSpec:
    """What stands for a model whose folder could never be read: a name, and nothing that could be served."""
    return ModelSpec(
        name=name,
        folder=Path(os.devnull),
        task=TASKS["raw"],
        source=KerasFile("none"),
        input=AS_UPLOADED,
        normalise="none",
        labels=(),
        top=0,
    )


def _pipeline(name: str, path: Path) -> ModelSpec:
    return ModelSpec(
        name=name,
        folder=path.parent,
        task=PipelineTask(),
        source=pipeline_toml.read(path),
        input=AS_UPLOADED,
        normalise="none",
        labels=(),
        top=0,
    )


def read_spec(models_dir: Path, name: str, weights: Mapping[str, str]) -> ModelSpec:
    """Read models_dir/name, with the weights that this model's own variable names, if it is set.

    `weights` is settings.weights: RESNET50_WEIGHTS for resnet50, NAME_WEIGHTS for any other. Raises
    CatalogueError.
    """
    variable = f"{name.upper().replace('-', '_')}_WEIGHTS"
    value = weights.get(variable)
    spec = read_model(models_dir, name, weights=value)
    if value is None:
        return spec
    if not isinstance(spec.source, KerasApplication):
        raise CatalogueError(
            f"{variable}={value!r} has no effect: {name} has its weights in its own file, not from "
            f"keras.applications. Unset {variable}."
        )
    if value not in ("imagenet", "random") and not Path(value).is_file():
        raise CatalogueError(f"{variable}={value!r} is not imagenet, random or the path of a file.")
    return spec
