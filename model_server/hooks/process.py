"""The process that runs a model's hooks.py: the far side of own_code.py.

Owns the limits that it sets itself, the import of hooks.py and the calls of its functions. Run as
`python -m model_server.hooks.process FOLDER SOCKET LIFELINE MEMORY_MB`, with two inherited file descriptors.
Imports little, so that it starts in a fifth of a second.
"""

import fcntl
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_server.hooks import kept_code, wire
from model_server.hooks.kept_code import Sources
from model_server.hooks.wire import Message

FILE: Final = "hooks.py"
FUNCTIONS: Final = ("preprocess", "postprocess", "load")

MOST_JSON: Final = 1_000_000
"""Bytes of JSON that postprocess may return."""

_MOST_REQUEST: Final = 2**40
"""Bytes: the model server is trusted, and RLIMIT_DATA is the bound."""

_Reply = tuple[Message, list[NDArray[Any]]]


def main(arguments: Sequence[str]) -> int:
    """Serve requests until the model server closes the socket. Returns the exit status."""
    folder, descriptor, lifeline, memory_mb = arguments
    _limit(int(lifeline), int(memory_mb))
    with socket.socket(fileno=int(descriptor)) as peer:
        first, contents = wire.receive(peer, most_bytes=_MOST_REQUEST)
        try:
            kept = zip(first.arrays, contents, strict=True)
            functions = _functions(Path(folder), {header.name: array.tobytes() for header, array in kept})
            ready = Message(kind="ready", names=tuple(functions))
            if "load" in functions:
                functions["predict"] = _loaded(functions["load"])
        except BaseException as error:  # noqa: BLE001 - SystemExit as well: whatever it is, the operator reads it
            wire.send(peer, _failed(error))
            return 1
        wire.send(peer, ready)
        while True:
            try:
                request, arrays = wire.receive(peer, most_bytes=_MOST_REQUEST)
            except (EOFError, OSError):
                return 0
            try:
                reply, results = _answer(functions, request, arrays, first.constants)
            except BaseException as error:  # noqa: BLE001 - it costs this picture alone
                reply, results = _failed(error), []
            wire.send(peer, reply, results)


def _limit(lifeline: int, memory_mb: int) -> None:
    """Bound the memory, leave signals to the model server, and die with it."""
    # Not RLIMIT_AS: TensorFlow reserves 1.7 GB of addresses to compute 1 + 0, of which 0.5 GB can be written.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for each in (signal.SIGINT, signal.SIGTERM):
        # A service manager sends them to every process; the model server drains, and needs this one for it.
        signal.signal(each, signal.SIG_IGN)
    # The kernel kills this process' group when the model server's end of the pipe closes, even if it was
    # killed, and even if code in here holds the GIL. PR_SET_PDEATHSIG would follow the parent's thread.
    if not hasattr(fcntl, "F_SETSIG"):
        return  # not Linux: it ends after the call that it is in
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        os._exit(1)  # it was closed before


def _functions(folder: Path, sources: Sources) -> dict[str, Callable[..., Any]]:
    """Import hooks.py, which may import its neighbours and read files beside it."""
    os.chdir(folder)
    sys.path[0] = str(folder)  # in place of the project, whose modules are loaded
    kept_code.install(folder, sources)
    spec = kept_code.module_spec("hooks", folder, FILE, sources)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hooks"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr] # it has the loader that it was made with
    functions = {name: getattr(module, name) for name in FUNCTIONS if hasattr(module, name)}
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} in {FILE} is not a function")
    return functions


def _loaded(load: Callable[[], Any]) -> Callable[..., Any]:
    predict = load()
    if not callable(predict):
        raise TypeError(f"load() must return a function, not {type(predict).__name__}")
    return predict  # type: ignore[no-any-return] # as callable() has just said


def _answer(
    functions: Mapping[str, Callable[..., Any]],
    request: Message,
    arrays: list[NDArray[Any]],
    constants: dict[str, Any],
) -> _Reply:
    function = functions[request.kind]
    match request.kind:
        case "preprocess":
            array = _array(function(*arrays), "preprocess must return an array")
            if array.dtype == np.float64:  # NumPy's own choice, and no network's
                array = array.astype(np.float32)
            return Message(kind="done", arrays=wire.headers([array])), [array]
        case "predict":
            names, outputs = _outputs(function(*arrays))
            return Message(kind="done", arrays=wire.headers(outputs, names)), outputs
    named = {header.name: array for header, array in zip(request.arrays, arrays, strict=True)}
    answer = function(named, constants | request.context)
    if not isinstance(answer, dict):
        raise TypeError(f"postprocess must return a dict, not {type(answer).__name__}")
    text = json.dumps(answer, allow_nan=False, default=_plain, ensure_ascii=False)
    if len(text.encode()) > MOST_JSON:
        raise ValueError(f"postprocess returned more than {MOST_JSON:,} bytes of JSON")
    return Message(kind="done", json=text), []


def _outputs(answer: Any) -> tuple[list[str], list[NDArray[Any]]]:  # noqa: ANN401
    """The outputs of predict, in float32, with their names."""
    if isinstance(answer, Mapping):
        named = {str(name): value for name, value in answer.items()}
    elif isinstance(answer, tuple | list):
        named = {str(number): value for number, value in enumerate(answer)}
    else:
        named = {"0": answer}
    if not named:
        raise ValueError("predict returned no output")
    outputs = [_array(value, "predict must return arrays").astype(np.float32) for value in named.values()]
    return list(named), outputs


def _array(value: Any, rule: str) -> NDArray[Any]:  # noqa: ANN401
    """An array of numbers from NumPy's, or from a tensor of any framework."""
    if hasattr(value, "detach"):  # PyTorch's, which NumPy does not read on a GPU or with a gradient
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{rule}, not {type(value).__name__} of {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """NumPy's numbers and arrays as Python's, for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"postprocess returned a {type(value).__name__}, which JSON has not")


def _failed(error: BaseException) -> Message:
    said = (str(error).strip().splitlines() or [""])[0]
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    lines = "".join(traceback.format_exception(error))
    # A file's name that is not UTF-8 has surrogates, which JSON has not.
    line, lines = (text.encode("utf-8", "backslashreplace").decode() for text in (line, lines))
    return Message(kind="failed", error=line[:500], traceback=lines[-20_000:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
