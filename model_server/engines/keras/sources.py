"""Where networks come from: keras.applications with its downloads, files saved by Keras, and Darknet's.

Owns the download and every sentence that says why a network could not be had. It only builds Keras
models; engines/ run them.
"""

import fcntl
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue import file_kinds
from model_server.catalogue.model_spec import Darknet, KerasApplication, KerasFile, ModelSpec

_OWN_CODE: Final = ("lambda", "safe_mode", "could not locate class", "get_config")
"""In what Keras says of a file whose layers are not all its own."""

DOWNLOAD_SILENCE_S: Final = 5.0
"""A download whose server is silent for so long has failed: without a network the service must say so
within seconds, and Keras itself would wait for ever."""

_RANDOM_SEED: Final = 20180129
"""So that every model server with random weights answers alike."""

_DRAWING: Final = threading.Lock()
"""Keras draws all initial weights from one generator: models that load side by side would mix them."""


def build(spec: ModelSpec) -> Any:  # noqa: ANN401 - a keras.Model; Keras ships no types
    """Return the Keras model of `spec`, weights loaded. Raises ModelUnavailable with the reason."""
    match spec.source:
        case KerasApplication() as source:
            return _application(spec, source)
        case KerasFile(file=file) as source:
            return _picked(spec, _file(spec, source, spec.folder / file))
        case Darknet() as source:
            return _darknet(spec, source)
    raise ModelUnavailable(f"{spec.name}: its source is no Keras network, so only ENGINE=openvino runs it.")


def _application(spec: ModelSpec, source: KerasApplication) -> Any:  # noqa: ANN401
    import keras  # noqa: PLC0415 - seconds long, and only a process that loads a model pays for it

    constructor = getattr(keras.applications, source.name, None)
    if not callable(constructor):
        raise ModelUnavailable(f"{spec.name}: keras.applications has no network {source.name!r}.")
    if source.weights == "random":
        with _DRAWING:
            keras.utils.set_random_seed(_RANDOM_SEED)
            return constructor(weights=None)
    if source.weights == "imagenet":
        return _with_imagenet_weights(spec, constructor)
    if not Path(source.weights).is_file():
        raise ModelUnavailable(
            f"{spec.name}: there is no file of weights {source.weights!r}. {_ways_out(spec)}"
        )
    try:
        return constructor(weights=source.weights)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise ModelUnavailable(
            f"{spec.name}: {source.weights!r} does not hold weights of {source.name}: {first_line(error)}. "
            f"{_ways_out(spec)}"
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
    import keras  # noqa: PLC0415

    if not path.is_file():
        there = (
            f"{path.name!r} is a folder" if path.is_dir() else f"there is no file {path.name!r} in its folder"
        )
        raise ModelUnavailable(f"{spec.name}: {there}.{file_kinds.hint(path, source, within=spec.folder)}")
    try:
        with _DRAWING:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise ModelUnavailable(
            f"{spec.name}: Keras can't load {path.name}: {first_line(error)}."
            f"{file_kinds.hint(path, source, within=spec.folder) or _cure(path, error)}"
        ) from error


def _cure(path: Path, error: Exception) -> str:
    """What to do with a file of Keras' that Keras refuses."""
    said = str(error).lower()
    if any(word in said for word in _OWN_CODE):
        return (
            " It needs Python code of its own (a Lambda, a layer of yours), which is not run here: export it "
            'where that code is, model.export("exported"), and serve that folder with kind = "saved_model".'
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        return " A .keras file is a zip, and this is none: it was cut short, or it is a Git LFS pointer."
    return ""


def _darknet(spec: ModelSpec, source: Darknet) -> Any:  # noqa: ANN401
    from model_server.darknet import cfg, keras_model  # noqa: PLC0415 - they load Keras

    paths = (spec.folder / source.cfg, spec.folder / source.weights)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelUnavailable(f"{spec.name}: there is no file {missing[0]!r} in its folder.")
    try:
        return keras_model.build(*paths, spec.input.shape[:2])
    except (cfg.DarknetError, OSError) as error:
        raise ModelUnavailable(f"{spec.name}: {source.cfg}: {error}.") from error


def _picked(spec: ModelSpec, model: Any) -> Any:  # noqa: ANN401
    """A detector with the outputs that model.toml names, in that order; any other network as it is."""
    import keras  # noqa: PLC0415

    if spec.detection is None:
        return model
    wanted = spec.detection.outputs
    found = dict(zip(model.output_names, model.outputs, strict=True))
    found_at = {**found, **dict(enumerate(model.outputs))}
    for output in wanted:
        if output not in found_at:
            raise ModelUnavailable(
                f"{spec.name}: the network has no output {output!r}; it has {', '.join(found)} (or 0 to "
                f"{len(found) - 1})."
            )
    return keras.Model(model.inputs, [found_at[output] for output in wanted])


def _ways_out(spec: ModelSpec) -> str:
    variable = f"{spec.name.upper().replace('-', '_')}_WEIGHTS"
    return (
        "Three ways out: let this machine download them and start again; "
        f"{variable}=PATH for a file of weights that you have; "
        f"{variable}=random to measure speed only."
    )


@contextmanager
def download() -> Iterator[None]:
    """Around what makes Keras download weights: one process at a time, and a silent server fails soon."""
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
    """Model servers that share the folder of weights: the first downloads, the others find the file."""
    folder = Path("~/.keras").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "batchwire.lock").open("w")
    except OSError:  # a home that can't be written is not shared either; Keras then uses /tmp
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
