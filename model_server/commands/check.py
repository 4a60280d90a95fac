"""`python -m model_server check models/NAME`: read a model's folder, load its network, classify a picture.

Owns the command line, its messages and its exit status. Runs in its own process, never in one that serves: it
decodes an image as the web tier does. It accepts and refuses the same folders as serving does.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ServiceError, first_line
from broker.messages import TaskResult
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_spec
from model_server.catalogue.model_toml import Normalisation
from model_server.catalogue.pipeline_toml import StepModels
from model_server.commands import check_pipeline, golden
from model_server.commands.golden import GoldenError
from model_server.commands.terminal import DONE, REFUSED, complain, count, print_line, share
from model_server.engines import loading
from model_server.engines.check import agreement, drawn_pictures
from model_server.engines.choice import choose_for
from model_server.engines.engine import Engine, EngineOptions, OutputNames, Outputs
from model_server.engines.hooked import HookedEngine
from model_server.hooks import HookOptions
from model_server.tasks.task import ReadOptions
from pictures import fit
from settings import SettingError, Settings, for_own_code, weights

_EPILOG: Final = """\
Without --picture a drawn picture is used: it shows that the model runs, not that its answers are right.
exit status: 0 the model can be served; 1 it can't, and the last line says why.
The command reads the service's settings: ENGINE, PRECISION, CACHE_DIR, DENSENET121_WEIGHTS and so on.
"""


@dataclass(frozen=True, slots=True)
class CheckedPicture:
    """The image that is classified, as the model takes it."""

    name: str
    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _options(arguments)
    try:
        settings = Settings.from_env()
        spec = _spec(options.model, settings)
        if isinstance(spec.source, StepModels):
            for name in ("picture", "golden", "top"):
                if getattr(options, name) is not None:
                    problem = (
                        f"--{name} is for a model with a network, and {spec.name} is a pipeline: check its"
                    )
                    return complain(f"{problem} steps' models with it.", REFUSED)
            return check_pipeline.check(
                spec.name,
                spec.source.steps,
                spec.folder.resolve().parent,
                weights(settings),
                _where(spec, settings),
            )
        if options.top and options.top > spec.top_max:
            return complain(f"--top is {options.top}; {spec.name} gives at most {spec.top_max}.", REFUSED)
        for line in _described(spec):
            print_line(line)
        if options.golden is not None:
            return _golden(spec, options, settings)
        picture = _picture(spec, options.picture, settings)
        engine = _engine(spec, settings)
        print_line(f"engine      {engine.name} {engine.precision}, weights: {spec.weights}")
        print_line(f"picture     {picture.name}, {picture.original_size[0]} x {picture.original_size[1]}")
        hooked = engine if isinstance(engine, HookedEngine) else None
        outputs = engine.predict((hooked.prepare(picture.pixels) if hooked else picture.pixels)[None])
        for line in _outputs(spec, engine.outputs):
            print_line(line)
        served = engine.outputs.served
        reading = ReadOptions(picture.original_size, options.top or spec.top, served)
        result = _read(spec, outputs, reading, hooked)
        for line in _lines(result):
            print_line(line)
    except (SettingError, CatalogueError, GoldenError, OSError) as error:
        return complain(str(error), REFUSED)
    except ServiceError as error:
        return complain(error.message, REFUSED)
    except Exception as error:  # noqa: BLE001 - whatever a network raises is this model's fault
        return complain(f"The network can't be run as its model.toml says ({first_line(error)}).", REFUSED)
    if spec.weights == "random":
        print_line("The weights are random: the labels mean nothing.")
    print_line(f"{spec.name} can be served: {_where(spec, settings)}MODELS={spec.name} make serve")
    return DONE


def _where(spec: ModelSpec, settings: Settings) -> str:
    """What a command must say where the folder is not one of MODELS_DIR."""
    parent = spec.folder.resolve().parent
    return f"MODELS_DIR={parent} " if parent != Path(settings.models_dir).resolve() else ""


def _golden(spec: ModelSpec, options: argparse.Namespace, settings: Settings) -> int:
    """Compare with the author's outputs, in fp32 unless PRECISION names another."""
    if spec.has_own_input:
        return complain(f"{spec.name}: --golden can't compare what hooks.py prepares or computes.", REFUSED)
    spec = replace(spec, hooks=None)  # its network's outputs are compared
    precision = "fp32" if settings.precision == "auto" else settings.precision
    choice = choose_for(spec, settings.engine, precision, keras_backend=settings.keras_backend)
    print_line(f"engine      {choice.engine} {choice.precision}, weights: {spec.weights}")
    expected = golden.read(options.golden)
    with tempfile.TemporaryDirectory(prefix="batchwire-golden-") as scratch:
        trial = golden.Trial(
            spec,
            choice,
            cache=Path(settings.cache_dir),
            scratch=Path(scratch),
            max_pixels=settings.max_pixels,
        )
        comparison = trial.compare(spec, expected)
        for line in comparison.lines(expected, options.within):
            print_line(line)
        is_within = comparison.largest <= options.within
        if not is_within:
            print_line("Trying other preprocessing ...")
            for line in golden.explain(trial, spec, expected, comparison, options.within):
                print_line(line)
    if not is_within:
        return complain(
            f"{spec.name} differs from its golden outputs by more than {options.within:g}.", REFUSED
        )
    print_line(f"{spec.name} gives the golden outputs.")
    return DONE


def _spec(model: str, settings: Settings) -> ModelSpec:
    """The model with this path, or with this name in MODELS_DIR."""
    path = Path(model)
    is_path = path.is_dir() or len(path.parts) > 1
    folder = path.absolute() if is_path else settings.require_directory("check") / model
    return read_spec(folder.parent, folder.name, weights(settings))


def _described(spec: ModelSpec) -> list[str]:
    input_ = spec.input
    resized = f" after the short side is resized to {input_.resize}" if input_.resize else ""
    normalise = str(spec.normalise)
    if isinstance(spec.normalise, Normalisation):
        normalise = f"(pixel - {list(spec.normalise.mean)}) / {list(spec.normalise.std)}"
    # In quotes: ImageNet's labels have commas in them.
    first = ", ".join(f'"{label.label}"' for label in spec.labels[:3])
    rest = ", ..." if len(spec.labels) > 3 else ""
    labels = f", {_many(len(spec.labels), 'label')} ({first}{rest})" if spec.labels else ""
    colours = "grey" if input_.channels == 1 else spec.order
    return [
        f"model       {spec.name}: {spec.task.name}{labels}",
        f"source      {type(spec.source).__struct_config__.tag}: {spec.weights}",
        f"input       {input_.width} x {input_.height}, {_many(input_.channels, 'channel')} ({colours}), "
        f"fit {input_.fit}{resized}, normalise {normalise}",
    ]


def _outputs(spec: ModelSpec, names: OutputNames) -> Iterator[str]:
    """Which outputs are served, and what else the network has."""
    activation = f", activation {spec.activation}" if spec.task.gives_probabilities else ""
    yield f"output      {', '.join(names.served) or 'unnamed'}{activation}"
    if len(names.available) > len(names.served):
        yield f"            of {'; '.join(names.available)}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _picture(spec: ModelSpec, path: Path | None, settings: Settings) -> CheckedPicture:
    if path is None:
        return CheckedPicture(
            "drawn", drawn_pictures.draw(spec.input)[0], (spec.input.width, spec.input.height)
        )
    prepared = fit.prepare(path.read_bytes(), spec.input, max_pixels=settings.max_pixels)
    return CheckedPicture(str(path), prepared.pixels, prepared.original_size)


def _engine(spec: ModelSpec, settings: Settings) -> Engine:
    choice = choose_for(spec, settings.engine, settings.precision, keras_backend=settings.keras_backend)
    options = EngineOptions(
        settings.batch_size,
        cache=Path(settings.cache_dir),
        threads=settings.engine_threads,
        provider=settings.onnxruntime_provider,
        hooks=HookOptions(settings.hooks == "on", for_own_code()),
    )
    return loading.load(spec, choice, options)


def _read(spec: ModelSpec, outputs: Outputs, options: ReadOptions, hooked: HookedEngine | None) -> TaskResult:
    """The answer. Raises ServiceError if the outputs are not what the task gives."""
    if spec.task.gives_probabilities:
        agreement.require_probabilities(spec, outputs[0])
    read = hooked.read if hooked is not None else spec.task.read
    return read(tuple(output[0] for output in outputs), spec, options)


def _lines(result: TaskResult) -> Iterator[str]:
    """What an answer has, a line each."""
    for prediction in result.predictions:
        box = f"  {list(prediction.box)}" if prediction.box is not None else ""
        yield f"  {prediction.probability:8.4f}  {prediction.label}  ({prediction.class_id}){box}"
    for label, value in (result.values or {}).items():
        yield f"  {value:12.6g}  {label}"
    if result.embedding is not None:
        yield f"  a vector of {_many(len(result.embedding), 'number')}: {_first(result.embedding)}"
    if result.image is not None:
        height, width, channels = result.image.shape
        yield f"  a picture of {width} x {height}, {_many(channels, 'channel')}"
    for name, output in (result.outputs or {}).items():
        yield f"  {name} {output.shape}: {_first(output.data)}"
    if result.result is not None:
        yield f"  {json.dumps(result.result, ensure_ascii=False)}"
    if result == TaskResult():
        yield "  nothing was found"


def _first(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers[:4]) + (", ..." if len(numbers) > 4 else "")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_server check",
        description="Read a model's folder, load its network and classify a picture with it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="models/NAME", help="the model's folder, or its name in MODELS_DIR")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="a picture to classify (a drawn one)")
    parser.add_argument(
        "--golden",
        metavar="FILE",
        type=Path,
        help="compare with these outputs of the network's own code: an .npz, or a folder with outputs.csv "
        "(docs/golden.md)",
    )
    parser.add_argument(
        "--within",
        metavar="X",
        type=share,
        default=golden.WITHIN,
        help="the largest difference from golden outputs (%(default)g)",
    )
    parser.add_argument("--top", metavar="K", type=count, help="predictions to print (model.toml's top)")
    return parser.parse_args(arguments)
