"""Python files as they were when a model was loaded, and their import from there.

Owns what a restarted process of hooks.py runs: the code of the version that serves, whatever lies in the
folder by then. Other files are read where they are; own_code.py sees to it that they are the same. Imports
little: the process of hooks.py does.
"""

import importlib.machinery
import linecache
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.abc import PathEntryFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

_SUFFIX: Final = ".py"

Sources = Mapping[str, bytes]
"""The content of each Python file of a folder, by its path in it, with slashes."""


def is_kept(path: str) -> bool:
    """Whether the file of that path, in a model's folder, is a module that can be imported."""
    *folders, name = path.split("/")
    parts = [*folders, name.removesuffix(_SUFFIX)]
    return name.endswith(_SUFFIX) and all(part.isidentifier() for part in parts)


def install(folder: Path, sources: Sources) -> None:
    """Have this process import from `sources` whatever it would import from below `folder`."""

    def finder(path: str) -> "_Finder":
        inner = os.path.relpath(path or os.curdir, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        if not any(name.startswith(prefix) for name in sources):
            raise ImportError(f"{path} has no code of this model's")
        return _Finder(path, prefix, sources)

    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.clear()


def module_spec(name: str, folder: Path, path: str, sources: Sources) -> ModuleSpec:
    """How to import a file of `sources` under that name. Raises ImportError."""
    if path not in sources:
        raise ImportError(f"{path} is missing")
    loader = _Loader(name, str(folder / path), sources[path])
    spec = spec_from_file_location(name, folder / path, loader=loader)
    if spec is None:
        raise ImportError(f"{path} can't be imported")
    return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one file from its bytes."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def path_stats(self, path: str) -> dict[str, float]:
        """None, so that no compiled copy is read: it would be of what lies there now."""
        raise OSError(path)

    def get_data(self, path: str) -> bytes:
        """The kept bytes, for tracebacks as well; what a package reads beside its code is on the disk."""
        if path != self.path:
            return super().get_data(path)
        lines = self._content.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[path] = (len(self._content), None, lines, path)
        return self._content


class _Finder(PathEntryFinder):
    """Finds modules in one folder of `sources`; extension modules, folders and links on the disk."""

    def __init__(self, place: str, inner: str, sources: Sources) -> None:
        self._place = place
        self._inner = inner
        self._sources = sources
        machinery = importlib.machinery
        self._on_disk = machinery.FileFinder(
            place,
            (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
            (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
            (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
        )

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib."""
        name = fullname.rpartition(".")[2]
        for path, is_package in ((f"{name}/__init__{_SUFFIX}", True), (f"{name}{_SUFFIX}", False)):
            content = self._sources.get(self._inner + path)
            if content is not None:
                file = os.path.join(self._place, *path.split("/"))
                loader = _Loader(fullname, file, content)
                within = [os.path.dirname(file)] if is_package else None
                return spec_from_file_location(
                    fullname, file, loader=loader, submodule_search_locations=within
                )
        on_disk = self._on_disk.find_spec(fullname, target)
        # A module of the folder that was not there when the version was loaded is not its own.
        is_new = on_disk is not None and is_kept(self._inner + os.path.basename(on_disk.origin or ""))
        return None if is_new else on_disk

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """See pkgutil."""
        for path in self._sources:
            first, _, rest = path.removeprefix(self._inner).partition("/")
            if (
                path.startswith(self._inner)
                and rest in ("", f"__init__{_SUFFIX}")
                and first != f"__init__{_SUFFIX}"
            ):
                yield prefix + first.removesuffix(_SUFFIX), bool(rest)

    def invalidate_caches(self) -> None:
        """See importlib."""
        self._on_disk.invalidate_caches()
