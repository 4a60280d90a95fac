"""One thread for each program of the suite; one process of PyTorch for all exports."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.openvino import conversion, importing
from tests.importers.exporting import Export, Exporter, ExportOnce, once


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """PyTorch's threads spin while they wait, for each other and for whatever else runs: half of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def converts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process: a child process loads OpenVINO each time. Model servers have their own."""

    def in_this_process(spec: ModelSpec, width: str, folder: Path) -> None:
        importing.write(spec, folder, half=width == "half", in_int8=width == "int8")

    monkeypatch.setattr(conversion, "_run_child", in_this_process)


@pytest.fixture(scope="session")
def export() -> Iterator[Export]:
    """Make an export of that kind into a folder."""
    exporter = Exporter()
    yield exporter.export
    exporter.close()


@pytest.fixture(scope="session")
def export_once(export: Export, tmp_path_factory: pytest.TempPathFactory) -> ExportOnce:
    """A folder with an export of that kind, to be read: made once for all processes of the tests.

    `prepare` puts into the folder what the kind needs.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"

    def export_once(kind: str, prepare: Callable[[Path], None] = lambda _: None) -> Path:
        def make(folder: Path) -> None:
            prepare(folder)
            export(kind, folder)

        return once(shared / kind, make)

    return export_once
