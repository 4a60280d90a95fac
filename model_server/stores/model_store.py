"""The models of a store, followed: a look every so often, a download of what changed, a local folder.

Owns the thread that does so, and what is said of a store that is away. What serves is untouched by it: a
model server watches the local folder's link, and takes a new version up as it does any changed folder.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from model_server.catalogue.folder_watch import QUIET_S
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_spec
from model_server.stores import object_store
from model_server.stores.archive_store import ArchiveStore
from model_server.stores.object_store import ObjectStore
from model_server.stores.remote_files import Interrupted, ModelSource, StoreError
from model_server.stores.version_folders import VersionFolders

_LOG = logging.getLogger(__name__)

_FOLDER: Final = "stores"
"""In CACHE_DIR."""

_ARCHIVES: Final = ("https", "http")

_MOST_LOOKS: Final = 30
"""While it changes, before it is left for the next round: a minute."""

_RETRY_S: Final = 5.0
"""Seconds to the next look where a model has no version at all."""

Tell = Callable[[str, str], None]
"""Called with a model's name, and why it has no version yet, or no newer one."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store is followed."""

    url: str
    cache: Path
    """CACHE_DIR."""
    look_s: float
    """Seconds from one look to the next."""
    most_mb: int
    """The largest size of a model, or of an archive, in megabytes (2^20 bytes)."""


def require(url: str) -> None:
    """Raise StoreError where the package that reads such a store is missing."""
    scheme = urlsplit(url).scheme
    if scheme in object_store.PACKAGES:
        object_store.require(scheme)


class ModelStore:
    """Follows these models from `start` until `stop`. The public methods may be called by any thread."""

    def __init__(self, options: StoreOptions, models: Sequence[str]) -> None:
        """Makes the local folder. Raises StoreError where it can't be written."""
        self._models = tuple(models)
        self._look_s = options.look_s
        folder = options.cache / _FOLDER / _name(options.url)
        try:
            self._folders = VersionFolders(folder)
        except OSError as error:
            raise StoreError(
                f"Models of a store are kept in CACHE_DIR, which can't be written ({error}). Set CACHE_DIR "
                "to a writable directory."
            ) from None
        self._source = _source(options, self._folders, is_only=len(self._models) == 1)
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._reasons: dict[str, str] = {}
        self._tell: Tell | None = None
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="model-store", daemon=True)

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing new. A download under way ends with the process."""
        self._stopping.set()

    def is_ready(self) -> bool:
        """Whether every model has a version, or the first look at all of them is over."""
        return self._looked.is_set() or all(self._folders.link(model).is_dir() for model in self._models)

    def link(self, model: str) -> Path:
        """What leads to the model's latest version: the folder to watch."""
        return self._folders.link(model)

    def reason(self, model: str) -> str:
        """Why the model has no version, as clients may read it."""
        return self._reasons.get(model) or f"{model}: it is being downloaded from the model store."

    def tell(self, tell: Tell) -> None:
        """Call this for every model now, and at every look that fails."""
        with self._changing:
            self._tell = tell
            for model in self._models:
                tell(model, self.reason(model))

    def read(self, model: str, weights: Mapping[str, str]) -> ModelSpec:
        """The latest version, which stays on disk while the spec or a copy lives. Raises CatalogueError."""
        try:
            version = self._folders.use(model)
        except OSError as error:
            raise CatalogueError(f"{model}: its copy in CACHE_DIR can't be read ({error}).") from None
        if version is None:
            raise CatalogueError(self.reason(model))
        try:
            spec = read_spec(version.folder.parent, model, weights)
        except CatalogueError as error:
            # The path of the copy tells nobody anything.
            raise CatalogueError(str(error).replace(f"{version.folder.parent.parent}/", "")) from None
        return replace(spec, in_use=version)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for model in self._models:
                try:
                    self._follow(model)
                    self._answered(model)
                except StoreError as error:
                    self._failed(model, str(error), error.detail)
                except OSError as error:
                    self._failed(model, "Its copy can't be written to the model server's disk.", str(error))
                except Interrupted:
                    return
                except Exception:  # noqa: BLE001 - a thread that dies quietly would never see a change again
                    _LOG.exception("%s: the look at the model store failed; it goes on. This is a bug", model)
            self._looked.set()
            self._source.end_round()
            try:
                self._folders.prune()
            except OSError as error:
                _LOG.warning("old versions of the store's models can't be deleted: %s", error)
            has_all = all(self._folders.link(model).is_dir() for model in self._models)
            self._stopping.wait(self._look_s if has_all else min(self._look_s, _RETRY_S))

    def _follow(self, model: str) -> None:
        """Bring the model's latest version here. Raises StoreError, OSError or Interrupted."""
        stamp = self._source.look(model)
        known = self._folders.stamp(model)
        for _ in range(_MOST_LOOKS):
            if stamp == known:
                return
            if (
                known and not self._source.is_whole
            ):  # an upload may be under way: until it is over, the version that serves is better
                if self._stopping.wait(QUIET_S):
                    raise Interrupted
                self._source.end_round()
                again = self._source.look(model)
                if again != stamp:
                    stamp = again
                    continue
            if self._bring(model, stamp):
                return
            self._source.end_round()
            stamp = self._source.look(model)
        raise StoreError(f"{model}: it keeps changing in the store. It is tried again.")

    def _bring(self, model: str, stamp: str) -> bool:
        """Download what has this stamp; False: it has another by now."""
        with self._folders.downloading(model, self._stopping.wait) as folder:
            if self._folders.stamp(model) == stamp:  # another process has been faster
                return True
            began = time.monotonic()
            self._source.fetch(model, folder)
            if self._source.look(model) != stamp:
                return False
            self._folders.keep(model, folder, stamp)
        _LOG.info("%s: downloaded from the model store in %.1f s", model, time.monotonic() - began)
        return True

    def _failed(self, model: str, reason: str, detail: str) -> None:
        """Say so, once an outage: to the log, and to those who ask for a model that has no version."""
        text = reason if reason.startswith(f"{model}: ") else f"{model}: {reason[0].lower()}{reason[1:]}"
        text = f"{text} It is tried again."
        is_known = any(each.partition(": ")[2] == text.partition(": ")[2] for each in self._reasons.values())
        if not is_known:
            has_one = self._folders.link(model).is_dir()
            serves_on = " The version that is here serves on." if has_one else ""
            _LOG.warning("%s%s%s", text, serves_on, f" ({detail})" if detail else "")
        self._say(model, text)

    def _answered(self, model: str) -> None:
        if self._reasons.get(model):
            _LOG.info("%s: the model store gives it again", model)
        self._say(model, "")

    def _say(self, model: str, reason: str) -> None:
        with self._changing:
            self._reasons[model] = reason
            if self._tell is not None and reason:
                self._tell(model, reason)


def _source(options: StoreOptions, folders: VersionFolders, *, is_only: bool) -> ModelSource:
    scheme, _, place = options.url.partition("://")
    if scheme in _ARCHIVES:
        return ArchiveStore(options.url, folders.incoming, most_mb=options.most_mb, is_only=is_only)
    return ObjectStore(scheme, place, most_mb=options.most_mb, is_only=is_only)


def _name(url: str) -> str:
    """The name of a store's folder. A signed URL is another every day: what is signed counts, not how."""
    parts = urlsplit(url)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]
