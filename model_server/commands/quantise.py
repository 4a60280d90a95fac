"""`python -m model_server quantise MODEL --pictures FOLDER`: an int8 network, and what it costs in accuracy.

Owns the command line, its words and its exit status, and NNCF's only use. A process of its own, never one
that serves: it loads NNCF and decodes pictures. What it writes, PRECISION=int8 serves.
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
"""Held-out pictures: they tell an agreement of 0.99 from one of 0.98."""

_EPILOG: Final = """\
The folder may have one folder for each class, named by its label or id: then the accuracy before and after is
told, else how often the best class stays the same. Nothing of the pictures is kept.
exit status: 0 written; 1 refused, for it agrees too seldom; 2 nothing could be tried.
It reads the settings of the service: give it the same MODELS_DIR, CACHE_DIR, RESNET50_WEIGHTS and so on.
"""


class TooFewAgree(Exception):
    """The int8 network's best class differs too often; the message has the number."""


@dataclass(frozen=True, slots=True)
class QuantiseReport:
    """What int8 costs and gives, on the held-out pictures."""

    pictures: int
    agreement: float
    """Share whose best class is fp32's."""
    accuracy: tuple[float, float] | None
    """Of fp32 and of int8, where the pictures have labels."""
    per_s: tuple[float, float]
    """Images a second of fp32 and of int8, in batches of 32, as they ran here and now."""

    def lines(self) -> list[str]:
        """A small table."""
        told = [f"on {self.pictures} pictures held out      fp32     int8"]
        if self.accuracy is not None:
            told.append(f"accuracy                    {self.accuracy[0]:8.4f} {self.accuracy[1]:8.4f}")
        told.append(f"same best class as fp32              {self.agreement:8.4f}")
        told.append(f"images a second             {self.per_s[0]:8.1f} {self.per_s[1]:8.1f}")
        return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = _options(arguments)
    try:
        settings = Settings.from_env()
        spec = read_spec(Path(settings.models_dir), options.model, weights(settings))
        shown = picture_folder.read(
            options.pictures,
            spec,
            max_pixels=settings.max_pixels,
            at_most=options.calibrate + _HELD_OUT_AT_MOST,
        )
        calibration, held_out = picture_folder.divide(shown, options.calibrate)
        kind = "with labels" if shown.labels is not None else "without labels"
        print_line(f"{spec.name}: {len(shown)} pictures {kind}; {len(calibration)} of them calibrate.")
        entry, report = quantise(
            spec, Store(Path(settings.cache_dir)), calibration, held_out, least=options.least_agreement
        )
    except (SettingError, CatalogueError, PictureFolderError) as error:
        return complain(f"{error}.", IMPOSSIBLE)
    except ModelUnavailable as error:
        return complain(error.message, IMPOSSIBLE)
    except ModuleNotFoundError as error:
        return complain(
            f"The Python package {error.name!r} is not installed. Install what this command takes beside the "
            f"service: {_install_command()}",
            IMPOSSIBLE,
        )
    except TooFewAgree as error:
        return complain(str(error), REFUSED)
    for line in report.lines():
        print_line(line)
    print_line(f"Written to {entry.folder}. PRECISION=int8 serves it.")
    return DONE


def quantise(
    spec: ModelSpec, kept: Store, calibration: FolderPictures, held_out: FolderPictures, *, least: float
) -> tuple[StoreEntry, QuantiseReport]:
    """Post-training quantisation by NNCF; the result replaces an older int8 network of the model.

    Raises ModelUnavailable, TooFewAgree (nothing is written then) and ModuleNotFoundError (NNCF).
    """
    if spec.is_imported and is_quantised(spec):
        raise ModelUnavailable(f"{spec.name}: {spec.weights} is quantised; PRECISION=auto runs it in int8.")
    if spec.detection is not None:
        # Pictures in folders tell what is on them, not where: nobody would know what it costs.
        raise ModelUnavailable(f"{spec.name}: a detector can't be quantised here, only a classifier.")
    full = converted(spec, "full", kept)
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
                "was written. Where it is a little less, more pictures may help; a network that falls to "
                "guessing can't be quantised so. --least-agreement takes it as it is."
            )
        reports.append(report)
        drawn = drawn_pictures.draw(spec.input)
        store.write_reference(folder, Reference(drawn, after.predict(drawn)))
        told = {"agreement": report.agreement, "accuracy": report.accuracy}
        return {**told, "calibrated_on": len(calibration), FITS_16_BITS: True}

    entry = kept.replace(spec.name, int8_ingredients(spec), make)
    return entry, reports[0]


def _write_int8(full: StoreEntry, int8: StoreEntry, calibration: FolderPictures) -> None:
    # NNCF imports openvino: runtime.py, imported above, has blocked the telemetry of both.
    import nncf  # noqa: PLC0415 - not part of the default install

    graph = runtime.core().read_model(full.network)
    samples = nncf.Dataset([picture[None] for picture in calibration.pixels])
    # Weights in 7 bits: the sum of two products then fits 16 bits, and CPUs without VNNI have no more for it.
    # NNCF's default does that for the first layer alone. What serves may be another CPU than this.
    narrow = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    quantised = nncf.quantize(graph, samples, subset_size=len(calibration), advanced_parameters=narrow)
    runtime.save_model(quantised, int8.network, compress_to_fp16=True)


def _judge(before: CompiledNetwork, after: CompiledNetwork, held_out: FolderPictures) -> QuantiseReport:
    """Run both on the same pictures, in turn, so that what else the machine does costs both alike."""
    found: tuple[list[int], list[int]] = ([], [])
    seconds = [0.0, 0.0]
    for network in (before, after):
        network.predict(held_out.pixels[:32])  # a first run costs more
    for at in range(0, len(held_out), 32):
        batch = held_out.pixels[at : at + 32]
        for which, network in enumerate((before, after)):
            began = time.perf_counter()
            outputs = network.predict(batch)
            seconds[which] += time.perf_counter() - began
            found[which].extend(outputs[0].argmax(axis=1).tolist())
    best = [np.array(each) for each in found]
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
        description="Make an int8 network of a model, calibrated on your pictures, and tell what it costs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a folder of MODELS_DIR")
    parser.add_argument(
        "--pictures", metavar="FOLDER", type=Path, required=True, help="pictures like those to come"
    )
    parser.add_argument(
        "--calibrate", metavar="N", type=count, default=300, help="pictures to calibrate with (300)"
    )
    parser.add_argument(
        "--least-agreement", metavar="SHARE", type=share, default=0.95, help="refuse below this (0.95)"
    )
    return parser.parse_args(arguments)


def _install_command() -> str:
    """The command that installs it into the environment that runs this, whatever `pip` on the path is."""
    python, needed = Path(sys.executable), PROJECT / "model_server" / "requirements-quantise.txt"
    return shlex.join([_shown(python), "-m", "pip", "install", "-r", _shown(needed)])


def _shown(path: Path) -> str:
    """From here, if it is below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
