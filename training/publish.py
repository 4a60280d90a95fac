"""A trained network as a folder of models/ that is served: network, labels and model.toml.

Owns the files and how they come to be there: all at once. The folder is written beside its place and changes
places with what was there, so that a model server never sees half of it.
"""

import csv
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from model_server.engines.openvino.store import sync
from training.network_input import NetworkInput

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Both of linux/fcntl.h and linux/fs.h."""


class PublishError(OSError):
    """The model's folder can't be written; the message says why."""


def refuse_existing(folder: Path, *, replace: bool) -> None:
    """Raise PublishError if there is a model already, before hours are spent on another."""
    if folder.exists() and not replace:
        raise PublishError(f"{folder} exists already: --replace replaces it with the new model")


def refuse_unwritable(folder: Path, *, replace: bool) -> None:
    """Raise PublishError if the model could not be put there: tried with empty folders, which go again."""
    place = folder.parent
    while not place.exists():
        place = place.parent
    drafts: list[Path] = []
    try:
        for _ in range(2 if replace and folder.exists() else 1):
            drafts.append(Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=place)))
        if len(drafts) == 2:
            _exchange(*drafts, named=folder)
    except PublishError:
        raise
    except OSError as error:
        raise PublishError(f"{folder} can't be written ({error}): --models chooses another place") from error
    finally:
        for draft in drafts:
            draft.rmdir()


@contextmanager
def published(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A context: an empty folder to write the model into. At its end it is `folder`, whole, or nothing is.

    Raises PublishError.
    """
    refuse_existing(folder, replace=replace)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system, and hidden from those who look for models.
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise PublishError(f"{folder} can't be written ({error})") from error
    try:
        draft.chmod(0o755)  # mkdtemp's own would shut out another user's model server
        yield draft
        for path in [*draft.iterdir(), draft]:
            sync(path)
        if folder.exists():
            _exchange(draft, folder, named=folder)
        else:
            draft.rename(folder)
        sync(folder.parent)
    except PublishError:
        raise
    except OSError as error:  # such as a disk that is full
        raise PublishError(f"{folder} can't be written ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after an exchange: what was there before


def _exchange(one: Path, other: Path, *, named: Path) -> None:
    """Let two folders change places in one step, which Python's functions can't (Linux 3.15, glibc 2.28)."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if libc.renameat2(*names, _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise PublishError(code, f"{named} can't be replaced ({os.strerror(code)}): choose another --name")


def write_labels(folder: Path, classes: Sequence[str]) -> None:
    """Write labels.csv as the catalogue has it: the name of a class's folder is its id and its label."""
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("index", "class_id", "label"))
        rows.writerows((index, name, name) for index, name in enumerate(classes))


def write_model_toml(folder: Path, *, network: str, taken: NetworkInput, top: int, comment: str) -> None:
    """Write model.toml as the catalogue has it, for a network saved by Keras."""
    text = f"""# {comment}
task = "classification"
labels = "labels.csv"
top = {top}

[source]
kind = "keras_file"
file = "{network}"

{taken.toml()}"""
    (folder / "model.toml").write_text(text, "utf-8")
