"""From a Keras network, or one that OpenVINO can read, to OpenVINO's files, once, in a process of its own.

Owns the conversion and the process: TensorFlow and Keras take 1.2 GB and seconds to load, and what serves
should never hold them. What OpenVINO reads needs neither (importing.py does it), but then its weights are in
memory several times over. Its command line is only for `converted`. Reads no settings.
"""

import json
import logging
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue.model_spec import KerasApplication, ModelSpec, read_model
from model_server.engines.check import agreement
from model_server.engines.keras.quiet_tensorflow import quiet
from model_server.engines.openvino import runtime
from model_server.engines.openvino.store import Store, StoreEntry, network_ingredients, write_reference

_LOG = logging.getLogger(__name__)

_ROOT: Final = Path(__file__).resolve().parents[3]

_NOT_HAD: Final = 3
"""Exit status when the network could not be had; the reason is the last line on stdout."""

Width = Literal["full", "half", "int8"]
"""What a network is converted for: float32; 16 bits, with weights as float16 (half the file and 150 MB less
in memory, ResNet50: 274 MB resident against 424, at the same agreement: 0.0021 against 0.0023); or, if its
file is quantised, the file's integers, in which its reference is computed too."""


def width_of(precision: str) -> Width:
    """The width that serves a precision."""
    widths: dict[str, Width] = {"fp32": "full", "int8": "int8"}
    return widths.get(precision, "half")


def converted(spec: ModelSpec, width: Width, store: Store) -> StoreEntry:
    """The network of `spec` from the store, or converted into it. Raises ModelUnavailable with the reason."""
    packages = () if spec.is_imported else ("keras", "tensorflow", "tensorflow-cpu")
    kept = network_ingredients(spec)
    ingredients = kept | {"width": width, "versions": _versions(packages), "rules": agreement.RULES}

    def make(folder: Path) -> dict[str, object]:
        how = "imported: once, for some seconds"
        how = how if spec.is_imported else "converted for OpenVINO: once, for about fifteen seconds"
        _LOG.info("%s is %s", spec.name, how)
        _run_child(spec, width, folder)
        if network_ingredients(spec) != kept:
            # What the child read may not be what this entry is named by: it would be served for ever.
            raise ModelUnavailable(f"{spec.name}: its files changed while it was converted.")
        return {}

    return store.find_or_make(spec.name, ingredients, make)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of what decides the graph; read from their metadata, without loading them."""
    found = {"openvino": runtime.VERSION}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
    if done.returncode == _NOT_HAD:
        raise ModelUnavailable(str(json.loads(done.stdout.splitlines()[-1])))
    raise ModelUnavailable(
        f"{spec.name}: the network can't be converted for OpenVINO (exit status {done.returncode}; the log "
        f"has more).{'' if spec.is_imported else ' ENGINE=tensorflow runs it as it is.'}"
    )


def main(arguments: list[str]) -> int:
    """Convert: MODELS_DIR NAME WEIGHTS WIDTH FOLDER. Returns the exit status."""
    models_dir, name, weights, width, folder = arguments
    spec = read_model(Path(models_dir), name, weights=weights or None)
    try:
        if spec.is_imported:
            from model_server.engines.openvino import importing  # noqa: PLC0415 - it imports openvino.py, and that this

            importing.write(spec, Path(folder), half=width == "half", in_int8=width == "int8")
        else:
            _convert(spec, Path(folder), half=width == "half")
    except ModelUnavailable as error:
        sys.stdout.write(f"{json.dumps(error.message)}\n")
        return _NOT_HAD
    return 0


def _convert(spec: ModelSpec, folder: Path, *, half: bool) -> None:
    """Freeze, read by OpenVINO's TensorFlow front end, save, with the reference of plain Keras."""
    try:
        # TensorFlow first: it names Keras' backend.
        with quiet():
            from model_server.engines.keras import tensorflow  # noqa: PLC0415 - only this process pays for it
        from model_server.engines.keras.network import KerasNetwork  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"{spec.name}: to convert it for OpenVINO once, the Python package {error.name!r} must be "
            "installed."
        ) from error
    network = KerasNetwork(spec)
    write_reference(folder, network.reference())
    frozen = folder / "frozen.pb"
    frozen.write_bytes(tensorflow.frozen(network, spec).graph.as_graph_def().SerializeToString())
    try:
        # Not openvino.convert_model: it wraps this same front end in a command line's worth of checks.
        graph = runtime.core().read_model(frozen)
        runtime.save_model(graph, StoreEntry(folder).network, compress_to_fp16=half)
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't take this network ({first_line(error)}). ENGINE=tensorflow runs it."
        ) from error
    finally:
        frozen.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
