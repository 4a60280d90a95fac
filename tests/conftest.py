"""Fixtures for all tests: a private Redis of our own, and an environment without the user's settings."""

import contextlib
import dataclasses
import functools
import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Iterator

import pytest
import redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from broker.connection import connect
from broker.keys import Keys
from settings import Settings, weights
from tests.support import ROOT, keras_fork, leftovers, program_fork, real_data
from tests.support.redis_cluster import Lender, running_any, running_stepping
from tests.support.redis_server import RedisServer, faketime_library

# As it is imported, jsonschema would build 38 parsers, in two seconds, for IRIs, which no schema here has.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment] # the documented way to block an import

_HEALTH_DIR = "HEALTH_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Remove what runs that were killed have left, once a run: pytest-xdist's processes belong to one."""
    if not hasattr(config, "workerinput"):
        leftovers.remove()
        leftovers.mark()
        # The checkout's own is for what serves from it: a test's model servers may well be unwell.
        os.environ[_HEALTH_DIR] = str(leftovers.folder())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder that all processes of the run shared."""
    if not hasattr(config, "workerinput") and _HEALTH_DIR in os.environ:
        shutil.rmtree(os.environ.pop(_HEALTH_DIR), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector of garbage from what is collected here: all of it lives until the end.

    It would go through a million objects again and again, a second of each process, to free none of them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side the slow tests begin first: a minute of one process would else be left at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end of the run how many tests did not run for want of data."""
    skips: list[pytest.TestReport] = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]) for report in skips if isinstance(report.longrepr, tuple))
    for reason, tests in reasons.items():
        if real_data.VARIABLE in reason:
            terminalreporter.write_line(
                f"NOT RUN ({tests}): {reason.removeprefix('Skipped: ')} (tests/README.md)"
            )


class _ModulesThatShare(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each test to whichever process is free, but keeps a module whose tests share something in one."""

    def _split_scope(self, nodeid: str) -> str:
        module, _, _ = nodeid.partition("::")
        return module if _shares(module) else nodeid


@functools.cache
def _shares(module: str) -> bool:
    # A fixture, which would be made once a process; or the cores: a campaign of chaos sends at a fixed rate.
    return module.startswith("tests/chaos/") or 'scope="module"' in (ROOT / module).read_text("utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Say what `--dist loadscope` means here; under pytest 9.2 pytest-xdist 3.8 ignores `loadgroup`."""
    return _ModulesThatShare(config, log) if config.getoption("dist") == "loadscope" else None


def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Settings):
        if field.name.upper() != _HEALTH_DIR:
            monkeypatch.delenv(field.name.upper(), raising=False)
    for name in weights(Settings.from_env({})):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    _clean_environment(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _forks_end() -> Iterator[None]:
    yield
    keras_fork.close()
    program_fork.close()


@pytest.fixture(scope="session")
def _own_redis() -> Iterator[Lender]:
    with contextlib.closing(Lender(running_any)) as lender:
        yield lender


@pytest.fixture
def own_redis(_own_redis: Lender) -> Iterator[RedisServer]:
    """A server for this test alone, to be killed and restarted."""
    with _own_redis.lent() as server:
        yield server


@pytest.fixture(scope="session")
def _stepping_redis() -> Iterator[Lender]:
    library = faketime_library()
    if isinstance(library, str):
        pytest.skip(library)
    key = Keys("bw:").of("tiny").workers
    with contextlib.closing(Lender(lambda: running_stepping(library, key))) as lender:
        yield lender


@pytest.fixture
def stepping_redis(_stepping_redis: Lender) -> Iterator[RedisServer]:
    """A server for this test alone, whose clock can be stepped."""
    with _stepping_redis.lent() as server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[RedisServer]:
    with running_any() as server:
        yield server


@pytest.fixture
def redis_url(_shared_redis: RedisServer) -> Iterator[str]:
    """The URL of an empty Redis, shared by the tests one after the other."""
    yield _shared_redis.url
    with connect(_shared_redis.url, timeout_s=5) as client:
        client.flushall()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the empty Redis."""
    with connect(redis_url, timeout_s=5) as connection:
        yield connection


@pytest.fixture
def keys() -> Keys:
    """The keys that the tests use."""
    return Keys("bw:")
