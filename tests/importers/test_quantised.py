"""Networks of PaddlePaddle and of PyTorch in int8, by the command that users run.

In an environment with the product's packages, NNCF and PyTorch: PyTorch's networks need it to be read.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_server.catalogue.model_spec import read_model
from model_server.engines.openvino.engine import int8_ingredients
from model_server.engines.openvino.store import Store
from tests.importers import joined
from tests.importers.test_importers import LENET, digits
from tests.support import ROOT

__all__ = ["digits"]

pytestmark = [pytest.mark.importers, pytest.mark.timeout(300)]

OPTIONAL = ROOT / "var" / "optional" / "bin" / "python"

SCRIPT = """
import sys, torch
from torch import nn
torch.manual_seed(5)
network = nn.Sequential(
    *(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(400, 10), nn.Softmax(1)),
)
torch.jit.script(network.eval()).save(sys.argv[1])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with all of these packages."""
    return joined.environment(tmp_path_factory.mktemp("environment"), OPTIONAL)


@pytest.fixture
def quantised(python: Path, tmp_path: Path) -> Callable[[str], str]:
    """Quantise the model in `models/net` of that model.toml; what the command says."""

    def quantised(toml: str) -> str:
        folder = tmp_path / "models" / "net"
        (folder / "model.toml").write_text(toml)
        (folder / "labels.txt").write_text("\n".join("0123456789"))
        chance = np.random.default_rng(6)
        (tmp_path / "pictures").mkdir()
        for number in range(60):
            rough = Image.fromarray(chance.integers(0, 256, (5, 5), dtype=np.uint8))
            rough.resize((28, 28), Image.Resampling.BICUBIC).save(tmp_path / "pictures" / f"{number}.png")
        command = [str(python), "-m", "model_server", "quantise", "net", "--any-processor"]
        command += ["--pictures", str(tmp_path / "pictures"), "--least-agreement", "0.8"]
        paths = {"MODELS_DIR": str(tmp_path / "models"), "CACHE_DIR": str(tmp_path / "cache")}
        environment = paths | {"PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        spec = read_model(tmp_path / "models", "net")
        assert Store(tmp_path / "cache").find("net", int8_ingredients(spec)) is not None
        return done.stdout

    return quantised


def test_a_network_of_paddlepaddle(digits: Path, tmp_path: Path, quantised: Callable[[str], str]) -> None:
    shutil.copytree(digits / "lenet", tmp_path / "models" / "net" / "lenet")
    assert re.search(r"operations in int8 +[2-9]\n", quantised(LENET))


def test_a_network_of_pytorch(python: Path, tmp_path: Path, quantised: Callable[[str], str]) -> None:
    folder = tmp_path / "models" / "net"
    folder.mkdir(parents=True)
    subprocess.run([str(python), "-c", SCRIPT, str(folder / "net.pt")], cwd=ROOT, check=True)
    toml = LENET.replace('kind = "paddle"\nfile = "lenet"', 'kind = "torchscript"\nfile = "net.pt"')
    assert re.search(r"operations in int8 +[2-9]\n", quantised(toml))
