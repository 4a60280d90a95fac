"""The converted networks on disk: a folder for each, named by the hash of its ingredients.

Owns the names, the atomic writing and the pruning. An entry is complete or absent: it is written beside its
place, synced and renamed. Any number of processes may share the folder. Knows no runtime.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.folder_watch import every_file
from model_server.catalogue.model_spec import Darknet, KerasApplication, KerasFile, ModelSpec
from model_server.catalogue.model_toml import TorchNetwork
from model_server.engines.check.agreement import Reference
from model_server.engines.engine import OutputNames

_FORMAT: Final = 1
"""Increased when conversion itself changes, so that older entries are not used."""

_MOST_ENTRIES: Final = 4
"""The most entries of a model that are kept, latest use first: each precision, and those before an update."""

_NAMES: Final = ("served", "available")
"""Fields of OutputNames, in a reference's file."""

_NETWORK: Final = "network.xml"
_REFERENCE: Final = "reference.npz"
_MANIFEST: Final = "manifest.json"
_REFUSAL: Final = "refusal.txt"
INT8: Final = "int8"

_WORDS: Final = (".toml", ".csv", ".txt", ".names", ".md", ".py")
"""Suffixes of files directly in a model's folder that hold no part of a network. Of a hooks.py what it
prepares is an ingredient of its own."""


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A converted network, with the reference that it is checked against whenever it is loaded."""

    folder: Path

    @property
    def network(self) -> Path:
        """OpenVINO's graph file; the weights file is beside it."""
        return self.folder / _NETWORK

    def reference(self) -> Reference:
        """The images and the correct outputs for them."""
        with np.load(self.folder / _REFERENCE, allow_pickle=False) as arrays:
            numbers = sum(key.startswith("output_") for key in arrays.files)
            outputs = tuple(arrays[f"output_{number}"] for number in range(numbers))
            # An int8 network may be older than the names.
            names = [tuple(map(str, arrays[key])) if key in arrays.files else () for key in _NAMES]
            own = str(arrays["precision"]) if "precision" in arrays.files else "fp32"
            return Reference(arrays["pictures"], outputs, OutputNames(*names), own)

    def refuse(self, reason: str) -> None:
        """Make it the entry of a network that OpenVINO can't convert."""
        for file in self.folder.iterdir():
            file.unlink()
        (self.folder / _REFUSAL).write_text(reason, "utf-8")

    def refusal(self) -> str:
        """Why OpenVINO can't convert the network; empty if it is here."""
        path = self.folder / _REFUSAL
        return path.read_text("utf-8") if path.is_file() else ""

    def manifest(self) -> dict[str, Any]:
        """The ingredients of the entry, and its measured quality."""
        manifest: dict[str, Any] = json.loads((self.folder / _MANIFEST).read_text("utf-8"))
        return manifest


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the reference into an entry's folder."""
    outputs: dict[str, Any] = {f"output_{number}": output for number, output in enumerate(reference.outputs)}
    texts: dict[str, Any] = {key: np.array(getattr(reference.names, key), np.str_) for key in _NAMES}
    texts["precision"] = np.array(reference.precision)
    # Not compressed: for 21 maps of 320 x 320 that took 3.7 s here and 0.8 s at each start, to save a tenth.
    np.savez(folder / _REFERENCE, pictures=reference.pictures, **texts, **outputs)


class Store:
    """The folder of CACHE_DIR."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, model: str, ingredients: dict[str, object]) -> StoreEntry | None:
        """The complete entry with exactly these ingredients, if there is one."""
        entry = StoreEntry(self._path(model, ingredients))
        try:
            manifest = entry.manifest()
            sizes = {path.name: path.stat().st_size for path in entry.folder.iterdir()}
        except (OSError, ValueError):
            return None
        if manifest.get("bytes") != {name: size for name, size in sizes.items() if name != _MANIFEST}:
            return None  # truncated or changed by hand
        with suppress(OSError):  # a read-only folder will do
            os.utime(entry.folder)
        return entry

    def find_or_make(
        self, model: str, ingredients: dict[str, object], make: Callable[[Path], dict[str, object]]
    ) -> StoreEntry:
        """The entry of these ingredients; if there is none, `make` writes its files into an empty folder.

        The manifest gets what `make` returns; if it raises, nothing is left behind. Processes that need the
        same entry at once wait for the first. Raises ModelUnavailable if the folder can't be written.
        """
        entry = self.find(model, ingredients)
        if entry is not None:
            return entry
        with self._locked(model, ingredients):
            return self.find(model, ingredients) or self.replace(model, ingredients, make)

    def replace(
        self, model: str, ingredients: dict[str, object], make: Callable[[Path], dict[str, object]]
    ) -> StoreEntry:
        """Make the entry, and replace an older one."""
        path = self._path(model, ingredients)
        with self._writing(model) as folder:
            details = make(folder)
            sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
            manifest = {"model": model, "ingredients": ingredients, "bytes": sizes, **details}
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            for file in folder.iterdir():
                sync(file)
            if path.exists():  # broken, or an older network; processes that have it open keep it
                path.rename(folder.with_name(folder.name + ".old"))
            folder.rename(path)
            sync(path.parent)
        shutil.rmtree(folder.with_name(folder.name + ".old"), ignore_errors=True)
        self._prune(model)
        return StoreEntry(path)

    def _path(self, model: str, ingredients: dict[str, object]) -> Path:
        text = json.dumps({"format": _FORMAT, **ingredients}, sort_keys=True)
        kind = f"{INT8}-" if ingredients.get("kind") == INT8 else ""
        return self._folder / f"{model}-{kind}{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @contextmanager
    def _writing(self, model: str) -> Iterator[Path]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{model}-", dir=self._folder))
        except OSError as error:
            raise ModelUnavailable(
                f"{model}: the converted network can't be written to CACHE_DIR ({error}). Set CACHE_DIR to a "
                "writable directory, or use ENGINE=tensorflow."
            ) from error
        try:
            folder.chmod(0o755)  # mkdtemp's own mode would shut out another user's model server
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self, model: str, ingredients: dict[str, object]) -> Iterator[None]:
        path = self._path(model, ingredients)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / f".{path.name}.lock").open("w")
        except OSError:  # `_writing` will report it
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prune(self, model: str) -> None:
        """Delete all but the latest used. Never an int8 one: it can't be made again without its images."""
        paths = [path for path in self._folder.glob(f"{model}-*") if _is_of(path, model)]
        with suppress(OSError):
            paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in paths[_MOST_ENTRIES:]:
            shutil.rmtree(path, ignore_errors=True)
            (self._folder / f".{path.name}.lock").unlink(missing_ok=True)


def network_ingredients(spec: ModelSpec, prepared: NDArray[Any] | None = None) -> dict[str, object]:
    """Everything in a model's folder and its weights that affects the graph, as JSON-compatible values.

    `prepared` is what the model's own code makes of the check's pictures, if it prepares them.

    Fields that a model.toml leaves out are left out here as well: a new field must not cost an int8 network,
    which can't be made again without the user's images.
    """
    at_weights = spec.is_imported or _weights_file(spec) is not None
    input_ = ((of.name, of.default, getattr(spec.input, of.name)) for of in fields(spec.input))
    optional = {
        "task": spec.task.name,
        "outputs": spec.task.outputs(spec),  # [output] name among them
        "order": spec.order,
        "activation": spec.activation,
        "fractions": spec.input.keeps_fractions,
    }
    # `quantise` takes only classifiers: with their task left out, a network that it made keeps its name.
    unset = {
        "task": "classification",
        "outputs": (),
        "order": "rgb",
        "activation": "none",
        "fractions": False,
    }
    # A name in a library says which network the weights are for.
    is_named = isinstance(spec.source, TorchNetwork)
    return {
        "source": type(spec.source).__name__ if at_weights and not is_named else repr(spec.source),
        "weights": _weights_digest(spec),
        "input": {name: value for name, default, value in input_ if default is MISSING or value != default},
        "normalise": msgspec.to_builtins(spec.normalise),
        "classes": len(spec.labels),
        **{key: value for key, value in optional.items() if value != unset[key]},
        **({} if prepared is None else {"prepared": _digest_of(prepared)}),
    }


def _digest_of(array: NDArray[Any]) -> str:
    header = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _weights_file(spec: ModelSpec) -> Path | None:
    """The file that holds a Keras network's weights, if the model names one."""
    match spec.source:
        case KerasApplication(weights=weights):
            return None if weights in ("imagenet", "random") else Path(weights)
        case KerasFile(file=file):
            return spec.folder / file
    return None


def _weights_digest(spec: ModelSpec) -> str:
    """The hash of the weights, or a name whose meaning a version of Keras fixes.

    Keras checks the hash of what it downloads for `imagenet`, and sources.py fixes the seed of `random`, so
    random weights are the same in every process. An imported network may consist of several files that only
    its format knows, so every file of the folder counts, except model.toml, labels and notes.
    """
    if isinstance(spec.source, Darknet):
        return "-".join(_digest(spec.folder / name) for name in (spec.source.cfg, spec.source.weights))
    path = _weights_file(spec)
    if path is None:
        return _folder_digest(spec) if spec.is_imported else spec.weights
    return _digest(path)


def _folder_digest(spec: ModelSpec) -> str:
    digests = {
        path: _digest(file)
        for path, file in sorted(every_file(spec.folder), key=itemgetter(1))
        if file.is_file() and not (file.parent == spec.folder and file.suffix in _WORDS)
    }
    return hashlib.sha256(json.dumps([spec.weights, digests]).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "none"  # building the network will report why


def _is_of(path: Path, model: str) -> bool:
    name = path.name.removeprefix(f"{model}-")
    return path.is_dir() and len(name) == 16 and "-" not in name


def sync(path: Path) -> None:
    """Make a file or a folder survive a power cut: a rename may reach the disk before the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
