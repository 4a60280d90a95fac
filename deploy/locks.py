"""The locks: all that `make serve` and the images install, with the versions and the hashes of the files.

Owns which lock comes from which requirements, how they are made again (`make lock`), and their reading.
Versions are constraints.txt's to say. Installs nothing.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

LOCKS: Final[Mapping[str, str]] = {
    "requirements.lock": "requirements.txt",
    "web/requirements.lock": "web/requirements.txt",
    "model_server/requirements.lock": "model_server/requirements.txt",
}
"""Lock by lock, what it is made from: of `make serve`, and of the two images."""

OLDEST_PYTHON: Final = "3.11"

_HEADER: Final = "# Made by `make lock` from {source} and constraints.txt, for every platform.\n"
_PIN: Final = re.compile(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class LockedPackage:
    """A package of a lock. Its name is normalised, as in `typing-extensions`."""

    name: str
    version: str


def read(lock: Path) -> list[LockedPackage]:
    """The packages of a lock, those of other platforms too."""
    return [LockedPackage(*match) for match in _PIN.findall(lock.read_text("utf-8"))]


def make(lock: str, source: str) -> None:
    """Write a lock anew. Raises CalledProcessError where no such set of packages is to be had."""
    target = ROOT / lock
    command = [
        *(
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "--quiet",
            source,
            "--constraints",
            "constraints.txt",
        ),
        *("--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes", "--only-binary", ":all:"),
        *("--no-header", "--no-annotate", "--no-config", "--upgrade", "--output-file", lock),
    ]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - ours
    target.write_text(_HEADER.format(source=source) + target.read_text("utf-8"), "utf-8")


def main() -> int:
    """Make all locks again."""
    for lock, source in LOCKS.items():
        try:
            make(lock, source)
        except subprocess.CalledProcessError:
            sys.stderr.write(f"{lock} can't be made: see above.\n")
            return 1
        sys.stdout.write(f"{lock}: {len(read(ROOT / lock))} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
