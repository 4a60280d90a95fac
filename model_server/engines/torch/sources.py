"""Where networks of PyTorch come from: TorchScript, exported programs, timm and torchvision with weights.

Owns reading the files, and every message about one that could not be read. Runs nothing, and downloads
nothing. A pickle can run any code of its author's: of what PyTorch writes with pickle, only tensors are read.
Importing this module loads no PyTorch.
"""

import difflib
import importlib.metadata
import inspect
import logging
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue import archives, file_kinds
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import TorchExport, TorchNetwork, TorchScript

if TYPE_CHECKING:
    from model_server.engines.torch.network import PyTorchNetwork

_LOADING: Final = threading.Lock()

INSTALL: Final = ".venv/bin/python -m pip install -r model_server/requirements-torch.txt"

FROM_ONE_PLACE: Final = (
    ".venv/bin/python -m pip install --force-reinstall --no-deps "
    "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0 torchvision==0.28.0"
)
"""Puts both in place of what is there; without --force-reinstall pip takes any build for the right one."""

_NESTED: Final = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""The keys under which training scripts save a state dict beside the optimiser's and the epoch."""

_CODE: Final = ("opaque_obj", "aotinductor")
"""Beginnings of names within an exported program that hold a pickle, or a compiled library."""

_BATCH: Final = 'dynamic_shapes=({0: torch.export.Dim("batch")},)'


def find(spec: ModelSpec) -> Path:
    """The network's file, which is of the kind that model.toml says as far as its first bytes show.

    Raises ModelUnavailable.
    """
    source = _source(spec)
    name = source.weights if isinstance(source, TorchNetwork) else source.file
    path = spec.folder / name
    if not path.is_file():
        problem = f"{name!r} is a folder" if path.is_dir() else f"its folder has no file {name!r}"
        raise ModelUnavailable(f"{spec.name}: {problem}.{file_kinds.hint(path, source, within=spec.folder)}")
    if problem := archives.problem(path):
        raise ModelUnavailable(f"{spec.name}: {name} {problem}.")
    hint = file_kinds.hint(path, source, within=spec.folder)
    if hint:
        raise ModelUnavailable(f"{spec.name}: {name} is not {_EXPECTED[type(source)]}.{hint}")
    return path


def load(spec: ModelSpec, prepared: NDArray[Any] | None = None) -> "PyTorchNetwork":
    """The network of `spec`, on the CPU, in evaluation mode and float32. Raises ModelUnavailable.

    `prepared` are the check's pictures, if the model's own code prepares them: it takes them as they are.
    """
    path = find(spec)
    source = _source(spec)
    with installed(spec):
        from model_server.engines.torch.network import PyTorchNetwork  # noqa: PLC0415 - it loads PyTorch

        match source:
            case TorchScript():
                return PyTorchNetwork(spec, _script(spec, path), None, prepared)
            case TorchExport():
                return PyTorchNetwork(spec, *_exported(spec, path, _sizes(spec, prepared)), prepared)
            case TorchNetwork():
                module = _named(spec, source, path, _sizes(spec, prepared))
                return PyTorchNetwork(spec, module, None, prepared)


@contextmanager
def installed(spec: ModelSpec) -> Iterator[None]:
    """Guard an import of PyTorch or of one of its libraries. Raises ModelUnavailable."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"{spec.name}: a network of PyTorch needs the Python package {error.name!r}, which is not "
            f"installed. Install what it needs: {INSTALL}"
        ) from error


@contextmanager
def _of_one_build(spec: ModelSpec) -> Iterator[None]:
    """Guard an import of torchvision, which timm imports too. Raises ModelUnavailable."""
    try:
        yield
    except (RuntimeError, AttributeError) as error:  # the second is what a repeated import raises
        raise ModelUnavailable(
            f"{spec.name}: torchvision {importlib.metadata.version('torchvision')} does not fit PyTorch "
            f"{importlib.metadata.version('torch')} ({_reason(error)}): builds for CPUs and for GPUs do not "
            f"mix. Install both from one place, those for CPUs by: {FROM_ONE_PLACE}"
        ) from error


def classes_of(spec: ModelSpec) -> int:
    """How many classes a file of weights is for: the last layer has a row for each; 0 if there is none.

    It is known by its name: a .safetensors has its tensors in another order than the network. Raises
    ModelUnavailable.
    """
    path = find(spec)
    with installed(spec):
        state = _state(spec, path)
    last = [tensor for name, tensor in sorted(state.items()) if file_kinds.is_of_last_layer(name)]
    return int(last[-1].shape[0]) if last else 0


def _sizes(spec: ModelSpec, prepared: NDArray[Any] | None) -> tuple[int, ...]:
    """The shape of the network's input for one picture."""
    if prepared is not None:
        return prepared.shape[1:]
    return (spec.input.channels, spec.input.height, spec.input.width)


def _source(spec: ModelSpec) -> TorchScript | TorchExport | TorchNetwork:
    if not isinstance(spec.source, (TorchScript, TorchExport, TorchNetwork)):
        raise TypeError(f"{spec.source!r} is not of PyTorch; this is a bug")
    return spec.source


def _script(spec: ModelSpec, path: Path) -> Any:  # noqa: ANN401 - a torch.jit.ScriptModule
    import torch  # noqa: PLC0415 - it takes seconds, which only a process that loads a network pays

    try:
        module = torch.jit.load(path, map_location="cpu")
    except Exception as error:  # PyTorch raises RuntimeError and others
        raise _unreadable(spec, path, error) from error
    arguments = module.forward.schema.arguments[1:]  # the first is self
    _require_one_input(spec, [each.name for each in arguments if not each.has_default_value()])
    module = module.eval().float()
    graph = module.inlined_graph  # its nodes do not outlive it
    for kind, place in (("aten::dropout", 2), ("aten::batch_norm", 5)):
        for node in graph.findAllNodes(kind):
            if list(node.inputs())[place].toIValue() is True:
                raise _in_training(spec, "torch.jit.trace")
    return module


def exported_sizes(spec: ModelSpec) -> tuple[int | None, ...]:
    """The shape that an exported program takes for a picture; None for a size that is free.

    Raises ModelUnavailable.
    """
    path = find(spec)
    with installed(spec):
        _, taken = _program(spec, path)
    return tuple(size if isinstance(size, int) else None for size in taken.shape[1:])


def _exported(spec: ModelSpec, path: Path, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """The module of an exported program, and the program in float32."""
    return _in_float32(spec, *_program(spec, path), sizes)


def _program(spec: ModelSpec, path: Path) -> tuple[Any, Any]:
    """The program of a file, and the tensor that stands for its input."""
    import torch  # noqa: PLC0415 - likewise

    _require_no_code(spec, path)
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it logs the traceback of what it raises
    try:
        with _tensors_only():
            program = torch.export.load(path)
    except Exception as error:  # zipfile, AssertionError, RuntimeError and others
        raise _unreadable(spec, path, error) from error
    finally:
        log.setLevel(level)
    inputs = program.graph_signature.user_inputs
    _require_one_input(spec, inputs)
    for node in program.graph.nodes:
        # The last argument of either says whether it is in training.
        place = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}.get(str(node.target))
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise _in_training(spec, "torch.export.export")
    return program, next(node for node in program.graph.nodes if node.name == inputs[0]).meta["val"]


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Forbid what torch.export.load does where a pickle of tensors fails: read one of any kind."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with _LOADING:  # models load at the same time, and the environment is the process's
        before = os.environ.get(variable)
        os.environ[variable] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before


def _in_float32(
    spec: ModelSpec,
    program: Any,  # noqa: ANN401
    taken: Any,  # noqa: ANN401 - the tensor that stands for its input
    ours: tuple[int, ...],
) -> tuple[Any, Any]:
    """The module of a program and the program; exported again, if it takes floats of 16 bits."""
    import torch  # noqa: PLC0415 - likewise

    is_fixed = isinstance(taken.shape[0], int) if taken.dim() else True
    sizes = [size if isinstance(size, int) else "?" for size in taken.shape]
    wanted = [1, *ours]
    if len(sizes) != len(wanted) or any(
        size not in ("?", right) for size, right in zip(sizes, wanted, strict=True)
    ):
        batch = f" Export it with {_BATCH}." if sizes[1:] == wanted[1:] else ""
        says = (
            f"model.toml says pictures of {spec.input.width} x {spec.input.height} with "
            f"{spec.input.channels} channels"
        )
        if spec.hooks is not None and "preprocess" in spec.hooks.names:
            says = "preprocess in hooks.py returns another shape"
        raise ModelUnavailable(f"{spec.name}: the network takes {sizes}, but {says}: {wanted}.{batch}")
    module = program.module()
    if taken.dtype is torch.float32 or not taken.dtype.is_floating_point:
        return module, program
    module = module.float()
    example = torch.zeros(1 if is_fixed else 2, *wanted[1:])
    try:
        dynamic = None if is_fixed else ({0: torch.export.Dim("batch")},)
        return module, torch.export.export(module, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # the network's own code raises anything
        raise ModelUnavailable(
            f"{spec.name}: {spec.weights} takes {taken.dtype}, and can't be run in float32 "
            f"({_reason(error)}). Export the network as network.float()."
        ) from error


def _require_no_code(spec: ModelSpec, path: Path) -> None:
    """Raise ModelUnavailable if an exported program holds a pickled object, or a compiled library."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name).parts for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(spec, path, error) from error
    parts = [part for name in names for part in name if part.startswith(_CODE)]
    if parts:
        raise ModelUnavailable(
            f"{spec.name}: {path.name} has {parts[0]!r} in it, which would run its author's own code here. "
            "Only an exported program of tensors is read: torch.export.save(torch.export.export(...))."
        )


def _named(spec: ModelSpec, source: TorchNetwork, path: Path, sizes: tuple[int, ...]) -> Any:  # noqa: ANN401 - a torch.nn.Module
    """The network of that name in its library, with the weights of the file."""
    state = _state(spec, path)
    if source.library == "timm":
        build = _of_timm(spec, source, sizes)
    else:
        build = _of_torchvision(spec, source, state)
    labels = len(spec.labels)
    # Two labels may be one number, the probability of the second.
    counts = [labels, 1] if labels == 2 and spec.task.reads_one_as_two else [labels]
    problem = ""
    for count in counts:
        try:
            module = build(count)
        except Exception as error:  # a library's own code raises anything
            raise ModelUnavailable(
                f"{spec.name}: {source.library} can't build {source.name!r}: {_reason(error)}."
            ) from error
        problem = problem or _misfit(module, state)
        try:
            module.load_state_dict(state)
        except RuntimeError:
            continue
        return module.eval().float()
    raise ModelUnavailable(
        f"{spec.name}: {path.name} does not have the weights of {source.library}'s {source.name} for "
        f"{labels} labels: {problem}. Correct name in model.toml, or the labels (one for each class)."
    )


def _of_torchvision(spec: ModelSpec, source: TorchNetwork, state: Mapping[str, Any]) -> Callable[[int], Any]:
    with _of_one_build(spec):
        import torchvision  # noqa: PLC0415 - likewise

    try:
        builder = torchvision.models.get_model_builder(source.name)
    except ValueError as error:
        raise _unknown(spec, source, torchvision.models.list_models()) from error
    named = inspect.signature(builder).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in named:
        options["weights_backbone"] = None  # else it would be downloaded
    if "aux_loss" in named:
        options["aux_loss"] = any(key.startswith("aux_classifier.") for key in state)
    if source.name in ("googlenet", "inception_v3"):  # as their published weights are loaded
        options |= {"aux_logits": any(key.lower().startswith("aux") for key in state), "init_weights": False}
    return lambda classes: builder(**options, num_classes=classes)


def _of_timm(spec: ModelSpec, source: TorchNetwork, sizes: tuple[int, ...]) -> Callable[[int], Any]:
    with _of_one_build(spec):
        import timm  # noqa: PLC0415 - likewise

    # With a scheme before its name, timm would take a network from elsewhere.
    if not timm.is_model(source.name) or ":" in source.name or "/" in source.name:
        raise _unknown(spec, source, timm.list_models())
    options: dict[str, Any] = {"pretrained": False}
    if len(sizes) == 3 and sizes[0] != 3:
        options["in_chans"] = sizes[0]
    cfg = timm.get_pretrained_cfg(source.name)
    if cfg is not None and cfg.fixed_input_size and len(sizes) == 3:
        options["img_size"] = sizes[1:]
    return lambda classes: timm.create_model(source.name, **options, num_classes=classes)


@dataclass(frozen=True, slots=True)
class UsualInput:
    """What a named network takes, as far as its library and its weights tell."""

    channels: int
    height: int = 224
    width: int = 224
    normalise: str = ""
    why: str = "usual for its library"


_DEVIATIONS: Final = {(0.485, 0.456, 0.406): "torch", (0.5, 0.5, 0.5): "tf", (0.0, 0.0, 0.0): "unit"}
"""The means with which networks are published, and the normalisation that each belongs to."""


def usual_input(spec: ModelSpec) -> UsualInput:
    """What the named network usually takes. Raises ModelUnavailable as loading does."""
    source = spec.source
    if not isinstance(source, TorchNetwork):
        raise TypeError(f"{source!r} names no network. This is a bug")
    path = find(spec)
    with installed(spec):
        state = _state(spec, path)
        cfg = _published(spec, source)
    first = next((value for value in state.values() if value.dim() == 4), None)
    channels = int(first.shape[1]) if first is not None and first.shape[1] in (1, 3) else 3
    if cfg is None:
        return UsualInput(channels)
    _, height, width = cfg.input_size
    return UsualInput(channels, height, width, _DEVIATIONS.get(tuple(cfg.mean), ""), "as timm publishes it")


def _published(spec: ModelSpec, source: TorchNetwork) -> Any:  # noqa: ANN401 - timm has no types
    """How timm publishes a network's weights; None for others. Raises ModelUnavailable."""
    if source.library != "timm":
        return None
    with _of_one_build(spec):
        import timm  # noqa: PLC0415 - only the child process, or a command, loads it

    return timm.get_pretrained_cfg(source.name) if timm.is_model(source.name) else None


def _state(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """The state dict of a file: the names of its tensors, and the tensors. Raises ModelUnavailable."""
    import torch  # noqa: PLC0415 - likewise

    try:
        if path.suffix.lower() == ".safetensors":
            import safetensors.torch  # noqa: PLC0415 - likewise

            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # pickle, zipfile and safetensors each raise their own
        raise ModelUnavailable(
            f"{spec.name}: the weights in {path.name} can't be read ({_reason(error)}). Only tensors are "
            f"read: torch.save(network.state_dict(), {path.with_suffix('.pth').name!r})"
        ) from error
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelUnavailable(
            f"{spec.name}: {path.name} has no state dict, names with tensors. Write it with "
            f"torch.save(network.state_dict(), {path.with_suffix('.pth').name!r})"
        )
    # Of a network that was trained on several devices.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _misfit(module: Any, state: Mapping[str, Any]) -> str:  # noqa: ANN401
    """In a clause, the first difference between a network's weights and those of a file."""
    own = module.state_dict()
    missing, unknown = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing:
        return f"it lacks {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    if unknown:
        return f"it has {unknown[0]!r}, which the network lacks"
    shapes = [(key, tuple(state[key].shape), tuple(own[key].shape)) for key in own]
    return next((f"{key!r} is {found}, not {right}" for key, found, right in shapes if found != right), "")


def _unknown(spec: ModelSpec, source: TorchNetwork, names: list[str]) -> ModelUnavailable:
    near = difflib.get_close_matches(source.name.split(".")[0].lower(), names, 5)
    like = f" Some that it has: {', '.join(near)}." if near else ""
    return ModelUnavailable(f"{spec.name}: {source.library} has no network {source.name!r}.{like}")


def _require_one_input(spec: ModelSpec, names: list[str] | tuple[str, ...]) -> None:
    if len(names) != 1:
        raise ModelUnavailable(
            f"{spec.name}: the network has {len(names)} inputs ({', '.join(names)}). Save it again with the "
            "picture as its only input."
        )


def _in_training(spec: ModelSpec, function: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{spec.name}: {spec.weights} was saved in training mode: dropout or batch normalisation would "
        f"change its answers. Call network.eval() before {function}, and save it again."
    )


def _unreadable(spec: ModelSpec, path: Path, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"{spec.name}: {path.name} is not {_EXPECTED[type(spec.source)]} that PyTorch can read "
        f"({_reason(error)}). It may be cut short, a Git LFS pointer, or of a newer PyTorch."
    )


def _reason(error: Exception) -> str:
    """The first sentence of what PyTorch or a library says."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ", maxsplit=1)[0].rstrip(".:")


_EXPECTED: Final[dict[type, str]] = {
    TorchScript: "a TorchScript file",
    TorchExport: "an exported program",
    TorchNetwork: "a file of weights",
}
