"""An archive that unpacks to what no network has is refused before it is read, on each way to load one."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue import archives
from model_server.catalogue.model_spec import KerasFile
from model_server.catalogue.model_toml import TorchScript
from model_server.engines.keras import sources as keras_sources
from model_server.engines.torch import sources as torch_sources
from tests.support import fakes


def _archive(path: Path, megabytes: int) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("model.weights.h5", "w") as part,
    ):
        for _ in range(megabytes):
            part.write(b"\0" * 1_000_000)
    return path


@pytest.mark.slow
def test_a_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = _archive(tmp_path / "bomb.keras", 90)
    said = r"unpacks to 90 MB, \d\d\d times its size"
    with pytest.raises(ModelUnavailable, match=rf"bomb\.keras {said}"):
        keras_sources._file(fakes.spec(tmp_path), KerasFile(path.name), path)
    path.rename(tmp_path / "bomb.pt")
    with pytest.raises(ModelUnavailable, match=rf"bomb\.pt {said}"):
        torch_sources.find(replace(fakes.spec(tmp_path), source=TorchScript("bomb.pt")))


def test_what_is_small_or_no_archive_is_none(tmp_path: Path) -> None:
    assert archives.problem(_archive(tmp_path / "small.keras", 3)) == ""
    (tmp_path / "none").write_bytes(b"PK\x03\x04 none")
    assert archives.problem(tmp_path / "none") == ""
    assert archives.problem(tmp_path / "absent") == ""
