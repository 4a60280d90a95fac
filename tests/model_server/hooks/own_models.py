"""Folders of models with code of their own, and engines of them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.engines.hooked import HookedEngine
from model_server.hooks import HookOptions

SIDE = 8

TOML = """task = "TASK"
[source]
kind = "python"
[input]
width = 8
height = 8
channels = 3
fit = "stretch"
normalise = "none"
"""

BRIGHTNESS = """
import numpy as np

def load():
    def predict(batch):
        bright = batch.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright, bright], axis=1)
    return predict
"""
"""Two classes: dark and bright."""


def bad_on(shades: dict[int, str]) -> str:
    """The same, but predict runs these statements if there is a picture of that even shade."""
    cases = "".join(f"        if {shade} in means: {does}\n" for shade, does in shades.items())
    return (
        "import ctypes, os, time\nimport numpy as np\n\ndef load():\n    def predict(batch):\n"
        f"        means = batch.mean(axis=(1, 2, 3))\n{cases}"
        "        return np.stack([1 - means / 255, means / 255], axis=1)\n    return predict\n"
    )


def write(folder: Path, code: str, *, task: str = "classification", limits: str = "") -> Path:
    """Write a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = 'labels = "labels.txt"\n' if task == "classification" else ""
    (folder / "labels.txt").write_text("dark\nbright\n")
    (folder / "model.toml").write_text(labels + TOML.replace("TASK", task))
    if limits:
        with (folder / "model.toml").open("a") as toml:
            toml.write(f"[hooks]\n{limits}")
    (folder / "hooks.py").write_text(code)
    return folder


def read(folder: Path) -> ModelSpec:
    """The model of a folder."""
    return read_model(folder.parent, folder.name)


def load(
    folder: Path, *, are_on: bool = True, environment: dict[str, str] | None = None
) -> tuple[ModelSpec, HookedEngine]:
    """The engine of a folder. Raises ModelUnavailable."""
    spec = read(folder)
    options = EngineOptions(8, folder.parent / "cache", hooks=HookOptions(are_on, environment or {}))
    engine = loading.load(spec, EngineChoice("python", "own"), options)
    assert isinstance(engine, HookedEngine)
    return spec, engine


def pictures(*values: int) -> NDArray[Any]:
    """Pictures of even grey."""
    return np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in values])
