"""The kind of network that a file holds, by its name and its first bytes, whatever model.toml says.

Owns the hint about a file that could not be read as the kind that model.toml names. Loads nothing.
"""

import json
import os
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Final

from model_server.catalogue.model_toml import Source, TorchNetwork, TorchSource
from model_server.catalogue.pipeline_toml import StepModels

_SUFFIXES: Final = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".lite": "tflite",
    ".keras": "keras_file",
    ".h5": "keras_file",
    ".hdf5": "keras_file",
    ".pb": "frozen_graph",
    ".pdmodel": "paddle",
    ".pdiparams": "paddle",
    ".cfg": "darknet",
    ".weights": "darknet",
    ".pt2": "torch_export",
    ".safetensors": "torch_network",
}

_FOREIGN: Final = {".pt": "a PyTorch file", ".pth": "a PyTorch file", ".ckpt": "a checkpoint"}
"""Files whose bytes did not show their kind, and that no kind accepts as they are."""

_PICKLED: Final = "pickle"
"""What torch.save pickled with its classes, a whole network most likely: no kind of model.toml."""

_TENSORS: Final = ("torch", "torch._utils", "torch.storage", "collections", "numpy", "_codecs", "builtins")
"""The modules whose names a pickle of tensors and numbers has in it."""

_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of what torch.save wrote before PyTorch 1.6: a pickled number."""

_PADDLE_0_11: Final = ("param.tar", "inference_topology.pkl")
"""What PaddlePaddle 0.11 saves of a network: its weights, and its layers as a Python pickle."""

_SEE: Final = "docs/models.md has an example of each kind."


def hint(path: Path, source: Source | StepModels, *, within: Path) -> str:
    """A sentence, after a space, saying what the file looks like if that is not `source`'s kind; else empty.

    `within` is the model's folder, to which the paths in model.toml are relative.
    """
    written_kind = str(type(source).__struct_config__.tag)
    kind = kind_of(path)
    if kind == _PICKLED:
        return f" {_pickled(path)} {_SEE}"
    foreign = _FOREIGN.get(path.suffix.lower())
    if not kind and foreign is not None and path.is_file() and not isinstance(source, TorchSource):
        return f" It looks like {foreign}: export it to ONNX. {_SEE}"
    program = path.with_suffix(".pdmodel") if kind == "paddle" and path.suffix == ".pdiparams" else None
    if program is not None and not program.is_file():
        return f" It has the weights of a PaddlePaddle network without its layers: {program.name} is missing."
    if kind == written_kind and program is not None:
        file = os.path.relpath(program, within)
        return f' It has the weights alone: write file = "{file}" in [source] of model.toml. {_SEE}'
    if kind in ("", written_kind):
        return ""
    cure = f'write kind = "{kind}", not "{written_kind}", in [source] of model.toml'
    if kind == "saved_model":
        folder = os.path.relpath(path if path.is_dir() else path.parent, within)
        cure += f', and folder = "{folder}"'
    if program is not None:
        cure += f', and file = "{os.path.relpath(program, within)}"'
    if kind == "torch_network":
        cure += f', with library and name of the network that they are for, and weights = "{path.name}"'
    elif isinstance(source, TorchNetwork):
        cure += f', and file = "{path.name}" in place of its other lines'
    return f" It looks like {_NAMES[kind]}: {cure}. {_SEE}"


def unserved(path: Path) -> str:
    """A sentence, after a space, on what a file of no served kind looks like; empty if unknown."""
    if kind_of(path) == _PICKLED:
        return f" {_pickled(path)}"
    foreign = _FOREIGN.get(path.suffix.lower())
    return f" It looks like {foreign}: export it to ONNX." if foreign is not None else ""


def _pickled(path: Path) -> str:
    return (
        "It looks like pickled Python objects, as torch.save(network) writes them; reading them would "
        "run any code in them. Save the network with torch.jit.script(network.eval()).save("
        f'"{path.stem}.pt") and write kind = "torchscript", or its weights with '
        f'torch.save(network.state_dict(), "{path.stem}.pth") and write kind = "torch_network".'
    )


def weight_names(path: Path) -> list[str]:
    """The names of the tensors in a file of weights, without reading them; empty if it can't be read."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".safetensors":
                (size,) = struct.unpack("<Q", file.read(8))
                return [name for name in json.loads(file.read(min(size, _MOST_HEADER))) if "__" not in name]
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            operations = list(pickletools.genops(archive.read(pickled)))
    except Exception:  # noqa: BLE001 - damaged in any way: a hint must not hide the error that it goes with
        return []
    texts = (argument for _, argument, _ in operations if isinstance(argument, str))
    return [text for text in dict.fromkeys(texts) if text.endswith((".weight", ".bias"))]


def is_of_last_layer(name: str) -> bool:
    """Whether a tensor of that name belongs to a classifier's last layer, as timm and torchvision name it."""
    return _LAST_LAYER.fullmatch(name) is not None


_LAST_LAYER: Final = re.compile(r"(fc|head|head\.fc|heads\.head|classifier(\.\d)?)\.(weight|bias)")

_MOST_HEADER: Final = 1 << 24
"""Bytes of names; those of large networks are 1 MB."""


def paddle_0_11(folder: Path, named: str) -> str:
    """Why a network of PaddlePaddle 0.11 can't be served, and what to do; empty if it is none.

    `named` is the file or folder that model.toml names, empty if there is no model.toml. Reads no file: a
    pickle runs what its author wrote.
    """
    path = folder / named
    names_it = path.name in _PADDLE_0_11 or all((path / each).is_file() for each in _PADDLE_0_11)
    if not names_it:
        return ""
    return (
        f"{folder} has a network of PaddlePaddle 0.11 (param.tar and inference_topology.pkl), which no "
        "engine runs; a pickle is never read here. Build its layers in Keras or PaddlePaddle 2, set the "
        "weights of param.tar, and save it as a kind that is served: docs/tutorials.md has the steps."
    )


def kind_of(path: Path) -> str:
    """The kind of a file or folder, by its first bytes, then by its name; empty if neither says."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        is_paddle = (path / "__model__").is_file() or any(path.glob("*.pdmodel"))
        return "paddle" if is_paddle else ""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head[4:] == b"TFL3":
            return "tflite"
        if head.startswith(b"\x89HDF\r\n\x1a\n") or _is_keras(path):
            return "keras_file"
        kind_of_torch = _kind_of_torch(path)
    except OSError:
        return ""
    if path.name == "saved_model.pb":
        return "saved_model"
    return kind_of_torch or _SUFFIXES.get(path.suffix.lower(), "")


def _is_keras(path: Path) -> bool:
    """Whether it is a .zip as Keras 3 writes it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"config.json", "metadata.json"} <= set(archive.namelist())
    except Exception:  # noqa: BLE001 - damaged in any way: a hint must not hide the error that it goes with
        return False


def _kind_of_torch(path: Path) -> str:
    """The kind of what PyTorch writes; empty if it is none of it."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _kind_of_pickle(file, pickles=4) if file.read(len(_LEGACY)) == _LEGACY else ""
        with zipfile.ZipFile(path) as archive:
            # All lie in a folder of the file's own name.
            names = {name.rpartition("/")[2]: name for name in archive.namelist() if name.count("/") < 2}
            if "constants.pkl" in names:
                return "torchscript"
            if {"archive_format", "serialized_exported_program.json"} & names.keys():
                return "torch_export"
            if "data.pkl" not in names:
                return ""
            with archive.open(names["data.pkl"]) as file:
                return _kind_of_pickle(file)
    except Exception:  # noqa: BLE001 - damaged in any way, as above
        return ""


def _kind_of_pickle(file: IO[bytes], *, pickles: int = 1) -> str:
    """Whether the last of so many pickles has tensors alone, by the names in it. Nothing of it is run."""
    file.seek(0)
    modules: set[str] = set()
    strings = [""]
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                modules.add(str(argument).split(" ", maxsplit=1)[0])
            elif operation.name == "STACK_GLOBAL":
                modules.add(strings[-2])
            elif isinstance(argument, str):
                strings.append(argument)
    foreign = {module for module in modules if module.split(".")[0] not in ("torch", *_TENSORS)}
    layers = {module for module in modules if module.startswith("torch.nn.modules")}
    return _PICKLED if layers or foreign else "torch_network"


_NAMES: Final = {
    "onnx": "an ONNX network",
    "tflite": "a TensorFlow Lite network",
    "keras_file": "a network saved by Keras",
    "frozen_graph": "a TensorFlow frozen graph",
    "saved_model": "a TensorFlow SavedModel",
    "paddle": "a PaddlePaddle network",
    "darknet": "a Darknet file",
    "torchscript": "a TorchScript network",
    "torch_export": "a network that torch.export.save wrote",
    "torch_network": "weights without a network",
}
