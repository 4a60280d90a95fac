"""`check --golden`: a model against the outputs that its author's own code gave for the same pictures.

Owns reading those outputs, the comparison, and the search for what is preprocessed otherwise. Runs in the
process of `check`, never in one that serves.
"""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError, ModelUnavailable
from broker.messages import KERNELS, MOST_SIDE, Decode, Fit, InputSpec, Library
from model_server.catalogue.model_spec import KerasApplication, ModelSpec, Normalise, read_model
from model_server.catalogue.model_toml import Order
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import Engine, EngineOptions
from pictures import fit, fixed_point

WITHIN: Final = 1e-3
"""The largest difference of outputs that are called the same; fp32 engines differ by 1e-5 or less."""

EXPECTED: Final = "outputs.csv"
"""In a folder of pictures: a line for each, its file name and then its outputs."""

_TRIED: Final = 6
"""Pictures on which other preprocessing is tried: those that differ most."""

_NEARER: Final = 0.5
"""A field is named if its other value brings the mean difference below this share."""

_NORMALISE: Final = ("none", "unit", "tf", "torch", "caffe")
_RESIZED: Final = (224, 256, 232, 235, 248, 255)
"""Short sides before a crop of 224 that torchvision and timm publish, and the crop's own; others are in
proportion, rounded or, as timm does, rounded down."""

_USUAL_RESIZED: Final = 256
"""The short side that is resized to whatever is cut from it."""

_TABLE: Final = re.compile(r"\s*\[\s*([\w.]+)\s*\]")


class GoldenError(ValueError):
    """The golden outputs can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Pictures as files, and what each must give: `outputs` is float32 (N, K)."""

    names: list[str]
    files: list[bytes]
    outputs: NDArray[np.float32]

    def part(self, rows: NDArray[np.intp]) -> "Golden":
        """The pictures of these rows."""
        return Golden([self.names[at] for at in rows], [self.files[at] for at in rows], self.outputs[rows])


@dataclass(frozen=True, slots=True)
class GoldenComparison:
    """How far each picture's outputs are from the expected ones, and the best class of both."""

    found: NDArray[np.float32]
    expected: NDArray[np.float32]

    @property
    def differences(self) -> NDArray[np.float32]:
        """The largest of each picture's outputs, (N,)."""
        return np.asarray(np.abs(self.found - self.expected).max(axis=1), np.float32)

    def part(self, rows: NDArray[np.intp]) -> "GoldenComparison":
        """The pictures of these rows."""
        return GoldenComparison(self.found[rows], self.expected[rows])

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return float(self.differences.max())

    @property
    def mean(self) -> float:
        """The mean difference of all outputs."""
        return float(np.abs(self.found - self.expected).mean())

    @property
    def agreement(self) -> float:
        """The share of the pictures whose best class is the expected one."""
        return float(np.mean(self.found.argmax(axis=1) == self.expected.argmax(axis=1)))

    def lines(self, golden: Golden, within: float) -> Iterator[str]:
        """The result, and the pictures that differ most."""
        yield (
            f"golden      {len(golden.files)} pictures: the same best class in {self.agreement:.3f} of them, "
            f"largest difference {self.largest:.7f}"
        )
        differences = self.differences
        for at in np.argsort(-differences)[:5]:
            if differences[at] > within:
                classes = ", ".join(
                    f"{said} class {row[at].argmax()} ({row[at].max():.4f})"
                    for said, row in (("expected", self.expected), ("found", self.found))
                )
                yield f"  {differences[at]:8.4f}  {golden.names[at]}: {classes}"


def read(place: Path) -> Golden:
    """Read an .npz, or a folder of pictures with `outputs.csv`. Raises GoldenError or OSError.

    The .npz has `outputs` (N, K) and, from 0, the bytes of each file as `picture<n>`; `names` may name them.
    Nothing in it is unpickled.
    """
    golden = _of_folder(place) if place.is_dir() else _of_archive(place)
    if not golden.files:
        raise GoldenError(f"{place} has no pictures.")
    if not np.isfinite(golden.outputs).all():
        raise GoldenError(f"{place} has outputs that are not finite.")
    return golden


def _of_archive(place: Path) -> Golden:
    try:
        with np.load(place, allow_pickle=False) as archive:
            outputs = np.asarray(archive["outputs"], np.float32)
            keys = [f"picture{number}" for number in range(len(outputs))]
            names = [str(name) for name in archive["names"]] if "names" in archive else keys
            files = [np.asarray(archive[key], np.uint8).tobytes() for key in keys]
    except KeyError as error:
        raise GoldenError(
            f"{place}: {error.args[0]} It needs `outputs`, and the files' bytes as picture0, picture1, ..."
        ) from None
    except (ValueError, TypeError) as error:
        raise GoldenError(f"{place} can't be read as an .npz of numbers ({error}).") from None
    if len(names) != len(files):
        raise GoldenError(f"{place} has {len(names)} names for {len(files)} pictures.")
    return Golden(names, files, outputs.reshape(len(outputs), -1) if len(outputs) else outputs)


def _of_folder(place: Path) -> Golden:
    try:
        with (place / EXPECTED).open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
        outputs = [[float(number) for number in row[1:]] for row in rows]
    except FileNotFoundError:
        raise GoldenError(f"{place} has no {EXPECTED}: a line a picture, file name then outputs.") from None
    except ValueError as error:
        raise GoldenError(
            f"{place / EXPECTED} is not a line a picture, file name then outputs ({error})."
        ) from None
    if len({len(row) for row in outputs}) > 1:
        raise GoldenError(f"{place / EXPECTED} has lines with different numbers of outputs.")
    names = [row[0] for row in rows]
    return Golden(names, [(place / name).read_bytes() for name in names], np.array(outputs, np.float32))


class Trial:
    """Runs a model and variants of it on golden pictures.

    `cache` has the model's own converted network, as for serving; `scratch` takes those of variants.
    """

    def __init__(
        self, spec: ModelSpec, choice: EngineChoice, *, cache: Path, scratch: Path, max_pixels: int
    ) -> None:
        self._spec = spec
        self._choice = choice
        self._cache = cache
        self._scratch = scratch
        self._max_pixels = max_pixels
        self._engines: dict[tuple[Normalise, Order, bool], Engine | None] = {}
        self._pixels: dict[tuple[str, str], NDArray[np.uint8]] = {}

    def compare(self, spec: ModelSpec, golden: Golden) -> GoldenComparison:
        """Run every picture. Raises ModelUnavailable or GoldenError."""
        network = self._network(spec)
        if network is None:
            raise ModelUnavailable(f"{spec.name} can't be loaded so.")
        pictures = zip(golden.names, golden.files, strict=True)
        found = np.stack([network(self._prepared(*each, spec.input)).reshape(-1) for each in pictures])
        if found.shape != golden.outputs.shape:
            raise GoldenError(
                f"The golden outputs have {golden.outputs.shape[1]} numbers a picture, and the network gives "
                f"{found.shape[1]}."
            )
        return GoldenComparison(found, golden.outputs)

    def _prepared(self, name: str, file: bytes, spec: InputSpec) -> NDArray[np.uint8]:
        key = (name, spec.tag)
        if key not in self._pixels:
            try:
                self._pixels[key] = fit.prepare(file, spec, max_pixels=self._max_pixels).pixels
            except ClientError as error:
                raise GoldenError(f"{name}: {error.message}") from None
        return self._pixels[key]

    def _network(self, spec: ModelSpec) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None:
        """The first output for a picture, normalised and ordered so; None where that does not go with it.

        Raises ModelUnavailable for the model's own. All others are converted for pictures with fractions, as
        which whole pixels can be written too: one conversion serves each normalisation and order.
        """
        own = (self._spec.normalise, self._spec.order, self._spec.input.keeps_fractions)
        key = (spec.normalise, spec.order, spec.input.keeps_fractions)
        if key != own:
            key = (spec.normalise, spec.order, spec.input.fit is not Fit.INK)
        engine = self._engine(spec, key, own)
        if engine is None:
            return None
        is_split = key[2] and not spec.input.keeps_fractions

        def run(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
            return engine.predict((fixed_point.split(picture) if is_split else picture)[None])[0]

        return run

    def _engine(
        self, spec: ModelSpec, key: tuple[Normalise, Order, bool], own: tuple[Normalise, Order, bool]
    ) -> Engine | None:
        if key not in self._engines:
            try:
                if key == own:
                    self._engines[key] = loading.load(spec, self._choice, EngineOptions(1, self._cache))
                else:
                    options = EngineOptions(1, self._scratch / "cache")
                    self._engines[key] = loading.load(_copy(spec, self._scratch), self._choice, options)
            except ModelUnavailable:
                if key == own:
                    raise
                self._engines[key] = None
        return self._engines[key]


def explain(
    trial: Trial, spec: ModelSpec, golden: Golden, worst: GoldenComparison, within: float
) -> Iterator[str]:
    """Lines of model.toml with which the outputs come nearest, on average over a few pictures.

    Normalisation, channel order and resampling are tried together, since one that is wrong hides the others;
    then the fit, and with another fit all of it again.
    """
    rows = np.argsort(-worst.differences)[:_TRIED]
    few, nearest, best = golden.part(rows), worst.part(rows), spec
    for _ in range(2):
        together = (sampled for coloured in _colours(best) for sampled in _samplings(coloured))
        for variants in (together, _fits(best)):
            comparison, variant = _nearest(trial, variants, few, spec)
            if comparison is not None and comparison.mean < _NEARER * nearest.mean:
                nearest, best = comparison, variant
            if nearest.largest <= within:
                break
        if nearest.largest <= within or best.input.fit == spec.input.fit:
            break
    changes = _changes(spec, best)
    if not changes:
        yield (
            f"Nothing that was tried comes much nearer ({_tried(spec)}): is it the same network, and "
            "does its own code prepare pictures in one of these ways?"
        )
        return
    yield f"With this in model.toml the largest difference is {nearest.largest:.7f}."
    yield from (f"  {change}" for change in changes)
    if nearest.largest > within:
        yield f"Something else differs as well; nothing else that was tried comes nearer ({_tried(spec)})."


def _tried(spec: ModelSpec) -> str:
    """What `explain` tries, in the words of model.toml."""
    if spec.input.fit is Fit.INK:
        return "each normalise and order by name"
    sides = ", ".join(map(str, _resized(max(spec.input.width, spec.input.height))))
    return f"each normalise by name, order, resample, library, decode and fit; resize = {sides}"


def _nearest(
    trial: Trial, variants: Iterator[ModelSpec], golden: Golden, spec: ModelSpec
) -> tuple[GoldenComparison | None, ModelSpec]:
    """The variant that comes nearest; of several, the one with the fewest changes to `spec`."""
    found: tuple[GoldenComparison | None, ModelSpec] = (None, spec)
    least = (np.inf, 0)
    for variant in variants:
        try:
            comparison = trial.compare(variant, golden)
        except (ModelUnavailable, GoldenError):
            continue
        rank = (round(comparison.mean, 7), len(_changes(spec, variant)))
        if rank < least:
            found, least = (comparison, variant), rank
    return found


def _changes(before: ModelSpec, after: ModelSpec) -> list[str]:
    """The lines of model.toml in which they differ."""
    lines = [
        f'{name} = "{getattr(after.input, name)}"'
        for name in ("fit", "resample", "library", "decode")
        if getattr(after.input, name) != getattr(before.input, name)
    ]
    if after.input.resize != before.input.resize:
        lines.append(f"resize = {after.input.resize}" if after.input.resize else "no resize")
    lines += [
        f'{name} = "{getattr(after, name)}"'
        for name in ("normalise", "order")
        if getattr(after, name) != getattr(before, name)
    ]
    return lines


def _colours(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Every normalisation and order of the channels."""
    names = _NORMALISE if spec.input.channels == 3 else _NORMALISE[:3]
    for normalise in dict.fromkeys((spec.normalise, *names)):
        if normalise == "caffe":  # makes BGR itself
            yield replace(spec, normalise=normalise, order="rgb")
            continue
        yield replace(spec, normalise=normalise)
        if spec.input.channels == 3:
            yield replace(spec, normalise=normalise, order="rgb" if spec.order == "bgr" else "bgr")


def _samplings(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Every kernel of every library, decoding fast and exactly."""
    yield spec
    if spec.input.fit is Fit.INK:
        return
    for library in Library:
        for kernel in sorted(KERNELS[library]):
            for decode in Decode:
                input_ = replace(spec.input, library=library, resample=kernel, decode=decode)
                if input_ != spec.input:
                    yield replace(spec, input=input_)


def _fits(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Every fit, and crops after the usual resizes."""
    if spec.input.fit is Fit.INK:
        return
    side = max(spec.input.width, spec.input.height)
    for fit_, resize in [
        *((each, 0) for each in (Fit.STRETCH, Fit.CROP, Fit.PAD)),
        *((Fit.CROP, each) for each in _resized(side)),
    ]:
        if (fit_, resize) != (spec.input.fit, spec.input.resize):
            yield replace(spec, input=replace(spec.input, fit=fit_, resize=resize))


def _resized(side: int) -> list[int]:
    """The short sides that are tried before a crop of this side."""
    scaled = (each * side / 224 for each in _RESIZED)
    tried = {_USUAL_RESIZED, *(whole for each in scaled for whole in (int(each), round(each)))}
    return sorted(each for each in tried if side <= each <= MOST_SIDE)


def _copy(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The model in a folder of its own with the normalisation and order of `spec`, and fractions of pixels.

    An engine may read model.toml again, in the process that converts the network.
    """
    name = f"{spec.normalise}-{spec.order}" if isinstance(spec.normalise, str) else f"own-{spec.order}"
    place = folder / name / spec.name
    shutil.copytree(
        spec.folder, place, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("model.toml", ".*")
    )
    text = (spec.folder / "model.toml").read_text("utf-8-sig")
    if isinstance(spec.normalise, str):
        text = _set(text, "normalise", spec.normalise)
    for key, value in (("order", spec.order), ("library", Library.TENSORFLOW), ("resample", "bilinear")):
        text = _set(text, key, value)
    (place / "model.toml").write_text(text, "utf-8")
    weights = spec.source.weights if isinstance(spec.source, KerasApplication) else None
    return read_model(place.parent, spec.name, weights=weights)


def _link_or_copy(file: str, to: str) -> None:
    try:
        os.link(os.path.realpath(file), to)  # a network may have a gigabyte
    except OSError:  # another file system
        shutil.copy2(file, to)


def _set(text: str, key: str, value: str) -> str:
    """Write a key of [input], in place of what is written for it there or as a table of its own."""
    lines, table = [], ""
    for line in text.splitlines():
        if header := _TABLE.match(line):
            table = header[1]
        if table != f"input.{key}" and not (table == "input" and re.match(rf"\s*{key}\s*=", line)):
            lines.append(line)
        if header and table == "input":
            lines.append(f'{key} = "{value}"')
    return "\n".join(lines) + "\n"
