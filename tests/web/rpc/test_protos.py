"""The messages' modules are what protoc makes of the .proto files beside them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDER = ROOT / "web" / "rpc" / "protos"


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_they_are_what_protoc_makes(tmp_path: Path) -> None:
    protos = sorted(each.name for each in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", *protos], cwd=FOLDER, check=True)
    made = {each.name: each.read_text("utf-8") for each in tmp_path.iterdir()}
    assert len(made) == 2 * len(protos) == 6
    assert made == {each.name: each.read_text("utf-8") for each in FOLDER.glob("*_pb2.py*")}


def test_the_published_one_has_its_licence() -> None:
    assert "Apache License, Version 2.0" in (FOLDER / "open_inference_grpc.proto").read_text("utf-8")[:200]
