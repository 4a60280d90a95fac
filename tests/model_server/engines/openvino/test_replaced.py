"""Files that are replaced while a child converts them: what it made is not kept under the old ones' name."""

import shutil
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines.openvino import conversion
from model_server.engines.openvino.store import Store
from settings import PROJECT


def test_what_a_child_made_of_other_files_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(PROJECT / "models" / "digits", tmp_path / "models" / "digits")
    weights = tmp_path / "models" / "digits" / "digits.keras"
    spec, store = read_model(tmp_path / "models", "digits"), Store(tmp_path / "kept")
    replacing, made = [True], []

    def child(_: ModelSpec, __: str, folder: Path) -> None:
        made.append(folder)
        (folder / "network.xml").write_text("the network")
        if replacing:
            weights.write_bytes(b"others")

    monkeypatch.setattr(conversion, "_run_child", child)
    first = weights.read_bytes()
    with pytest.raises(ModelUnavailable, match="changed while it was converted"):
        conversion.converted(spec, "full", store)
    replacing.clear()
    weights.write_bytes(first)
    conversion.converted(spec, "full", store)
    conversion.converted(spec, "full", store)
    assert len(made) == 2
