"""The fields of a model.toml.

Owns the fields, their bounds, and which must fit together. toml_errors.py words the refusals. Reads no other
file and loads no network. docs/models.md describes every field.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from broker.messages import KERNELS, MEDIAN, MOST_SIDE, Decode, Fit, InputSpec, Library, Resample
from model_server.catalogue import hooks_file, toml_errors
from model_server.catalogue.detection_layout import Output as OutputName
from model_server.catalogue.hooks_file import HookLimits
from model_server.catalogue.toml_errors import SEE, CatalogueError
from model_server.tasks import TASKS


class KerasApplication(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_application"
):
    """A network of keras.applications, for example ResNet50, with its published weights."""

    name: str
    weights: str = "imagenet"


class KerasFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras_file"):
    """A network saved by Keras 3 into the model's folder."""

    file: str


class Darknet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="darknet"):
    """A Darknet network: its layers in `cfg`, their parameters in `weights`."""

    cfg: str
    weights: str


class Onnx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="onnx"):
    """An ONNX network, as PyTorch and many others export it; large weights may lie in a file beside it."""

    file: str


class TFLite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tflite"):
    """A TensorFlow Lite network, quantised or not."""

    file: str


class FrozenGraph(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="frozen_graph"
):
    """A TensorFlow graph with its weights as constants: a `.pb`, as TensorFlow 1 wrote it."""

    file: str


class SavedModel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="saved_model"
):
    """A folder with TensorFlow's saved_model.pb."""

    folder: str


class Paddle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="paddle"):
    """A PaddlePaddle inference model: its `.pdmodel`, or a folder with exactly one."""

    file: str


class OwnNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="python"):
    """A network that load() in the folder's hooks.py makes, in any framework."""


class TorchScript(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="torchscript"
):
    """A network of PyTorch with its code, as `torch.jit.save` writes it."""

    file: str


class TorchExport(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="torch_export"
):
    """A network of PyTorch as a graph, as `torch.export.save` writes it."""

    file: str


class TorchNetwork(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="torch_network"
):
    """A network of a library for PyTorch, by its name there; `weights` is a file with its state dict."""

    library: Literal["timm", "torchvision"]
    name: str
    weights: str


TorchSource = TorchScript | TorchExport | TorchNetwork
"""The sources that PyTorch itself reads, in the process that converts them; PyTorch can run them, too."""
FileSource = Onnx | TFLite | FrozenGraph | SavedModel | Paddle
"""The sources that OpenVINO reads itself, so that no other engine runs them."""
ImportedSource = FileSource | TorchSource
"""The sources that become OpenVINO's graphs without Keras."""
Source = KerasApplication | KerasFile | ImportedSource | Darknet | OwnNetwork

SOURCES: Final[dict[str, Any]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Source)}
"""Each kind of source by its name in model.toml."""

if TYPE_CHECKING:
    TaskName = str  # a type checker can't read the table
else:
    TaskName = Literal[*TASKS, "pipeline"]  # which pipeline_toml.py reads, but which is named here
NormalisationName = Literal["none", "unit", "tf", "torch", "caffe"]
Order = Literal["rgb", "bgr"]
Activation = Literal["none", "softmax", "sigmoid"]
Size = Annotated[int, Meta(ge=1, le=MOST_SIDE)]


class Normalisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(pixel - mean) / std: a number for each channel in the network's order, for pixels of 0..255."""

    mean: tuple[Annotated[float, Meta(ge=-65536, le=65536)], ...]
    std: tuple[Annotated[float, Meta(gt=0, le=65536)], ...]


Normalise = NormalisationName | Normalisation


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[input]: the images that the network takes."""

    width: Size
    height: Size
    channels: Literal[1, 3]
    fit: Fit
    normalise: Normalise
    resize: Size | None = None
    order: Order = "rgb"
    resample: Resample = Resample.BILINEAR
    library: Library | None = None
    decode: Decode | None = None
    border: Annotated[int, Meta(ge=0, le=255)] | None = None

    def spec(self, usual: Library) -> InputSpec:
        """What the web tier prepares pictures by; `usual` is the source's library."""
        library = self.library or usual
        # Pillow averages what it makes smaller, so a JPEG that was decoded smaller gives nearly the same.
        is_averaged = library is Library.PILLOW and self.resample is not Resample.NEAREST
        return InputSpec(
            self.width,
            self.height,
            self.channels,
            self.fit,
            resize=self.resize or 0,
            resample=self.resample,
            library=library,
            decode=self.decode or (Decode.FAST if is_averaged else Decode.EXACT),
            border=MEDIAN if self.border is None else self.border,
        )


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[output]: which of the network's outputs is served, and how it becomes probabilities."""

    name: OutputName | None = None
    """Its name or its number; None: the first that fits."""
    activation: Activation = "none"


class _ModelFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every model.toml may have."""

    task: TaskName
    source: Source
    input: Input
    labels: str | None = None
    top: Annotated[int, Meta(ge=1)] | None = None
    output: Output = Output()
    hooks: HookLimits | None = None

    @property
    def own_table(self) -> msgspec.Struct | None:
        """The task's own table, if it is written."""
        table: msgspec.Struct | None = getattr(self, self.task, None)
        return table

    @property
    def is_darknet(self) -> bool:
        """Whether our own converter makes the network, so that its outputs are known."""
        return isinstance(self.source, Darknet)

    @property
    def input_spec(self) -> InputSpec:
        """What the web tier prepares pictures by."""
        # Darknet's resize_image is linear without averaging, as OpenCV's is. With averaging Yolo-Fastest-xl
        # gives an object 0.89 that has 0.96 in an independent program.
        return self.input.spec(Library.OPENCV if self.is_darknet else Library.PILLOW)


_TABLES: Final = {name: task.table for name, task in TASKS.items() if task.table is not None}

if TYPE_CHECKING:
    ModelToml = _ModelFields  # a type checker can't read the table
else:
    ModelToml = msgspec.defstruct(
        "ModelToml",
        [(name, table | None, None) for name, table in _TABLES.items()],
        bases=(_ModelFields,),
        frozen=True,
        forbid_unknown_fields=True,
    )


def read(path: Path) -> ModelToml:
    """Read a model.toml. Raises CatalogueError, which names the file, the line and what is allowed there."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: the file can't be read as UTF-8 ({error}). {SEE}") from None
    try:
        toml = msgspec.toml.decode(text, type=ModelToml)
    except msgspec.ValidationError as error:
        raise toml_errors.of_value(path, text, error, ModelToml) from None
    except ValueError as error:  # msgspec.DecodeError and tomllib's are ValueErrors
        raise toml_errors.of_syntax(path, text, error) from None
    task = TASKS[toml.task]
    for key, problem in [
        *_misfits(toml.input),
        *_unknown_kernel(toml.input_spec),
        *_of_other_tasks(toml),
        *_missing_labels(toml),
        *task.misfits(toml),
        *_misplaced(path.parent, toml),
        *_of_own_code(path.parent, toml),
    ]:
        raise toml_errors.of_key(path, text, key, problem)
    return toml


def _of_other_tasks(toml: ModelToml) -> Iterator[tuple[str, str]]:
    for name in _TABLES:
        if name != toml.task and getattr(toml, name) is not None:
            yield name, f'[{name}] is for task = "{name}".'


def _missing_labels(toml: ModelToml) -> Iterator[tuple[str, str]]:
    task = TASKS[toml.task]
    if task.has_labels and toml.labels is None:
        yield "labels", f'labels is missing: {task.noun} needs a file of labels (labels = "labels.txt").'
    if not task.has_labels:
        for key in ("labels", "top"):
            if getattr(toml, key) is not None:
                yield key, f"{key} is for labels, and {task.noun} has none. Leave it out."


def require_known(path: Path, problems: Iterator[tuple[str, str]]) -> None:
    """Raise CatalogueError for the first of the `problems`: keys, each with what is wrong with it."""
    for key, problem in problems:
        raise toml_errors.of_key(path, path.read_text("utf-8-sig"), key, problem)


def require_top(path: Path, top: int, most: int, limit: str) -> None:
    """Raise CatalogueError if `top` is above `most`; `limit` is the clause that says why."""
    if top > most:
        problem = f"An answer can't have {top} predictions: {limit}. Write {most} or less."
        raise toml_errors.of_key(path, path.read_text("utf-8-sig"), "top", problem)


def _of_own_code(folder: Path, toml: ModelToml) -> Iterator[tuple[str, str]]:
    """Keys that contradict the folder's hooks.py, each with the reason."""
    hooks = hooks_file.read(folder, toml.hooks)
    if toml.hooks is not None and hooks is None:
        yield "hooks", f"[hooks] is for a model with a {hooks_file.NAME}, and this folder has none."
    is_python = isinstance(toml.source, OwnNetwork)
    if is_python and toml.output.activation != "none":
        yield "output.activation", "predict in hooks.py returns probabilities. Leave activation out."
    if is_python or (hooks is not None and "preprocess" in hooks.names):
        function = "predict" if is_python else "preprocess"
        problem = f"{function} in hooks.py gets the pixels as they are, in RGB, and does the rest itself."
        if toml.input.normalise != "none":
            yield "input.normalise", f'{problem} Write normalise = "none".'
        if toml.input.order != "rgb":
            yield "input.order", f"{problem} Leave order out."


def _unknown_kernel(spec: InputSpec) -> Iterator[tuple[str, str]]:
    if spec.resample not in KERNELS[spec.library]:
        known = ", ".join(f'"{kernel}"' for kernel in Resample if kernel in KERNELS[spec.library])
        yield "input.resample", f'library = "{spec.library}" has {known}.'


def _misfits(fields: Input) -> Iterator[tuple[str, str]]:
    """Keys of [input] that contradict its other keys, each with the reason."""
    if fields.fit is Fit.INK and fields.channels != 1:
        yield "input.channels", 'fit = "ink" makes grey pictures, so channels must be 1.'
    if fields.resize is not None and fields.fit is not Fit.CROP:
        yield "input.resize", 'resize is the short side before the centre crop, so fit must be "crop".'
    elif fields.resize is not None and fields.resize < max(fields.width, fields.height):
        yield "input.resize", "resize must be at least the width and the height."
    if fields.border is not None and fields.fit is not Fit.PAD:
        yield "input.border", 'border is the colour around a picture that is padded, so fit must be "pad".'
    match fields.normalise:
        case Normalisation(mean=mean, std=std):
            for key, numbers in (("mean", mean), ("std", std)):
                if len(numbers) != fields.channels:
                    problem = f"{key} has {len(numbers)} numbers, but there are {fields.channels} channels."
                    yield f"input.normalise.{key}", problem
            if min(std) < 1:
                # Nobody divides 0..255 by less; and no check of ours would notice.
                problem = "Pixels are 0..255. If mean and std are for 0..1, multiply them by 255."
                yield "input.normalise.std", problem
        case "torch" | "caffe" if fields.channels != 3:
            problem = f'"{fields.normalise}" is for 3 channels. Use "unit", or a table of mean and std.'
            yield "input.normalise", problem
        case "caffe" if fields.order == "bgr":
            yield "input.order", 'normalise = "caffe" makes BGR already. Leave order out.'
    if fields.order == "bgr" and fields.channels != 3:
        yield "input.order", '"bgr" is for 3 channels.'


def _misplaced(folder: Path, toml: ModelToml) -> Iterator[tuple[str, str]]:
    """Keys that name a file outside the folder, and labels that are missing.

    A missing network costs only its own model, when that is loaded.
    """
    match toml.source:
        case Darknet():
            keys: tuple[str, ...] = ("cfg", "weights")
        case TorchNetwork():
            keys = ("weights",)
        case _:
            keys = ("file", "folder")
    paths = {f"source.{key}": getattr(toml.source, key, "") for key in keys}
    labels = {} if toml.labels is None else {"labels": toml.labels}
    for key, name in {**labels, **paths}.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            yield key, f"{name!r} is outside this folder."
    if toml.labels is not None and not (folder / toml.labels).is_file():
        yield "labels", f"There is no file {toml.labels!r} in this folder."
