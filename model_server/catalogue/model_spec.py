"""The catalogue: models/NAME with its model.toml and its labels, read and checked.

Owns what a model is, as its folder describes it. The fields of model.toml are model_toml.py's; loads no
network: sources.py and engines/ do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.keys import MODEL_NAME
from broker.messages import Card, InputSpec
from model_server.catalogue import file_kinds, labels, model_toml
from model_server.catalogue.detection_layout import MOST_DETECTIONS, Detection, of_darknet
from model_server.catalogue.folder_watch import version_of
from model_server.catalogue.labels import Label
from model_server.catalogue.model_toml import (
    Activation,
    Darknet,
    FrozenGraph,
    Imported,
    KerasApplication,
    KerasFile,
    ModelToml,
    Normalise,
    Onnx,
    Order,
    Paddle,
    SavedModel,
    Source,
    Task,
    TFLite,
)
from model_server.catalogue.toml_errors import CatalogueError

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
]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as its folder describes it.

    `normalise` says how the network wants uint8 made into float32: `none` (as it is), `unit` (0..1),
    `tf` (-1..1), `torch` (0..1, then ImageNet's mean and deviation), `caffe` (BGR less ImageNet's mean);
    the last three are those of keras.applications.imagenet_utils.preprocess_input. A table gives the mean and
    the deviation themselves. `order` is that of the channels that the network wants, normalised after it.
    """

    name: str
    folder: Path
    task: Task
    source: Source
    input: InputSpec
    normalise: Normalise
    labels: tuple[Label, ...]
    top: int
    order: Order = "rgb"
    activation: Activation = "none"
    """What makes the network's outputs probabilities, where it ends in logits."""
    detection: Detection | None = None
    """How outputs are read as detections, in the order of `Detection.outputs`; None: the task is another."""
    engine: str = ""
    """What runs it in this process; empty until an entry point has chosen."""
    precision: str = ""
    """What it computes in; likewise."""
    _versions: dict[tuple[Path, str], str] = field(default_factory=dict, repr=False, compare=False)
    """Shared with its copies, so that they do not read the files again: 1.5 s for 500 MB."""
    _indices: dict[tuple[str, str], int] = field(default_factory=dict, repr=False, compare=False)
    """Class id and label -> place, made when it is first asked for."""

    @property
    def is_imported(self) -> bool:
        """Whether OpenVINO reads the network itself, so that nothing else runs it."""
        return isinstance(self.source, Imported)

    @property
    def weights(self) -> str:
        """Where the weights come from: `imagenet`, `random` or the name of a file."""
        match self.source:
            case KerasApplication(weights=weights):
                return weights if weights in ("imagenet", "random") else Path(weights).name
            case SavedModel(folder=folder):
                return folder
            case Darknet(weights=weights):
                return weights
            case KerasFile(file=file) | Onnx(file=file) | TFLite(file=file):
                return file
            case FrozenGraph(file=file) | Paddle(file=file):
                return file

    @property
    def top_max(self) -> int:
        """The most predictions that a client may ask for: each class once, but any number of detections."""
        return len(self.labels) if self.detection is None else MOST_DETECTIONS

    @property
    def elsewhere(self) -> Path | None:
        """The file of weights that belongs to it and lies where the user said, not in its folder."""
        source = self.source
        if not isinstance(source, KerasApplication) or source.weights in ("imagenet", "random"):
            return None
        return Path(source.weights)

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with the folder's content, the source and its weights.

        Of the files as they were when it was first asked for: who loads them must see that they still are.
        """
        source = self.source
        if isinstance(source, KerasApplication) and self.elsewhere is not None:
            # By its content: another file at the same path is another version, the same elsewhere is not.
            source = KerasApplication(source.name, "")
        key = (self.folder, repr(self.source))
        if key not in self._versions:
            self._versions[key] = version_of(self.folder, repr(source), self.elsewhere)
        return self._versions[key]

    def index_of(self, class_id: str, label: str) -> int:
        """The place of a class among the labels, from 0; of two that are alike, the first."""
        if not self._indices:
            places = enumerate((label.class_id, label.label) for label in self.labels)
            self._indices.update({name: place for place, name in reversed(list(places))})
        return self._indices[class_id, label]

    def card(self) -> Card:
        """What the web tier gets to know of it."""
        return Card(
            model=self.name,
            task=self.task,
            input=self.input,
            classes=len(self.labels),
            top=self.top,
            top_max=self.top_max,
            engine=self.engine,
            precision=self.precision,
            weights=self.weights,
            model_version=self.version,
        )


def read_model(models_dir: Path, name: str, *, weights: str | None = None) -> ModelSpec:
    """Read models_dir/name. `weights` replaces those that a keras_application names.

    Raises CatalogueError.
    """
    folder = models_dir / name
    path = folder / "model.toml"
    if not MODEL_NAME.fullmatch(name):
        raise CatalogueError(
            f"{name!r} can't be a model's name: that has only a-z, 0-9, _ and -, and so has its folder's."
        )
    if not path.is_file():
        if old := file_kinds.paddle_0_11(folder, ""):
            raise CatalogueError(old)
        folders = sorted(found.parent.name for found in models_dir.glob("*/model.toml"))
        known = [each for each in folders if MODEL_NAME.fullmatch(each)]
        raise CatalogueError(
            f"There is no model {name!r}: no file {path}. There are: {', '.join(known) or 'none'}."
        )
    toml = model_toml.read(path)
    source, given = toml.source, toml.input
    named = getattr(source, "file", getattr(source, "folder", path.name))
    if old := file_kinds.paddle_0_11(folder, str(named)):
        raise CatalogueError(old)
    if weights is not None and isinstance(source, KerasApplication):
        source = KerasApplication(name=source.name, weights=weights)
    spec = ModelSpec(
        name=name,
        folder=folder,
        task=toml.task,
        source=source,
        input=InputSpec(given.width, given.height, given.channels, given.fit, resize=given.resize or 0),
        normalise=given.normalise,
        labels=labels.read(folder / toml.labels),
        top=toml.top,
        order=given.order,
        activation=toml.output.activation,
        detection=_detection(toml),
    )
    many = (
        f"{spec.top_max} label{'s' if spec.top_max > 1 else ''}"
        if spec.detection is None
        else f"{spec.top_max} detections at most"
    )
    model_toml.require_top(path, spec.top, spec.top_max, many)
    return spec


def read_spec(models_dir: Path, name: str, weights: Mapping[str, str]) -> ModelSpec:
    """Read models_dir/name, with the weights of the variable that is for this model alone, if it is set.

    `weights` is settings.weights: RESNET50_WEIGHTS for resnet50, NAME_WEIGHTS for any other. Raises
    CatalogueError.
    """
    variable = f"{name.upper().replace('-', '_')}_WEIGHTS"
    given = weights.get(variable)
    spec = read_model(models_dir, name, weights=given)
    if given is None:
        return spec
    if not isinstance(spec.source, KerasApplication):
        raise CatalogueError(
            f"{variable}={given!r} is for a network of keras.applications; {name} has its own file: unset it."
        )
    if given not in ("imagenet", "random") and not Path(given).is_file():
        raise CatalogueError(f"{variable}={given!r} is not imagenet, random or a file that is there.")
    return spec


def _detection(toml: ModelToml) -> Detection | None:
    if toml.task != "detection":
        return None
    told = toml.detection or Detection()
    return of_darknet(told) if isinstance(toml.source, Darknet) else told
