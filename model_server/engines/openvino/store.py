"""The converted networks on disk: a folder each, named by the hash of all that went into it.

Owns the names, the atomic writing and what is thrown away. An entry is complete or is not there: it is
written beside its place, synced, and renamed. Any number of processes may share the folder. Knows no runtime.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from broker.errors import ModelUnavailable
from model_server.catalogue.folder_watch import every_file
from model_server.catalogue.model_spec import Darknet, KerasApplication, KerasFile, ModelSpec
from model_server.engines.check.agreement import Reference

_FORMAT: Final = 1
"""Raised when conversion itself changes, so that no older entry is taken for one of today's."""

_KEPT: Final = 4
"""Entries of a model that are kept, newest use first: each precision, and what an update replaced."""

_NETWORK: Final = "network.xml"
_REFERENCE: Final = "reference.npz"
_MANIFEST: Final = "manifest.json"
INT8: Final = "int8"

_WORDS: Final = (".toml", ".csv", ".txt", ".names", ".md")
"""Suffixes of files directly in a model's folder that hold no part of a network."""


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A converted network, and what it is checked against each time that it is loaded."""

    folder: Path

    @property
    def network(self) -> Path:
        """OpenVINO's file of the graph; that of the weights is beside it."""
        return self.folder / _NETWORK

    def reference(self) -> Reference:
        """The pictures and the outputs that are right for them."""
        with np.load(self.folder / _REFERENCE, allow_pickle=False) as arrays:
            outputs = tuple(arrays[f"output_{number}"] for number in range(len(arrays.files) - 1))
            return Reference(arrays["pictures"], outputs)

    def manifest(self) -> dict[str, Any]:
        """What it was made of, and how good it was found."""
        told: dict[str, Any] = json.loads((self.folder / _MANIFEST).read_text("utf-8"))
        return told


def write_reference(folder: Path, reference: Reference) -> None:
    """Put the reference into an entry's folder."""
    outputs: dict[str, Any] = {f"output_{number}": output for number, output in enumerate(reference.outputs)}
    np.savez_compressed(folder / _REFERENCE, pictures=reference.pictures, **outputs)


class Store:
    """The folder of CACHE_DIR."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, model: str, ingredients: dict[str, object]) -> StoreEntry | None:
        """The complete entry that was made of just these ingredients."""
        entry = StoreEntry(self._path(model, ingredients))
        try:
            manifest = entry.manifest()
            sizes = {path.name: path.stat().st_size for path in entry.folder.iterdir()}
        except (OSError, ValueError):
            return None
        if manifest.get("bytes") != {name: size for name, size in sizes.items() if name != _MANIFEST}:
            return None  # cut short by a disk or by a hand
        with suppress(OSError):  # a folder that can only be read serves as well
            os.utime(entry.folder)
        return entry

    def find_or_make(
        self, model: str, ingredients: dict[str, object], make: Callable[[Path], dict[str, object]]
    ) -> StoreEntry:
        """The entry of these ingredients; where there is none, `make` writes its files into an empty folder.

        What `make` returns goes into the manifest; what it raises leaves no trace. Processes that want the
        same entry at once wait for the first. Raises ModelUnavailable if the folder can't be written.
        """
        found = self.find(model, ingredients)
        if found is not None:
            return found
        with self._locked(model, ingredients):
            return self.find(model, ingredients) or self.replace(model, ingredients, make)

    def replace(
        self, model: str, ingredients: dict[str, object], make: Callable[[Path], dict[str, object]]
    ) -> StoreEntry:
        """Make the entry anew, whether or not there is one."""
        path = self._path(model, ingredients)
        with self._writing(model) as folder:
            told = make(folder)
            sizes = {each.name: each.stat().st_size for each in folder.iterdir()}
            manifest = {"model": model, "ingredients": ingredients, "bytes": sizes, **told}
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            for each in folder.iterdir():
                sync(each)
            if path.exists():  # broken, or made better: who has it open keeps what he has
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
                f"{model}: the converted network can't be kept in CACHE_DIR ({error}). Name a folder that "
                "can be written, or use ENGINE=tensorflow."
            ) from error
        try:
            folder.chmod(0o755)  # mkdtemp's own would shut out another user's model server
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self, model: str, ingredients: dict[str, object]) -> Iterator[None]:
        path = self._path(model, ingredients)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / f".{path.name}.lock").open("w")
        except OSError:  # `_writing` will say so
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prune(self, model: str) -> None:
        """Drop all but the latest used. Never an int8 one: it can't be made again without its pictures."""
        paths = [each for each in self._folder.glob(f"{model}-*") if _is_of(each, model)]
        with suppress(OSError):
            paths.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        for path in paths[_KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
            (self._folder / f".{path.name}.lock").unlink(missing_ok=True)


def network_ingredients(spec: ModelSpec) -> dict[str, object]:
    """All of a model's folder and its weights that reaches the graph, as JSON can hold it.

    What a model.toml leaves out is left out here too: a field that is new must not cost an int8 network that
    only the user's pictures can make again.
    """
    at_weights = spec.is_imported or _weights_file(spec) is not None
    given = asdict(spec.input)
    optional = {"order": spec.order, "activation": spec.activation}
    unset = {"resize": 0, "order": "rgb", "activation": "none"}
    return {
        "source": type(spec.source).__name__ if at_weights else repr(spec.source),
        "weights": _weights_digest(spec),
        "input": {key: value for key, value in given.items() if key not in unset or value != unset[key]},
        "normalise": msgspec.to_builtins(spec.normalise),
        "classes": len(spec.labels),
        **{key: value for key, value in optional.items() if value != unset[key]},
        **({"outputs": spec.detection.outputs} if spec.detection is not None else {}),
    }


def _weights_file(spec: ModelSpec) -> Path | None:
    """The file that holds a Keras network's weights, if the model names one."""
    match spec.source:
        case KerasApplication(weights=weights):
            return None if weights in ("imagenet", "random") else Path(weights)
        case KerasFile(file=file):
            return spec.folder / file
    return None


def _weights_digest(spec: ModelSpec) -> str:
    """The content's hash, or a name that one version of Keras gives one meaning.

    Keras checks the hash of what it downloads for `imagenet`, and sources.py fixes the seed of `random`:
    random weights are the same in every process, so what is converted from them is kept like any other.
    An imported network may lie in several files, of which only its format knows all: every file of the
    folder counts, but for model.toml, labels and notes.
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
        return "none"  # building the network will say why it can't be had


def _is_of(path: Path, model: str) -> bool:
    name = path.name.removeprefix(f"{model}-")
    return path.is_dir() and len(name) == 16 and "-" not in name


def sync(path: Path) -> None:
    """Make a file or a folder survive a power cut: a rename may otherwise come before the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
