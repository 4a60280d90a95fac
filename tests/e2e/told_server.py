"""`python -m tests.e2e.told_server`: a model server whose networks do what a file in their folder says.

Everything but the networks is the product's own process. A network tells the shade of an even grey picture
and adds its mark, so that an answer shows which version gave it. network.json may say: mark, delay_s (of a
call), raises (each call does), fails (to load, with this reason), hangs (on this shade).
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.commands import serve as server
from model_server.engines import loading
from model_server.engines.engine import OutputNames, Outputs


class Told:
    """The network: one class a shade."""

    name = "told"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, spec: ModelSpec) -> None:
        self._shape = spec.input.shape
        self._told: dict[str, Any] = json.loads((spec.folder / "network.json").read_text())
        if self._told.get("fails"):
            raise ModelUnavailable(f"{spec.name}: {self._told['fails']}")

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        assert batch.shape[1:] == self._shape
        shades = batch[:, 0, 0, 0]
        time.sleep(self._told.get("delay_s", 0))
        if self._told.get("raises"):
            raise RuntimeError("told to raise")
        if self._told.get("hangs") in shades:
            threading.Event().wait()
        return (np.eye(256, dtype=np.float32)[(shades.astype(int) + self._told["mark"]) % 256],)


def _load(spec: ModelSpec, *_: object) -> Told:
    return Told(spec)


def write(folder: Path, *, side: int = 8, fit: str = "stretch", **told: object) -> None:
    """Make or replace a model's folder for such a network, file by file, each by renaming."""
    folder.mkdir(parents=True, exist_ok=True)
    shades = Path(__file__).parent / "models" / "shades"
    toml = (shades / "model.toml").read_text().replace("= 8", f"= {side}").replace('"stretch"', f'"{fit}"')
    contents = {
        "labels.csv": (shades / "labels.csv").read_text(),
        "model.toml": toml,
        "network.json": json.dumps({"mark": 0, **told}),
    }
    for name, text in contents.items():
        if not (folder / name).is_file() or (folder / name).read_text() != text:
            (folder / f"{name}.tmp").write_text(text)
            (folder / f"{name}.tmp").rename(folder / name)


if __name__ == "__main__":
    loading.load = _load  # type: ignore[assignment]
    sys.exit(server.main())
