"""`python -m model_server quantise MODEL --pictures FOLDER`: an int8 network, and its cost in accuracy.

Owns the command line, its messages and its exit status, the judgement, and how many operations stay in float
for it; int8_network.py makes the networks. Runs in its own process, never in one that serves: it loads NNCF
and decodes images. PRECISION=int8 serves what it writes.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_spec
from model_server.catalogue.pipeline_toml import StepModels
from model_server.commands import int8_network, picture_folder
from model_server.commands.picture_folder import FolderPictures, PictureFolderError
from model_server.commands.terminal import (
    DONE,
    IMPOSSIBLE,
    REFUSED,
    complain,
    count,
    minutes,
    print_line,
    share,
)
from model_server.engines.check import drawn_pictures
from model_server.engines.check.agreement import Reference
from model_server.engines.openvino import runtime, store
from model_server.engines.openvino.compiled_network import CompiledNetwork
from model_server.engines.openvino.conversion import converted
from model_server.engines.openvino.engine import FITS_16_BITS, PROCESSOR, int8_ingredients
from model_server.engines.openvino.quantised import is_quantised
from model_server.engines.openvino.store import Store, StoreEntry
from settings import PROJECT, SettingError, Settings, weights

_HELD_OUT_AT_MOST: Final = 1000
"""The most held-out images: enough to distinguish an agreement of 0.99 from one of 0.98."""

_TIMED: Final = 256
"""Images that both networks run to compare their speed."""

_EPILOG: Final = """\
If the folder has one folder for each class, named by its label or id, the accuracy lost decides; otherwise
how often the best class stays the same. If int8 costs too much, the operations that cost most stay in float,
as few of them as possible. The pictures are not stored.
exit status: 0 written; 1 refused: it costs too much; 2 nothing could be tried.
The command reads the service's settings: give it the same MODELS_DIR, CACHE_DIR, RESNET50_WEIGHTS and so on.
"""


class TooMuchLost(Exception):
    """No network costs little enough; the message has the figures."""


@dataclass(frozen=True, slots=True)
class QuantiseReport:
    """Accuracy and speed of int8 beside fp32, on the held-out images."""

    pictures: int
    agreement: float
    """The share of images whose best class is the same in int8 as in fp32."""
    accuracy: tuple[float, float] | None
    """The accuracy of fp32 and of int8; None if the images have no labels."""
    has_telling_labels: bool
    """Whether fp32 is right more often than whoever always names the commonest label."""
    operations: int
    """How many operations compute in int8."""
    in_float: tuple[str, ...]
    """The operations that stay in float for the accuracy's sake."""
    per_s: tuple[float, float] = (0.0, 0.0)
    """Images a second of fp32 and of int8, in batches of 32, on this machine."""

    def lines(self) -> list[str]:
        """The report as a small table."""
        kind = "mixed" if self.in_float else "int8"
        table = [f"on {self.pictures} pictures held out      fp32 {kind:>8}"]
        if self.accuracy is not None:
            table.append(f"accuracy                    {self.accuracy[0]:8.4f} {self.accuracy[1]:8.4f}")
        table.append(f"same best class as fp32              {self.agreement:8.4f}")
        if self.per_s[0]:
            table.append(f"images a second             {self.per_s[0]:8.1f} {self.per_s[1]:8.1f}")
        table.append(f"operations in int8                   {self.operations:8}")
        table.append(f"operations that stay in float        {len(self.in_float):8}")
        return table


@dataclass(frozen=True, slots=True)
class CostLimits:
    """What int8 may cost, and how it is made."""

    most_lost: float
    """Of accuracy, where labels tell it."""
    least_agreement: float
    """The same best class as in fp32, where they do not."""
    minutes: float
    """The longest search for what must stay in float."""
    narrow: bool
    """Whether the weights have 7 bits, for processors whose sums saturate."""

    def excess(self, report: QuantiseReport) -> str:
        """What is too much, as a clause; empty if nothing is."""
        if report.accuracy is not None and report.has_telling_labels:
            lost = report.accuracy[0] - report.accuracy[1]
            if lost <= self.most_lost + 1e-9:
                return ""
            return f"it loses {lost:.4f} of accuracy, more than {self.most_lost:g} (--most-lost)"
        if report.agreement >= self.least_agreement:
            return ""
        return (
            f"it agrees with fp32 on {report.agreement:.4f} of the pictures, less than "
            f"{self.least_agreement:g} (--least-agreement)"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _options(arguments)
    began = time.monotonic()
    try:
        settings = Settings.from_env()
        spec = read_spec(settings.require_directory("quantise"), options.model, weights(settings))
        _require_quantisable(spec)
        pictures = picture_folder.read(
            options.pictures,
            spec,
            max_pixels=settings.max_pixels,
            at_most=options.calibrate + _HELD_OUT_AT_MOST,
        )
        calibration, held_out = picture_folder.divide(pictures, options.calibrate)
        print_line(f"{spec.name}: {_division(pictures, len(calibration), options.calibrate)}")
        limits = CostLimits(
            options.most_lost,
            options.least_agreement,
            options.minutes,
            options.any_processor or runtime.saturates_int8(),
        )
        entry, report = quantise(spec, Store(Path(settings.cache_dir)), calibration, held_out, limits)
    except (SettingError, CatalogueError, PictureFolderError) as error:
        return complain(f"{str(error).removesuffix('.')}.", IMPOSSIBLE)
    except ModelUnavailable as error:
        return complain(error.message, IMPOSSIBLE)
    except ModuleNotFoundError as error:
        return complain(
            f"The Python package {error.name!r} is not installed. Install what this command needs: "
            f"{_install_command()}",
            IMPOSSIBLE,
        )
    except TooMuchLost as error:
        return complain(str(error), REFUSED)
    for line in report.lines():
        print_line(line)
    print_line(
        f"Made in {time.monotonic() - began:.0f} s {_PROCESSORS[limits.narrow]}. Written to {entry.folder}. "
        "PRECISION=int8 serves it."
    )
    return DONE


_PROCESSORS: Final = {False: "for processors with VNNI", True: "for every processor (weights of 7 bits)"}


def _require_quantisable(spec: ModelSpec) -> None:
    """Raise ModelUnavailable for what this command can't quantise."""
    if isinstance(spec.source, StepModels):
        raise ModelUnavailable(f"{spec.name} is a pipeline: quantise its steps' models.")
    if spec.has_own_input:
        raise ModelUnavailable(f"{spec.name}: what hooks.py prepares or computes can't be quantised.")
    if spec.is_imported and is_quantised(spec):
        raise ModelUnavailable(
            f"{spec.name}: {spec.weights} is quantised already; PRECISION=auto runs it in int8."
        )
    if not spec.task.has_best_class:
        # Folders name one class for an image: for other answers the cost in accuracy could not be measured.
        raise ModelUnavailable(f"{spec.name} is {spec.task.noun}: this command only quantises classifiers.")


def _division(pictures: FolderPictures, calibrating: int, asked: int) -> str:
    """What the pictures are for, and why fewer calibrate than were asked for."""
    kind = "with labels" if pictures.labels is not None else "without labels"
    text = f"{len(pictures)} pictures {kind}; {calibrating} are for calibration"
    if calibrating < asked:
        text += f", not {asked}, since half of them are held out to judge"
    if pictures.left_out:
        text += f"; files that could not be read as pictures: {pictures.left_out}"
    return f"{text}."


def quantise(
    spec: ModelSpec,
    networks: Store,
    calibration: FolderPictures,
    held_out: FolderPictures,
    limits: CostLimits,
) -> tuple[StoreEntry, QuantiseReport]:
    """Quantise after training; the result replaces an older int8 network of the model.

    Raises ModelUnavailable, TooMuchLost (nothing is written then) and ModuleNotFoundError (NNCF).
    """
    full = converted(spec, "full", networks)
    reports: list[QuantiseReport] = []

    def make(folder: Path) -> dict[str, object]:
        int8 = StoreEntry(folder)
        before = CompiledNetwork(full.network, "fp32")
        report = _cheap_enough(full, int8, calibration, _Judge(before, held_out), limits)
        after = CompiledNetwork(int8.network, "int8")
        report = replace(report, per_s=_speeds(before, after, held_out.pixels[:_TIMED]))
        reports.append(report)
        drawn = drawn_pictures.draw(spec.input)
        reference = Reference(drawn, after.predict(drawn), full.reference().names)
        store.write_reference(folder, reference)
        return {
            "agreement": report.agreement,
            "accuracy": report.accuracy,
            "calibrated_on": len(calibration),
            "in_float": report.in_float,
            PROCESSOR: "avx2" if limits.narrow else "vnni",
            FITS_16_BITS: limits.narrow,
        }

    entry = networks.replace(spec.name, int8_ingredients(spec), make)
    return entry, reports[0]


class _Judge:
    """Held-out images, and what fp32 answers for them."""

    def __init__(self, before: CompiledNetwork, held_out: FolderPictures) -> None:
        self._held_out = held_out
        self._classes = self._best_classes(before)

    def __call__(self, int8: StoreEntry, in_float: tuple[str, ...]) -> QuantiseReport:
        classes, labels = self._best_classes(CompiledNetwork(int8.network, "int8")), self._held_out.labels
        accuracy, has_telling_labels = None, False
        if labels is not None:
            accuracy = float((self._classes == labels).mean()), float((classes == labels).mean())
            has_telling_labels = accuracy[0] > np.bincount(labels).max() / len(labels)
        computing = {name for part in int8_network.parts(int8.network) for name in part.operations}
        return QuantiseReport(
            pictures=len(self._held_out),
            agreement=float((self._classes == classes).mean()),
            accuracy=accuracy,
            has_telling_labels=bool(has_telling_labels),
            operations=len(computing),
            in_float=in_float,
        )

    def _best_classes(self, network: CompiledNetwork) -> NDArray[np.int64]:
        pixels = self._held_out.pixels
        answers = [
            network.predict(pixels[at : at + 32])[0].argmax(axis=1) for at in range(0, len(pixels), 32)
        ]
        return np.concatenate(answers)


def _cheap_enough(
    full: StoreEntry, int8: StoreEntry, calibration: FolderPictures, judge: _Judge, limits: CostLimits
) -> QuantiseReport:
    """Write the network with the fewest operations in float that costs little enough. Raises TooMuchLost.

    Calibrating images rank the parts, held-out ones decide how many of them stay in float: 1, 2, 4 and so on,
    since each try calibrates again.
    """

    def attempt(in_float: tuple[str, ...]) -> QuantiseReport:
        int8_network.write(
            full.network, int8.network, calibration.pixels, floats=in_float, narrow=limits.narrow
        )
        return judge(int8, in_float)

    best = attempt(())
    excess = limits.excess(best)
    until = time.monotonic() + 60 * limits.minutes
    if excess and limits.minutes:
        print_line(
            f"All in int8, {excess}. Looking for what must stay in float: {limits.minutes:g} min at most."
        )
        parts = int8_network.rank(
            full.network,
            int8.network,
            calibration.pixels,
            until=until - 30 * limits.minutes,
            progress=print_line,
        )
        ranked = [part for _, part in sorted(parts, key=lambda costing: -costing[0])]
        many = 1
        while excess and many < len(ranked) and time.monotonic() < until:
            in_float = tuple(dict.fromkeys(name for part in ranked[:many] for name in part.operations))
            report = attempt(in_float)
            excess = limits.excess(report)
            print_line(f"With {len(in_float)} operations in float, {excess or 'it costs little enough'}.")
            best, many = report, 2 * many
    if excess:
        raise TooMuchLost(
            "\n".join([*best.lines(), f"{excess[0].upper()}{excess[1:]}: nothing was written."])
        )
    return best


def _speeds(before: CompiledNetwork, after: CompiledNetwork, pixels: NDArray[Any]) -> tuple[float, float]:
    """Images a second of both, on the same images in turn, so that other load slows both alike."""
    seconds = [0.0, 0.0]
    for network in (before, after):
        network.predict(pixels[:32])  # a first run costs more
    for at in range(0, len(pixels), 32):
        for which, network in enumerate((before, after)):
            began = time.perf_counter()
            network.predict(pixels[at : at + 32])
            seconds[which] += time.perf_counter() - began
    return len(pixels) / seconds[0], len(pixels) / seconds[1]


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
        "--most-lost",
        metavar="SHARE",
        type=share,
        default=0.01,
        help="with labels: the most accuracy that int8 may lose (0.01)",
    )
    parser.add_argument(
        "--least-agreement",
        metavar="SHARE",
        type=share,
        default=0.95,
        help="without labels: the least agreement with fp32 (0.95)",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=minutes,
        default=10.0,
        help="the longest search for the operations that must stay in float; 0: none (10)",
    )
    parser.add_argument(
        "--any-processor",
        action="store_true",
        help="make it for CPUs without VNNI too: weights of 7 bits (so by default on such a CPU)",
    )
    return parser.parse_args(arguments)


def _install_command() -> str:
    """The command that installs the packages into this environment, whichever `pip` is on the path."""
    python, requirements = Path(sys.executable), PROJECT / "model_server" / "requirements-quantise.txt"
    return shlex.join([_relative(python), "-m", "pip", "install", "-r", _relative(requirements)])


def _relative(path: Path) -> str:
    """The path relative to the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
