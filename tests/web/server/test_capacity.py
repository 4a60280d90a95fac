"""How many processes and threads a machine gets, and how many cores it has for us."""

import resource
from pathlib import Path

import pytest

from settings import SettingError, Settings
from web.server import capacity
from web.server.capacity import RESERVED_THREADS, Capacity


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 2, 520), (2, 2, 520), (4, 4, 264), (12, 12, 128), (64, 16, 128)]
)
def test_the_size_follows_from_the_cores(cores: int, workers: int, threads: int) -> None:
    assert capacity.of(0, 0, cores=cores) == Capacity(workers, threads)


def test_what_the_settings_name_stands() -> None:
    assert capacity.of(3, 0, cores=8) == Capacity(3, 350)
    assert capacity.of(0, 20, cores=8) == Capacity(8, 20)
    assert Capacity(8, 20).requests == 20 - RESERVED_THREADS


@pytest.mark.parametrize("threads", ["1", "8", "2049", "-1"])
def test_too_few_threads_to_keep_some_for_health_checks_are_refused(threads: str) -> None:
    with pytest.raises(SettingError, match="0 or a whole number from 9 to 2048"):
        Settings.from_env({"WEB_THREADS": threads})


def _version_1(folder: Path, quota: str, period: str) -> None:
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8), ("odd", 8)],
)
def test_a_container_has_the_cores_that_it_may_use(limit: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert capacity.usable_cores(tmp_path) == cores


def test_control_groups_1(tmp_path: Path) -> None:
    assert capacity.usable_cores(tmp_path) == 8
    _version_1(tmp_path, "300000", "100000")
    assert capacity.usable_cores(tmp_path) == 3


def test_control_groups_1_without_a_limit(tmp_path: Path) -> None:
    _version_1(tmp_path, "-1", "100000")
    assert capacity.usable_cores(tmp_path) == 8


def test_as_many_files_as_are_needed_may_be_open() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        capacity.open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 8192), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
