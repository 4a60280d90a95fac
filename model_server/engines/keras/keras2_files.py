"""Files of Keras 2 as Keras 3 reads them: a copy with the same weights, and the configuration rewritten.

Owns what differs between the two: names of classes and arguments, how nodes are counted, and where weights
are stored. Builds no network and runs no code of a file; never writes to the file itself.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from model_server.engines.keras import keras2_operations

Config = dict[str, Any]

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.weights.h5"

_OWN_MODULES: Final = ("keras.", "tf_keras.", "tensorflow.python.keras.", "tensorflow.keras.")
_NETWORKS: Final = ("Functional", "Model", "Sequential")

_TRAINING: Final = ("_initializer", "_regularizer", "_constraint")
"""Endings of arguments that matter only before and during training."""

_WITHOUT_EFFECT: Final[dict[str, tuple[object, ...]]] = {
    "groups": (1,),
    "rng_type": ("stateful", "stateless", "legacy_stateful"),
    "fused": (None, True, False),
    "renorm": (None, False),
    "virtual_batch_size": (None,),
    "time_major": (False,),
    "implementation": (0, 1, 2),
}
"""Arguments that some layers of Keras 3 no longer take, with the values that change nothing."""

_CHANGED: Final = "hard_sigmoid"
"""0.2 x + 0.5 within 0..1 in Keras 2, and x / 6 + 0.5 in Keras 3."""

_CHILDREN: Final = "_layer_checkpoint_dependencies"
"""Where Keras 2.12 to 2.14 store the weights of a network's layers; later `layers`, as in Keras 3."""


_OF_APPLICATIONS: Final = {
    "LayerScale": "keras.src.applications.convnext",
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
}
"""Layers that Keras defines beside a published network instead of among its layers."""


class UnsupportedByKeras3Error(Exception):
    """The file has a part that can't be written in Keras 3's terms; the message is a clause that names it."""


def is_keras2(path: Path) -> bool:
    """Whether Keras 1 or 2 wrote the file; False for any other file, damaged or not."""
    try:
        return _version(path).startswith(("1.", "2."))
    except Exception:  # noqa: BLE001 - h5py, zipfile and json each raise their own; loading will name the fault
        return False


def rewritten(path: Path, folder: Path) -> Path:
    """Write into `folder` a copy of a file of Keras 2 that Keras 3 loads, and return it.

    Raises UnsupportedByKeras3Error, and whatever h5py, zipfile and json raise about a damaged file.
    """
    try:
        if zipfile.is_zipfile(path):
            return _rewritten_zip(path, folder / "network.keras")
        return _rewritten_h5(path, folder / "network.h5")
    except keras2_operations.UnsupportedOperationError as error:
        raise UnsupportedByKeras3Error(str(error)) from error


def _rewritten_h5(path: Path, copy: Path) -> Path:
    import h5py  # noqa: PLC0415 - only files of Keras 2 need it

    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        if "model_config" not in file.attrs:
            raise ValueError("No model config: the file has weights alone")
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(_network(config)).encode()
    return copy


def require_order(model: Any, copy: Path) -> None:  # noqa: ANN401 - a keras.Model
    """Raise UnsupportedByKeras3Error unless a network's layers come in the order of its file.

    Weights are stored without their layers' names: in another order, layers of one shape would swap them.
    """
    if zipfile.is_zipfile(copy):
        with zipfile.ZipFile(copy) as archive:
            network = json.loads(archive.read(_CONFIG))
    else:
        import h5py  # noqa: PLC0415

        with h5py.File(copy) as file:
            network = json.loads(file.attrs["model_config"])
    written, loaded = list(_names_in_file(network)), list(_names(model))
    common = set(written) & set(loaded)  # a Sequential has no input layer in Keras 3, say
    if [name for name in written if name in common] != [name for name in loaded if name in common]:
        raise UnsupportedByKeras3Error("its layers would come in another order, with each other's weights")


def _names_in_file(network: Config) -> Iterator[str]:
    layers = network["config"]["layers"]
    yield from (layer["config"]["name"] for layer in layers)
    for layer in layers:
        if layer["class_name"] in _NETWORKS:
            yield from _names_in_file(layer)


def _names(model: Any) -> Iterator[str]:  # noqa: ANN401
    yield from (layer.name for layer in model.layers)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _names(layer)


def _version(path: Path) -> str:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    import h5py  # noqa: PLC0415

    with h5py.File(path) as file:
        version = file.attrs.get("keras_version", "1." if "model_config" in file.attrs else "")
        return str(version.decode() if isinstance(version, bytes) else version)


def _rewritten_zip(path: Path, copy: Path) -> Path:
    import h5py  # noqa: PLC0415

    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as written:
        network = _network(json.loads(archive.read(_CONFIG)))
        # The outermost must name its module: Keras looks it up as an object of any kind.
        module = "keras.src.models." + (
            "sequential" if network["class_name"] == "Sequential" else "functional"
        )
        network |= {"module": module, "registered_name": network["class_name"], "compile_config": None}
        written.writestr(_CONFIG, json.dumps(network))
        written.writestr("metadata.json", archive.read("metadata.json"))
        weights = copy.with_name(_WEIGHTS)
        with archive.open(_WEIGHTS) as stored, weights.open("wb") as file:
            shutil.copyfileobj(stored, file)
        with h5py.File(weights, "r+") as groups:
            _rename_groups(groups)
        written.write(weights, _WEIGHTS)
        weights.unlink()
    return copy


def _rename_groups(group: Any) -> None:  # noqa: ANN401 - an h5py.Group
    """Move the weights of layers to where Keras 3 looks for them, at any depth."""
    for name in [name for name in group if "\\" in name]:  # written on Windows
        for child in list(group[name]):  # one by one: their new parent may exist already
            group.move(f"{name}/{child}", f"{name}/{child}".replace("\\", "/"))
        del group[name]
    if _CHILDREN in group:
        children = group[_CHILDREN]
        for kind, numbers in _numbered(children).items():
            # Keras 2.12 counts each layer with weights twice.
            for place, number in enumerate(sorted(numbers)):
                if place != number:
                    children.move(_joined(kind, number), _joined(kind, place))
        if "layers" in group:
            del group["layers"]
        group.move(_CHILDREN, "layers")
    for child in group.get("layers", {}).values():
        _rename_groups(child)


def _numbered(names: Any) -> dict[str, list[int]]:  # noqa: ANN401
    kinds: dict[str, list[int]] = {}
    for name in names:
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr] # matches any
        kinds.setdefault(kind, []).append(int(number or 0))
    return kinds


def _joined(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


def _network(item: Config) -> Config:
    """A network's configuration: its class, its layers and how they are connected."""
    config = item["config"]
    if isinstance(config, list):  # a Sequential, until Keras 2.2.2
        config = {"name": "sequential", "layers": config}
    if item["class_name"] == "Sequential":
        layers = [_layer(layer) for layer in _with_input_layer(config["layers"])]
        shape = {key: config[key] for key in ("build_input_shape",) if key in config}
        return {
            "class_name": "Sequential",
            "config": {"name": _name(config["name"]), **shape, "layers": layers},
        }
    if "layers" not in config:
        raise UnsupportedByKeras3Error(f"{item['class_name']!r} is a class of its own")
    _count_from_zero(config)
    layers = []
    for layer in config["layers"]:
        nodes = [[node] if isinstance(node[0], str) else node for node in layer["inbound_nodes"]]
        if layer["class_name"] in keras2_operations.CLASSES:
            layers.append(keras2_operations.layer(layer, nodes))
        else:
            layers.append({**_layer(layer), "name": _name(layer["name"]), "inbound_nodes": nodes})
    ends = {key: _single(config[key]) for key in ("input_layers", "output_layers")}
    return {"class_name": "Functional", "config": {"name": _name(config["name"]), "layers": layers, **ends}}


def _with_input_layer(layers: list[Config]) -> list[Config]:
    """The layers of a Sequential; the shape of its input in a layer of its own, as in later versions."""
    shape = layers[0]["config"].get("batch_input_shape") if layers else None
    if shape is None or layers[0]["class_name"] == "InputLayer":
        return layers
    name = layers[0]["config"]["name"] + "_input"
    config = {"batch_input_shape": shape, "dtype": "float32", "name": name}
    return [{"class_name": "InputLayer", "config": config}, *layers]


def _name(name: str) -> str:
    """A layer's name in Keras 3, which takes no slash: DenseNet has conv1/conv."""
    return name.replace("/", "_")


def _single(tensors: Any) -> Any:  # noqa: ANN401
    """The one input or output without its list, so that the network takes a tensor and not a list of one."""
    return tensors[0] if isinstance(tensors, list) and len(tensors) == 1 else tensors


def _count_from_zero(config: Config) -> None:
    """Count the calls of inner networks from 0: in Keras 2 call 0 is the network's own making."""
    kinds = {layer["name"]: layer["class_name"] for layer in config["layers"]}
    inner = [reference for layer in config["layers"] for reference in _references(layer["inbound_nodes"])]
    for reference in inner:
        reference[1] -= kinds.get(reference[0]) in _NETWORKS
    for output in _references(config["output_layers"]):
        output[1] -= kinds.get(output[0]) == "Sequential"  # of the others Keras 3 subtracts it
    for reference in (*inner, *_references(config["input_layers"]), *_references(config["output_layers"])):
        reference[0] = _name(reference[0])


def _references(item: Any) -> Iterator[list[Any]]:  # noqa: ANN401
    """Every [layer, node, output] that names a tensor, at any depth."""
    if isinstance(item, dict):
        for value in item.values():
            yield from _references(value)
    elif isinstance(item, list) and len(item) in (3, 4) and isinstance(item[0], str):
        yield item
        yield from _references(item[3:])
    elif isinstance(item, list):
        for value in item:
            yield from _references(value)


def _layer(item: Config) -> Config:
    kind = item["class_name"].removeprefix("Custom>")
    if not _is_keras_own(item) and kind not in _OF_APPLICATIONS:
        return item  # Keras will name it
    if kind in _NETWORKS:
        return _network(item)
    config = {key: value for key, value in item["config"].items() if not key.endswith(_TRAINING)}
    if kind == "InputLayer":
        shape = config.get("batch_input_shape", config.get("batch_shape"))
        return {"class_name": kind, "config": {"batch_shape": shape, "name": _name(config["name"])}}
    config.pop("batch_input_shape", None)
    for key in [
        key for key in config if config[key] in _WITHOUT_EFFECT.get(key, ()) and not _takes(kind, key)
    ]:
        del config[key]
    config = {key: _value(value) for key, value in config.items()}
    if _CHANGED in config.values():
        raise UnsupportedByKeras3Error(f"its activation {_CHANGED} is another function in Keras 3")
    config["name"] = _name(config["name"])
    if kind in _OF_APPLICATIONS:
        module = _OF_APPLICATIONS[kind]
        return {"module": module, "class_name": kind, "config": config, "registered_name": kind}
    axis = config.get("axis", 0)
    if isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    elif not isinstance(axis, int):
        # Keras' reader of old configurations loses other values; that of new ones does not.
        return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
    return {"class_name": kind, "config": config}


def _value(value: Any) -> Any:  # noqa: ANN401
    """An argument: policies by their name, layers within layers rewritten as well."""
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    if value["class_name"] in ("Policy", "PolicyV1"):
        return value["config"]["name"]
    return _layer(value) if "name" in value.get("config", {}) else value


def _is_keras_own(item: Config) -> bool:
    """Whether the class is Keras' own: a custom one may bear the same name."""
    module = item.get("module") or "keras."
    registered = item.get("registered_name") or ""
    return f"{module}.".startswith(_OWN_MODULES) and ">" not in registered


def _takes(kind: str, argument: str) -> bool:
    """Whether Keras 3's layer of this class takes an argument of this name."""
    import inspect  # noqa: PLC0415

    import keras  # noqa: PLC0415 - it takes seconds, which only a process that loads a model pays

    layer = getattr(keras.layers, kind, None)
    return layer is not None and argument in inspect.signature(layer.__init__).parameters
