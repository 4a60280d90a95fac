"""One environment with the product's packages and PyTorch's, as installing requirements-torch.txt makes it.

Those of var/importers come after the product's own, so that no version of those changes. Torchvision may be
of another build than PyTorch there, for GPUs and for CPUs: then its operators are declared beforehand.
"""

import functools
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support import ROOT

PYTHON = ROOT / "var" / "importers" / "bin" / "python"

_DECLARES = """import sys


class _BeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
                )
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
"""


def environment(folder: Path, *others: Path) -> Path:
    """Make the environment in `folder`; return its Python. It has the packages of `others`, Pythons, too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    own, *packages = (_packages(each) for each in (python, PYTHON, *others))
    (own / "both.pth").write_text("".join(f"{each}\n" for each in (sysconfig.get_path("purelib"), *packages)))
    if not _torchvision_fits():
        (own / "sitecustomize.py").write_text(_DECLARES)
    return python


@functools.cache
def _torchvision_fits() -> bool:
    """Whether it is of PyTorch's build. Loading both takes 3 s of CPU time."""
    done = subprocess.run([str(PYTHON), "-c", "import torchvision"], capture_output=True, check=False)
    return done.returncode == 0


def _packages(python: Path) -> Path:
    """The folder of an environment's packages."""
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
