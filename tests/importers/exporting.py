"""Runs exports.py by the Python of var/importers, and what tests share once a session.

PyTorch and its exporter to ONNX take seconds of a core to load: one process makes all of their exports.
Each of PaddlePaddle's has a process of its own: which format it writes is decided when it is loaded.
"""

import fcntl
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.importers.joined import PYTHON
from tests.support import ROOT

Export = Callable[[str, Path], None]
ExportOnce = Callable[..., Path]
"""The fixtures of conftest.py."""

EXPORTS: Final = ROOT / "tests" / "importers" / "exports.py"


class Exporter:
    """The process of PyTorch, from its first export on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until `close`

    def export(self, kind: str, folder: Path) -> None:
        """Make the export into the folder; fail with what the process says."""
        if kind.startswith("paddle"):
            done = subprocess.run(
                [str(PYTHON), str(EXPORTS)],
                input=_asked(kind, folder),
                capture_output=True,
                text=True,
                check=False,
            )
            wrong, said = done.stdout, done.stderr
        else:
            wrong, said = self._ask(kind, folder), ""
        assert wrong, f"{kind}: the process has ended. {said or self._said()}"
        assert not json.loads(wrong), f"{kind}: {json.loads(wrong)}"

    def _ask(self, kind: str, folder: Path) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [str(PYTHON), str(EXPORTS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_asked(kind, folder))
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._log.close()


def _asked(kind: str, folder: Path) -> str:
    return json.dumps([kind, str(folder)]) + "\n"


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which whichever process of the tests comes first makes; the others wait for it."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            begun = Path(tempfile.mkdtemp(dir=folder.parent))
            make(begun)
            begun.rename(folder)
    return folder
