"""The file of JSON lines: what it has already, and what a killed command left of a line.

Owns the form of a line: the picture's path as `file`, then the service's answer.
"""

import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

import msgspec

from clients.client import PictureReply
from clients.errors import BatchwireError

_BEGINNING: Final = b'{"file":'


class NotAnswers(Exception):
    """The file has something else in it, and stays as it is."""


class _Line(msgspec.Struct):
    """What is read of a line again."""

    file: str
    success: bool
    model: str = ""


def name(path: str) -> str:
    """A path as JSON can have it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def line(path: str, reply: PictureReply) -> bytes:
    """The line of a reply, with its line end."""
    body: dict[str, Any] = {"file": name(path)}
    if reply.answer is not None:
        body |= reply.answer.raw
    elif isinstance(reply.error, BatchwireError):
        detail = {"code": reply.error.code, "message": reply.error.message}
        body |= {"success": False, "error": detail, "request_id": reply.error.request_id}
    elif reply.error is not None:
        reason = reply.error.strerror or str(reply.error)
        body |= {"success": False, "error": {"code": "unreadable_file", "message": reason}}
    return msgspec.json.encode(body) + b"\n"


def resume(path: Path, names: Container[str], model: str | None) -> set[str]:
    """The names that a file has answers for, of this model (None: of any).

    An unfinished last line is cut off, and the failures of `names` are removed: they are asked again.
    Raises NotAnswers, and OSError.
    """
    if not path.exists() or not path.is_file():
        return set()  # a pipe or a terminal has nothing to go on from
    answered, failures, complete = set(), 0, 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            read = _read(path, number, text)
            if read is None:
                break
            complete += len(text)
            if read.success and model in (None, "", read.model):
                answered.add(read.file)
            failures += not read.success and read.file in names
    if failures:
        _rewrite(path, names, complete)
    elif complete < path.stat().st_size:
        os.truncate(path, complete)
    return answered


def _read(path: Path, number: int, text: bytes) -> _Line | None:
    """A line; None for the unfinished last one."""
    if not text.endswith(b"\n") and (text.startswith(_BEGINNING) or _BEGINNING.startswith(text)):
        return None
    try:
        return msgspec.json.decode(text, type=_Line)
    except msgspec.DecodeError as error:
        raise NotAnswers(f"{path} is not a file of answers: see its line {number}.") from error


def _rewrite(path: Path, names: Container[str], complete: int) -> None:
    """Remove failures, so that a kill at any moment leaves the file as it was or as it will be."""
    target = path.resolve()
    beside = target.with_name(f"{target.name}.part")
    with target.open("rb") as old, beside.open("wb") as new:
        while old.tell() < complete:
            text = old.readline()
            read = msgspec.json.decode(text, type=_Line)
            if read.success or read.file not in names:
                new.write(text)
    shutil.copymode(target, beside)
    os.replace(beside, target)
