"""Where ONNX Runtime's networks come from: a model's .onnx file, and the package that runs it.

Owns the refusal of a file that is missing or of another kind, and of a missing package, with the command that
installs it. Importing this module loads no ONNX Runtime.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from broker.errors import ModelUnavailable
from model_server.catalogue import file_kinds
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import Onnx

INSTALL: Final = ".venv/bin/python -m pip install -r model_server/requirements-onnxruntime.txt"


def find(spec: ModelSpec) -> Path:
    """The network's file, which is of ONNX as far as its first bytes show. Raises ModelUnavailable."""
    if not isinstance(spec.source, Onnx):
        raise TypeError(f"{spec.source!r} is not of ONNX; this is a bug")
    name = spec.source.file
    path = spec.folder / name
    hint = file_kinds.hint(path, spec.source, within=spec.folder)
    if not path.is_file():
        problem = f"{name!r} is a folder" if path.is_dir() else f"its folder has no file {name!r}"
        raise ModelUnavailable(f"{spec.name}: {problem}.{hint}")
    if hint:
        raise ModelUnavailable(f"{spec.name}: {name} is not an ONNX file.{hint}")
    return path


@contextmanager
def installed(spec: ModelSpec) -> Iterator[None]:
    """Guard the import of ONNX Runtime. Raises ModelUnavailable."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"{spec.name}: ENGINE=onnxruntime needs the Python package {error.name!r}, which is not "
            f"installed. Install it: {INSTALL}"
        ) from error
