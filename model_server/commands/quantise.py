"""`python -m model_server quantise MODEL --pictures FOLDER`: an int8 network, and its cost in accuracy.

Owns the command line, its messages and its exit status, and the only use of NNCF. Runs in its own process,
never in one that serves: it loads NNCF and decodes images. PRECISION=int8 serves what it writes.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_spec
from model_server.catalogue.pipeline_toml import StepModels
from model_server.commands import picture_folder
from model_server.commands.picture_folder import FolderPictures, PictureFolderError
from model_server.commands.terminal import DONE, IMPOSSIBLE, REFUSED, complain, count, print_line, share
from model_server.engines.check import drawn_pictures
from model_server.engines.check.agreement import Reference
from model_server.engines.openvino import runtime, store
from model_server.engines.openvino.conversion import converted
from model_server.engines.openvino.engine import FITS_16_BITS, CompiledNetwork, int8_ingredients
from model_server.engines.openvino.quantised import is_quantised
from model_server.engines.openvino.store import Store, StoreEntry
from settings import PROJECT, SettingError, Settings, weights

_HELD_OUT_AT_MOST: Final = 1000
"""The most held-out images: enough to distinguish an agreement of 0.99 from one of 0.98."""

_EPILOG: Final = """\
If the folder has one folder for each class, named by its label or id, the accuracy before and after is
reported; otherwise how often the best class stays the same. The pictures are not stored.
exit status: 0 written; 1 refused: int8 and fp32 agree too rarely; 2 nothing could be tried.
The command reads the service's settings: give it the same MODELS_DIR, CACHE_DIR, RESNET50_WEIGHTS and so on.
"""


class TooFewAgree(Exception):
    """The int8 network's best class differs too often; the message has the figures."""


@dataclass(frozen=True, slots=True)
class QuantiseReport:
    """Accuracy and speed of int8 beside fp32, on the held-out images."""

    pictures: int
    agreement: float
    """The share of images whose best class is the same in int8 as in fp32."""
    accuracy: tuple[float, float] | None
    """The accuracy of fp32 and of int8; None if the images have no labels."""
    per_s: tuple[float, float]
    """Images a second of fp32 and of int8, in batches of 32, on this machine."""

    def lines(self) -> list[str]:
        """The report as a small table."""
        table = [f"on {self.pictures} pictures held out      fp32     int8"]
        if self.accuracy is not None:
            table.append(f"accuracy                    {self.accuracy[0]:8.4f} {self.accuracy[1]:8.4f}")
        table.append(f"same best class as fp32              {self.agreement:8.4f}")
        table.append(f"images a second             {self.per_s[0]:8.1f} {self.per_s[1]:8.1f}")
        return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _options(arguments)
    try:
        settings = Settings.from_env()
        spec = read_spec(Path(settings.models_dir), options.model, weights(settings))
        if isinstance(spec.source, StepModels):
            raise ModelUnavailable(f"{spec.name} is a pipeline: quantise its steps' models.")
        if spec.has_own_input:
            raise ModelUnavailable(f"{spec.name}: what hooks.py prepares or computes can't be quantised.")
        pictures = picture_folder.read(
            options.pictures,
            spec,
            max_pixels=settings.max_pixels,
            at_most=options.calibrate + _HELD_OUT_AT_MOST,
        )
        calibration, held_out = picture_folder.divide(pictures, options.calibrate)
        kind = "with labels" if pictures.labels is not None else "without labels"
        print_line(f"{spec.name}: {len(pictures)} pictures {kind}; {len(calibration)} are for calibration.")
        entry, report = quantise(
            spec, Store(Path(settings.cache_dir)), calibration, held_out, least=options.least_agreement
        )
    except (SettingError, CatalogueError, PictureFolderError) as error:
        return complain(f"{error}.", IMPOSSIBLE)
    except ModelUnavailable as error:
        return complain(error.message, IMPOSSIBLE)
    except ModuleNotFoundError as error:
        return complain(
            f"The Python package {error.name!r} is not installed. Install what this command needs: "
            f"{_install_command()}",
            IMPOSSIBLE,
        )
    except TooFewAgree as error:
        return complain(str(error), REFUSED)
    for line in report.lines():
        print_line(line)
    print_line(f"Written to {entry.folder}. PRECISION=int8 serves it.")
    return DONE


def quantise(
    spec: ModelSpec, networks: Store, calibration: FolderPictures, held_out: FolderPictures, *, least: float
) -> tuple[StoreEntry, QuantiseReport]:
    """Quantise after training, by NNCF; the result replaces an older int8 network of the model.

    Raises ModelUnavailable, TooFewAgree (nothing is written then) and ModuleNotFoundError (NNCF).
    """
    if spec.is_imported and is_quantised(spec):
        raise ModelUnavailable(
            f"{spec.name}: {spec.weights} is quantised already; PRECISION=auto runs it in int8."
        )
    if not spec.task.has_best_class:
        # Folders name one class for an image: for other answers the cost in accuracy could not be measured.
        raise ModelUnavailable(f"{spec.name} is {spec.task.noun}: this command only quantises classifiers.")
    full = converted(spec, "full", networks)
    reports: list[QuantiseReport] = []

    def make(folder: Path) -> dict[str, object]:
        int8 = StoreEntry(folder)
        _write_int8(full, int8, calibration)
        before, after = CompiledNetwork(full.network, "fp32"), CompiledNetwork(int8.network, "int8")
        report = _judge(before, after, held_out)
        if report.agreement < least:
            raise TooFewAgree(
                "\n".join(report.lines())
                + f"\n{spec.name}: fp32 and int8 agree on less than {least:g} of the pictures, so nothing "
                "was written. If it is a little less, more pictures may help; a network that is reduced to "
                "guessing can't be quantised this way. --least-agreement accepts less."
            )
        reports.append(report)
        drawn = drawn_pictures.draw(spec.input)
        reference = Reference(drawn, after.predict(drawn), full.reference().names)
        store.write_reference(folder, reference)
        quality = {"agreement": report.agreement, "accuracy": report.accuracy}
        return {**quality, "calibrated_on": len(calibration), FITS_16_BITS: True}

    entry = networks.replace(spec.name, int8_ingredients(spec), make)
    return entry, reports[0]


def _write_int8(full: StoreEntry, int8: StoreEntry, calibration: FolderPictures) -> None:
    # NNCF imports openvino: runtime.py, imported above, blocks the telemetry of both.
    import nncf  # noqa: PLC0415 - not part of the default install

    graph = runtime.core().read_model(full.network)
    samples = nncf.Dataset([picture[None] for picture in calibration.pixels])
    # Weights in 7 bits: the sum of two products then fits 16 bits, which is all that CPUs without VNNI have.
    # NNCF's default does so for the first layer only. The CPU that serves may differ from this one.
    narrow = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    quantised = nncf.quantize(graph, samples, subset_size=len(calibration), advanced_parameters=narrow)
    runtime.save_model(quantised, int8.network, compress_to_fp16=True)


def _judge(before: CompiledNetwork, after: CompiledNetwork, held_out: FolderPictures) -> QuantiseReport:
    """Run both on the same images, in turn, so that the machine's other load slows both alike."""
    classes: tuple[list[int], list[int]] = ([], [])
    seconds = [0.0, 0.0]
    for network in (before, after):
        network.predict(held_out.pixels[:32])  # a first run costs more
    for at in range(0, len(held_out), 32):
        batch = held_out.pixels[at : at + 32]
        for which, network in enumerate((before, after)):
            began = time.perf_counter()
            outputs = network.predict(batch)
            seconds[which] += time.perf_counter() - began
            classes[which].extend(outputs[0].argmax(axis=1).tolist())
    best = [np.array(column) for column in classes]
    labels = held_out.labels
    return QuantiseReport(
        pictures=len(held_out),
        agreement=float((best[0] == best[1]).mean()),
        accuracy=None
        if labels is None
        else (float((best[0] == labels).mean()), float((best[1] == labels).mean())),
        per_s=(len(held_out) / seconds[0], len(held_out) / seconds[1]),
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_server quantise",
        description="Make an int8 network of a model, calibrated on your pictures, and report its accuracy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a folder of MODELS_DIR")
    parser.add_argument(
        "--pictures", metavar="FOLDER", type=Path, required=True, help="pictures like those it will classify"
    )
    parser.add_argument(
        "--calibrate", metavar="N", type=count, default=300, help="pictures to calibrate with (300)"
    )
    parser.add_argument(
        "--least-agreement",
        metavar="SHARE",
        type=share,
        default=0.95,
        help="refuse to write below this agreement with fp32 (0.95)",
    )
    return parser.parse_args(arguments)


def _install_command() -> str:
    """The command that installs the packages into this environment, whichever `pip` is on the path."""
    python, requirements = Path(sys.executable), PROJECT / "model_server" / "requirements-quantise.txt"
    return shlex.join([_relative(python), "-m", "pip", "install", "-r", _relative(requirements)])


def _relative(path: Path) -> str:
    """The path relative to the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
