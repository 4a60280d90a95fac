"""The environments that the contenders run in: one each, made on first use, never the project's own.

Owns var/bench/NAME and what is installed there: the pinned versions of requirements-NAME.txt.
"""

import subprocess
import sys
from pathlib import Path


class VenvUnavailable(Exception):
    """Something can't be had on this machine; the text says why. What needs it is skipped."""


def python_of(name: str, requirements: Path, folder: Path) -> str:
    """The Python of the environment `name`, made and filled where it is not there yet. Raises Unavailable."""
    environment = folder / name
    python = environment / "bin" / "python"
    done = environment / "installed.txt"
    wanted = requirements.read_text()
    if done.exists() and done.read_text() == wanted:
        return str(python)
    _run([sys.executable, "-m", "venv", "--clear", str(environment)], name)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    _run([str(python), *install], name)
    done.write_text(wanted)
    return str(python)


def network(python: str, folder: Path, root: Path) -> Path:
    """The network as OpenVINO's file, converted on first use. Raises Unavailable."""
    graph, file = folder / "network.pb", folder / "network.xml"
    if not file.exists():
        convert = ["-m", "benchmarks.serving.convert"]
        _run([sys.executable, *convert, "frozen", str(graph)], "the network's graph", root)
        part = folder / "part.xml"
        _run([python, *convert, "openvino", str(graph), str(part)], "the network", root)
        part.with_suffix(".bin").replace(file.with_suffix(".bin"))
        part.replace(file)
        graph.unlink()
    return file


def _run(command: list[str], what: str, root: Path | None = None) -> None:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise VenvUnavailable(f"{what} can't be made here: {told[-1] if told else done.returncode}")
