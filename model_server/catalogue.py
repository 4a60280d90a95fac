"""The catalogue: models/NAME/model.toml and its labels, read and checked.

Owns what a model's folder may say. Loads no network; sources.py does.
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from broker.keys import MODEL_NAME
from broker.messages import Card, Fit, InputSpec


class CatalogueError(ValueError):
    """A model's folder is missing or wrong; the message names the file and what it may hold."""


class KerasApplication(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_application"
):
    """A network of keras.applications, such as ResNet50, with its published weights."""

    name: str
    weights: str = "imagenet"


class KerasFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_file"):
    """A network saved by Keras 3 into the model's folder."""

    file: str


Source = KerasApplication | KerasFile
Normalise = Literal["none", "unit", "tf", "torch", "caffe"]


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    width: int
    height: int
    channels: Literal[1, 3]
    fit: Fit
    normalise: Normalise


class _ModelToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    task: Literal["classification"]
    labels: str
    top: int
    source: Source
    input: _Input


_ALLOWED: Final = (
    "A model.toml has task (classification), labels (a file), top; "
    "[source] with kind keras_file and file, or kind keras_application and name (and weights); "
    f"[input] with width, height, channels (1 or 3), fit ({', '.join(Fit)}) "
    f"and normalise ({', '.join(get_args(Normalise))}). README.md has an example."
)


@dataclass(frozen=True, slots=True)
class Label:
    """A class's name, and its id where the data set has one (ImageNet: the WordNet id)."""

    class_id: str
    label: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as its folder describes it.

    `normalise` says how the network wants uint8 made into float32: `none` (as it is), `unit` (0..1),
    `tf` (-1..1), `torch` (0..1, then ImageNet's mean and deviation), `caffe` (BGR less ImageNet's mean);
    the last three are those of keras.applications.imagenet_utils.preprocess_input.
    """

    name: str
    folder: Path
    task: Literal["classification"]
    source: Source
    input: InputSpec
    normalise: Normalise
    labels: tuple[Label, ...]
    top: int
    engine: str = ""
    """What runs it in this process; empty until an entry point has chosen."""
    precision: str = ""
    """What it computes in; likewise."""

    @property
    def weights(self) -> str:
        """Where the weights come from: `imagenet`, `random` or the name of a file."""
        match self.source:
            case KerasApplication(weights=weights):
                return weights if weights in ("imagenet", "random") else Path(weights).name
            case KerasFile(file=file):
                return file

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with the folder's content and the source."""
        digest = hashlib.sha256(repr(self.source).encode())
        for path in sorted(self.folder.iterdir()):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:12]

    def card(self) -> Card:
        """What the web tier gets to know of it."""
        return Card(
            model=self.name,
            task=self.task,
            input=self.input,
            classes=len(self.labels),
            top=min(self.top, len(self.labels)),
            top_max=len(self.labels),
            engine=self.engine,
            precision=self.precision,
            weights=self.weights,
        )


def read_model(models_dir: Path, name: str, *, weights: str | None = None) -> ModelSpec:
    """Read models_dir/name. `weights` replaces those that a keras_application names.

    Raises CatalogueError.
    """
    folder = models_dir / name
    path = folder / "model.toml"
    if not MODEL_NAME.fullmatch(name) or not path.is_file():
        known = sorted(found.parent.name for found in models_dir.glob("*/model.toml"))
        raise CatalogueError(
            f"There is no model {name!r}: no file {path}. There are: {', '.join(known) or 'none'}."
        )
    try:
        toml = msgspec.toml.decode(path.read_bytes(), type=_ModelToml)
    except (msgspec.DecodeError, ValueError) as error:
        raise CatalogueError(f"{path}: {error}. {_ALLOWED}") from None
    if min(toml.input.width, toml.input.height, toml.top) < 1:
        raise CatalogueError(f"{path}: width, height and top are at least 1")
    if toml.input.fit is Fit.INK and toml.input.channels != 1:
        raise CatalogueError(f'{path}: fit = "ink" makes grey pictures, so channels must be 1')
    source = toml.source
    if weights is not None and isinstance(source, KerasApplication):
        source = KerasApplication(name=source.name, weights=weights)
    return ModelSpec(
        name=name,
        folder=folder,
        task=toml.task,
        source=source,
        input=InputSpec(toml.input.width, toml.input.height, toml.input.channels, toml.input.fit),
        normalise=toml.input.normalise,
        labels=_read_labels(_inside(folder, toml.labels)),
        top=toml.top,
    )


def read_spec(models_dir: Path, name: str, weights: Mapping[str, str]) -> ModelSpec:
    """Read models_dir/name, with the weights of the setting that is for this model alone, if there is one.

    Raises CatalogueError.
    """
    return read_model(models_dir, name, weights=weights.get(name))


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise CatalogueError(f"{folder / 'model.toml'}: there is no file {name!r} in this folder")
    return path


def _read_labels(path: Path) -> tuple[Label, ...]:
    """A CSV with a header: index,class_id,label; the indices are 0, 1, 2, ..."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"index", "class_id", "label"} <= set(rows[0]):
        raise CatalogueError(f"{path}: needs the columns index,class_id,label and a row for each class")
    for number, row in enumerate(rows):
        if row["index"] != str(number):
            raise CatalogueError(
                f"{path}, line {number + 2}: the index must be {number}, not {row['index']!r}"
            )
    return tuple(Label(row["class_id"], row["label"]) for row in rows)
