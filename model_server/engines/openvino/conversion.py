"""Converts a Keras network, or one that OpenVINO can read, to OpenVINO's files, once, in a child process.

Owns the conversion and the process: TensorFlow and Keras take 1.2 GB and seconds to load, and a serving
process should never hold them. A network that OpenVINO reads needs neither (importing.py imports it), but its
weights are in memory several times over meanwhile; PyTorch is loaded for networks of its own. The command
line is only for `converted`. Reads no settings.
"""

import json
import logging
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue.model_spec import KerasApplication, ModelSpec, read_model
from model_server.engines.check import agreement
from model_server.engines.engine import NotConvertible
from model_server.engines.keras.quiet_tensorflow import quiet
from model_server.engines.openvino import runtime
from model_server.engines.openvino.store import Store, StoreEntry, network_ingredients, write_reference

_LOG = logging.getLogger(__name__)

_ROOT: Final = Path(__file__).resolve().parents[3]

_UNAVAILABLE: Final = 3
"""Exit status when the network could not be built; the reason is the last line on stdout."""

_NOT_CONVERTIBLE: Final = 4
"""Exit status when PyTorch can run the network, but OpenVINO can't; likewise."""

_NOT_THIS_TIME: Final = 5
"""The same when the machine may be why: out of memory, or of disk space."""

_TORCH_PACKAGES: Final = ("torch", "torchvision", "timm")
_PREPARED: Final = "prepared.npy"
"""The check's pictures as the model's own code prepares them, in the child's folder until they are read."""

Width = Literal["full", "half", "int8"]
"""What a network is converted for: float32; 16 bits, with weights as float16 (half the file and 150 MB less
in memory, ResNet50: 274 MB resident against 424, with the same agreement: 0.0021 against 0.0023); or, if its
file is quantised, the file's integers, in which its reference is computed as well."""


def width_of(precision: str) -> Width:
    """The width that serves a precision."""
    widths: dict[str, Width] = {"fp32": "full", "int8": "int8"}
    return widths.get(precision, "half")


def converted(
    spec: ModelSpec, width: Width, store: Store, prepared: NDArray[Any] | None = None
) -> StoreEntry:
    """The network of `spec`, from the store or newly converted.

    Raises ModelUnavailable with the reason; NotConvertible if PyTorch can run it. The store keeps that as
    well if the file itself is why: until a version changes, later starts do not try again. `prepared`: see
    network_ingredients.
    """
    packages: tuple[str, ...] = () if spec.is_imported else ("keras", "tensorflow", "tensorflow-cpu")
    if spec.is_torch:
        packages = _TORCH_PACKAGES
    network = network_ingredients(spec, prepared)
    ingredients = network | {"width": width, "versions": _versions(packages), "rules": agreement.RULES}

    def make(folder: Path) -> dict[str, object]:
        if spec.is_imported:
            _LOG.info("importing %s into OpenVINO (once; takes a few seconds)", spec.name)
        else:
            _LOG.info("converting %s for OpenVINO (once; takes about 15 seconds)", spec.name)
        if prepared is not None:
            np.save(folder / _PREPARED, prepared, allow_pickle=False)
        try:
            _run_child(spec, width, folder)
        except NotConvertible as error:
            if not error.is_lasting:
                raise
            StoreEntry(folder).refuse(error.message)
        if network_ingredients(spec, prepared) != network:
            # The child may have read other files than those that name this entry, which would stay for ever.
            raise ModelUnavailable(f"{spec.name}: its files changed while it was converted.")
        return {}

    entry = store.find_or_make(spec.name, ingredients, make)
    refusal = entry.refusal()
    if refusal:
        raise NotConvertible(refusal)
    return entry


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of the packages that decide the graph, from their metadata, without loading them."""
    versions = {"openvino": runtime.VERSION}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _run_child(spec: ModelSpec, width: Width, folder: Path) -> None:
    weights = ""
    if isinstance(spec.source, KerasApplication):
        path = Path(spec.source.weights)
        weights = str(path.resolve()) if path.is_file() else spec.source.weights
    models_dir = spec.folder.resolve().parent
    command = [
        sys.executable,
        "-m",
        __name__,
        str(models_dir),
        spec.name,
        weights,
        width,
        str(folder.resolve()),
    ]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - ours
    if done.returncode == 0:
        return
    if done.returncode in (_UNAVAILABLE, _NOT_CONVERTIBLE, _NOT_THIS_TIME):
        message = str(json.loads(done.stdout.splitlines()[-1]))
        if done.returncode == _UNAVAILABLE:
            raise ModelUnavailable(message)
        raise NotConvertible(message, is_lasting=done.returncode == _NOT_CONVERTIBLE)
    other = "" if spec.is_imported else " ENGINE=tensorflow runs it without conversion."
    if spec.is_torch:
        other = " ENGINE=torch runs it without conversion."
    raise ModelUnavailable(
        f"{spec.name}: the network can't be converted for OpenVINO (exit status {done.returncode}; the log "
        f"has the details).{other}"
    )


def main(arguments: list[str]) -> int:
    """Convert: MODELS_DIR NAME WEIGHTS WIDTH FOLDER. Returns the exit status."""
    models_dir, name, weights, width, folder = arguments
    spec = read_model(Path(models_dir), name, weights=weights or None)
    prepared = _prepared(Path(folder) / _PREPARED)
    try:
        if spec.is_imported:
            from model_server.engines.openvino import importing  # noqa: PLC0415 - only the child process loads it

            importing.write(
                spec, Path(folder), half=width == "half", in_int8=width == "int8", prepared=prepared
            )
        else:
            _convert(spec, Path(folder), prepared, half=width == "half")
    except ModelUnavailable as error:
        sys.stdout.write(f"{json.dumps(error.message)}\n")
        if not isinstance(error, NotConvertible):
            return _UNAVAILABLE
        return _NOT_CONVERTIBLE if error.is_lasting else _NOT_THIS_TIME
    return 0


def _prepared(file: Path) -> NDArray[Any] | None:
    if not file.is_file():
        return None
    prepared: NDArray[Any] = np.load(file, allow_pickle=False)
    file.unlink()
    return prepared


def _convert(spec: ModelSpec, folder: Path, prepared: NDArray[Any] | None = None, *, half: bool) -> None:
    """Freeze, read with OpenVINO's TensorFlow front end, and save, with plain Keras' outputs as reference."""
    try:
        # TensorFlow first: it names Keras' backend.
        with quiet():
            from model_server.engines.keras import tensorflow  # noqa: PLC0415 - only the child process loads it
        from model_server.engines.keras.network import KerasNetwork  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"{spec.name}: its conversion for OpenVINO, once, needs the Python package {error.name!r}, which "
            "is not installed."
        ) from error
    network = KerasNetwork(spec, prepared)
    write_reference(folder, network.reference())
    frozen = folder / "frozen.pb"
    frozen.write_bytes(tensorflow.frozen(network).graph.as_graph_def().SerializeToString())
    try:
        # Not openvino.convert_model: it wraps this same front end in a command line's worth of checks.
        graph = runtime.core().read_model(frozen)
        runtime.save_model(graph, StoreEntry(folder).network, compress_to_fp16=half)
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't read this network ({first_line(error)}). ENGINE=tensorflow runs it."
        ) from error
    finally:
        frozen.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
