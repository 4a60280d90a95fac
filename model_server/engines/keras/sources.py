"""Where Keras networks come from: keras.applications with its downloads, Keras files and Darknet's files.

Owns the download, and every message about a network that could not be built. It only builds Keras models;
engines/ run them.
"""

import fcntl
import re
import socket
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue import archives, file_kinds
from model_server.catalogue.model_spec import Darknet, KerasApplication, KerasFile, ModelSpec
from model_server.engines.keras import keras2_files, own_preprocessing
from model_server.engines.keras.keras2_files import UnsupportedByKeras3Error

_OWN_CODE: Final = (
    (re.compile(r"deserialization of a `?Lambda|Lambda` layer"), "it has a Lambda layer"),
    (re.compile(r"(?:Could not locate class|Unknown layer:) '(?:\w+>)?([^']+)'"), "Keras has no layer {!r}"),
    (re.compile(r"Could not locate function '([^']+)'"), "Keras has no function {!r}"),
)
"""Keras' errors about a file that needs its author's code, and what they mean."""

_OF_OTHERS: Final = re.compile(r" using config=| Full object config| config=\{|\. Make sure ")
"""Where an error of Keras turns into a dump of the configuration, or into advice about code."""

_EXPORT: Final = (
    'Export it where it loads, model.export("exported"), and serve that folder with kind = "saved_model".'
)
_EARLIER: Final = ' (Before TensorFlow 2.13: tf.saved_model.save(model, "exported").)'

DOWNLOAD_SILENCE_S: Final = 5.0
"""A download fails once its server has been silent for so long: without a network the service must report it
within seconds, and Keras itself would wait for ever."""

_HDF5: Final = b"\x89HDF\r\n\x1a\n"

_RANDOM_SEED: Final = 20180129
"""Fixed, so that all model servers with random weights give the same answers."""

_DRAWING: Final = threading.Lock()
"""Keras draws all initial weights from one generator: models that load at the same time would mix them."""


def build(spec: ModelSpec) -> Any:  # noqa: ANN401 - a keras.Model; Keras ships no types
    """Return the Keras model of `spec`, weights loaded. Raises ModelUnavailable with the reason."""
    match spec.source:
        case KerasApplication() as source:
            return _application(spec, source)
        case KerasFile(file=file) as source:
            return _file(spec, source, spec.folder / file)
        case Darknet() as source:
            return _darknet(spec, source)
    raise ModelUnavailable(f"{spec.name}: its source is not a Keras network: only ENGINE=openvino runs it.")


def _application(spec: ModelSpec, source: KerasApplication) -> Any:  # noqa: ANN401
    import keras  # noqa: PLC0415 - it takes seconds, which only a process that loads a model pays

    constructor = getattr(keras.applications, source.name, None)
    if not callable(constructor):
        raise ModelUnavailable(f"{spec.name}: unknown network {source.name!r}: keras.applications lacks it.")
    own_preprocessing.require_published(spec, source, constructor)
    if source.weights == "random":
        with _DRAWING:
            keras.utils.set_random_seed(_RANDOM_SEED)
            return constructor(weights=None)
    if source.weights == "imagenet":
        return _with_imagenet_weights(spec, constructor)
    if not Path(source.weights).is_file():
        raise ModelUnavailable(
            f"{spec.name}: the weights file {source.weights!r} is missing. {_ways_out(spec)}"
        )
    try:
        return constructor(weights=source.weights)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise ModelUnavailable(
            f"{spec.name}: {source.weights!r} does not have the weights of {source.name}: "
            f"{first_line(error)}. {_ways_out(spec)}"
        ) from error


def _with_imagenet_weights(spec: ModelSpec, constructor: Any) -> Any:  # noqa: ANN401
    with download():
        try:
            return constructor(weights="imagenet")
        except Exception as error:  # keras.utils.get_file raises Exception itself
            raise ModelUnavailable(
                f"{spec.name}: the ImageNet weights could not be downloaded ({first_line(error)}). "
                f"{_ways_out(spec)}"
            ) from error


def _file(spec: ModelSpec, source: KerasFile, path: Path) -> Any:  # noqa: ANN401
    if not path.is_file():
        problem = f"{path.name!r} is a folder" if path.is_dir() else f"its folder has no file {path.name!r}"
        raise ModelUnavailable(f"{spec.name}: {problem}.{file_kinds.hint(path, source, within=spec.folder)}")
    if problem := archives.problem(path):
        raise ModelUnavailable(f"{spec.name}: {path.name} {problem}.")
    try:
        with _DRAWING:
            return _loaded(path)
    except UnsupportedByKeras3Error as error:
        raise ModelUnavailable(
            f"{spec.name}: Keras 3 can't load {path.name}, which Keras 2 wrote: {error}. {_EXPORT}{_EARLIER}"
        ) from error
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        hint = file_kinds.hint(path, source, within=spec.folder)
        raise ModelUnavailable(
            f"{spec.name}: Keras can't load {path.name}: {_cause(path, error, is_known=bool(hint))}."
            f"{hint or _cure(path, error)}"
        ) from error


def _loaded(path: Path) -> Any:  # noqa: ANN401
    """The network of a file of Keras 3, 2 or 1. Its Lambda layers are not run."""
    import keras  # noqa: PLC0415

    if not keras2_files.is_keras2(path):
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = keras2_files.rewritten(path, Path(folder))
        model = keras.saving.load_model(copy, compile=False, safe_mode=True)
        keras2_files.require_order(model, copy)
        return model


def _own_code(error: Exception) -> str:
    """What of its author's code a file needs, as a clause; empty if that is not the error."""
    for pattern, meaning in _OWN_CODE:
        match = pattern.search(str(error))
        if match:
            return meaning.format(*match.groups())
    return ""


def _has_no_network(error: Exception) -> bool:
    return "No model config" in str(error)


def _cause(path: Path, error: Exception, *, is_known: bool) -> str:
    """What is wrong, as a clause; else what Keras says, without the configuration and the calls around it.

    `is_known`: another sentence says what the file is.
    """
    if _has_no_network(error):
        return "it has weights without a network"
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):  # Keras says "File not found"
        with path.open("rb") as file:
            if file.read(len(_HDF5)) == _HDF5:
                return "a .keras file is a zip, but this is HDF5: name it .h5"
        why = "" if is_known else ": it was cut short, or it is a Git LFS pointer"
        return f"a .keras file is a zip, but this is not{why}"
    last = str(error).rpartition("Exception encountered: ")[2]
    return _own_code(error) or _OF_OTHERS.split(first_line(ValueError(last)))[0].rstrip(".")


def _cure(path: Path, error: Exception) -> str:
    """A sentence, after a space, on what to do about a file that Keras refuses; empty if unknown."""
    if _own_code(error):
        return f" Code in a file is not run here. {_EXPORT}{_EARLIER if keras2_files.is_keras2(path) else ''}"
    if _has_no_network(error):
        return ' Save both, with model.save("network.keras").'
    if keras2_files.is_keras2(path):
        return f" Keras 2 wrote it. {_EXPORT}{_EARLIER}"
    return ""


def _darknet(spec: ModelSpec, source: Darknet) -> Any:  # noqa: ANN401
    from model_server.darknet import cfg, keras_model  # noqa: PLC0415 - they load Keras

    paths = (spec.folder / source.cfg, spec.folder / source.weights)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelUnavailable(f"{spec.name}: its folder has no file {missing[0]!r}.")
    if spec.normalise in ("none", "tf", "torch", "caffe"):
        # A table may make 0..1 of another range. A detector's is refused with the line of model.toml.
        raise ModelUnavailable(
            f"{spec.name}: Darknet's networks take 0..1, but normalise in model.toml is "
            f'"{spec.normalise}". Write normalise = "unit" in [input].'
        )
    try:
        return keras_model.build(*paths, spec.input.network_shape[:2])
    except (cfg.DarknetError, OSError) as error:
        raise ModelUnavailable(f"{spec.name}: {source.cfg}: {error}.") from error


def _ways_out(spec: ModelSpec) -> str:
    variable = f"{spec.name.upper().replace('-', '_')}_WEIGHTS"
    return (
        "Three ways out: let this machine download them and start again; "
        f"{variable}=PATH to use a weights file that you have; "
        f"{variable}=random to measure speed only."
    )


@contextmanager
def download() -> Iterator[None]:
    """Guard a download by Keras: one process at a time, and a silent server fails within seconds."""
    with _one_download_at_a_time(), _silence_limit(DOWNLOAD_SILENCE_S):
        yield


@contextmanager
def _silence_limit(seconds: float) -> Iterator[None]:
    """Bound connecting and each read of urllib, which Keras calls without a time-out.

    The default is the process's, but every other socket of ours sets its own.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _one_download_at_a_time() -> Iterator[None]:
    """Lock the folder of weights, which model servers share: one downloads, the others find the file."""
    folder = Path("~/.keras").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "batchwire.lock").open("w")
    except OSError:  # a read-only home is not shared either; Keras then uses /tmp
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
