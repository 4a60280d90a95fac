"""Fixtures: the service on hosts of its own, or the reason why there can be none."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.chaos import hosts
from tests.chaos.hosts import HostsStack
from tests.support.network import Network, missing


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    if reason := missing():
        pytest.skip(reason)


@contextlib.contextmanager
def _running(
    folder: Path, *, lease_s: float, distant: str = "", wrong_by_s: Mapping[str, float] | None = None
) -> Iterator[HostsStack]:
    with Network(hosts.HOSTS, distant=distant) as network, hosts.redis_on(network) as redis:
        stack = HostsStack(folder, network, redis, seed=1, lease_s=lease_s, wrong_by_s=wrong_by_s)
        try:
            stack.begin()
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def cut_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStack]:
    """The service on its hosts, with short leases."""
    with _running(tmp_path_factory.mktemp("hosts"), lease_s=1) as stack:
        yield stack


@pytest.fixture(scope="module")
def distant_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStack]:
    """The service on hosts whose clocks disagree, with a Redis that can be far away."""
    folder = tmp_path_factory.mktemp("distant")
    with _running(folder, lease_s=3, distant=hosts.REDIS, wrong_by_s=hosts.WRONG_BY_S) as stack:
        yield stack
