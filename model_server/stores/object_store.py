"""Models in an object store or on the Hugging Face Hub, read by fsspec: s3://, gs:// and hf://.

Owns the listing and the download of objects, which package each scheme needs, and what its errors mean.
Credentials are the libraries' own matter: nothing here reads or logs one. fsspec is imported on first use.
"""

import importlib
import importlib.util
import logging
import re
from pathlib import Path
from typing import Any, ClassVar, Final

from broker.errors import first_line
from model_server.stores.remote_files import (
    RemoteFile,
    StoreError,
    below,
    check_bounds,
    check_tree,
    checked_path,
    missing,
    served,
    stamp_of,
)

PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""Scheme -> the package that reads it, which nothing else needs."""

_CLASSES: Final = {
    "s3": ("s3fs", "S3FileSystem"),
    # Not gcsfs.GCSFileSystem, which asks for a bucket's type by gRPC, for a minute where only HTTP answers.
    "gs": ("gcsfs.core", "GCSFileSystem"),
    "hf": ("huggingface_hub", "HfFileSystem"),
}
"""Scheme -> the module and the class of its fsspec file system."""

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    # Its own retries, of which there are five, come on top.
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}},
    "gs": {"timeout": 30},
    "hf": {},
}

_TALKATIVE: Final = (
    *("aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "fsspec", "gcsfs", "google", "hf_xet"),
    *("httpcore", "httpx", "httpcore2", "httpx2", "huggingface_hub", "requests", "s3fs", "urllib3"),
)
"""Loggers that tell headers, and so tokens, at the level `debug`."""

_STAMPS: Final = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "blob_id",
    "last_modified",
    "LastModified",
    "mtime",
)
"""What of an object's description changes with its content, in the order of preference."""

_REFUSED: Final = re.compile(
    r"Permission|Credential|Unauthorized|Forbidden|AccessDenied|Token|Gated|RefreshError|Signature|AccessKey"
)
_REFUSALS: Final = (401, 403)

_SECRETS: Final = re.compile(
    r"(?i)(?<=://)[^/@\s]+@|(?<=\?)[^\s'\"]+|\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\bhf_\w+|\bya29\.[\w.-]+"
    r"|((?:secret|token|password|signature|authorization|credential|access.?key)[\w ]*[=:] *)\S+"
)


def require(scheme: str) -> None:
    """Raise StoreError where the scheme's package is not installed."""
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise StoreError(
            f"MODELS_DIR={scheme}://... needs the Python package {package!r}, which is not installed. "
            f"Install it: .venv/bin/python -m pip install -r model_server/requirements-{scheme}.txt"
        )


def without_secrets(error: Exception) -> str:
    """What a library's error says, in a line, without what could be a credential."""
    line = f"{type(error).__name__}: {first_line(error)}"
    return _SECRETS.sub(lambda found: f"{found[1] or ''}***", line)


class ObjectStore:
    """The models below one address. For one thread."""

    is_whole: ClassVar = False

    def __init__(self, scheme: str, place: str, *, most_mb: int, is_only: bool) -> None:
        """`place` is what follows `SCHEME://`; `is_only`: it may be the model itself, and no folder of it."""
        self._scheme = scheme
        self._place = place.strip("/")
        self._most_mb = most_mb
        self._is_only = is_only
        self._files: Any = None
        """The fsspec file system; None until it is used, and after an error: its credentials may be new."""

    def look(self, model: str) -> str:
        """The hash of the listing. Raises StoreError."""
        return stamp_of(self._list(model))

    def fetch(self, model: str, folder: Path) -> None:
        """Download, file by file and in blocks. Raises StoreError, or OSError of the local disk."""
        for file in self._list(model):
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()  # an error of the disk is one, and no outage of the store
            try:
                self._connected().get_file(file.key, str(target))
            except Exception as error:  # noqa: BLE001 - each library has errors of its own
                raise self._failed(model, error) from None
            if target.stat().st_size != file.bytes:
                raise StoreError(f"{model}: a file changed in the store while it was downloaded.")

    def end_round(self) -> None:
        """Nothing is kept."""

    def _list(self, model: str) -> list[RemoteFile]:
        files = self._found(model, f"{self._place}/{model}", f"{model}/")
        if not files and self._is_only:
            files = self._found(model, self._place, "")
        prefix = below(model, [file.path for file in files], is_only=self._is_only)
        own = served(
            RemoteFile(file.path.removeprefix(prefix), file.bytes, file.stamp, file.key)
            for file in files
            if file.path.startswith(prefix)
        )
        check_bounds((file.bytes for file in own), self._most_mb)
        check_tree([checked_path(file.path) for file in own])
        return own

    def _found(self, model: str, place: str, prefix: str) -> list[RemoteFile]:
        """Every file below a place, named from `prefix` on."""
        try:
            system = self._connected()
            system.invalidate_cache()
            found: dict[str, dict[str, Any]] = system.find(place, detail=True)
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            if _is_missing(error):
                return []
            raise self._failed(model, error) from None
        check_bounds((0 for _ in found), self._most_mb)
        # The Hub's names have the revision or not, as it likes: what follows is the same.
        start = len(_common(list(found), place)) + 1
        return [
            RemoteFile(prefix + key[start:], int(about.get("size") or 0), _stamp(about), key)
            for key, about in found.items()
            if about.get("type") == "file" and not key.endswith("/")
        ]

    def _connected(self) -> Any:  # noqa: ANN401 - fsspec has no types
        if self._files is None:
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            module, name = _CLASSES[self._scheme]
            kind = getattr(importlib.import_module(module), name)
            options = _OPTIONS[self._scheme]
            self._files = kind(skip_instance_cache=True, use_listings_cache=False, **options)
        return self._files

    def _failed(self, model: str, error: Exception) -> StoreError:
        """What an error of the library means. The next call connects anew: credentials may be new then."""
        self._files = None
        status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
        detail = without_secrets(error)
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        if _is_missing(error):
            return missing(model)
        if _REFUSED.search(kinds) or status in _REFUSALS:
            return StoreError(
                "The model store refuses access: its credentials are missing, wrong or expired.", detail
            )
        return StoreError("The model store can't be reached, or does not answer as it should.", detail)


def _is_missing(error: Exception) -> bool:
    """Whether nothing is there. The Hub's own errors for a folder or a revision are no FileNotFoundError."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return "ImportError" not in names and any(name.endswith("NotFoundError") for name in names)


def _common(keys: list[str], place: str) -> str:
    """The place as the listing spells it: that which all keys begin with."""
    if all(key.startswith(f"{place}/") for key in keys):
        return place
    depth = place.count("/") + 1
    return "/".join(keys[0].split("/")[:depth])


def _stamp(about: dict[str, Any]) -> str:
    return next((f"{name}={about[name]}" for name in _STAMPS if about.get(name)), "")
