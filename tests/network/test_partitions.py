"""Hosts that hear nothing of each other, in one direction and in both, and a network that loses packets."""

import time
from pathlib import Path

import pytest

from tests.chaos.hosts import HOSTS, MODEL_SERVERS, PARTITIONS, WEB, HostsStack
from tests.network.ledger import Strike, proved

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

WAYS = 3
"""Both, and each alone: a strike of each."""

BACK = "Redis is back, after "

WITHOUT_REDIS: dict[Strike, tuple[str, ...]] = {
    HostsStack.model_server_cut_off: MODEL_SERVERS[:1],
    HostsStack.web_cut_off: WEB[:1],
    HostsStack.clients_cut_off: (),
    HostsStack.redis_cut_off: HOSTS[1:],
}
"""Whose logs say so."""

REFUSES: set[Strike] = {HostsStack.web_cut_off, HostsStack.redis_cut_off}
"""A web host without Redis can accept nothing. Nothing else costs a request more than time."""


@pytest.mark.parametrize("fault", PARTITIONS)
def test_a_partition_loses_nothing(fault: str, cut_stack: HostsStack, tmp_path: Path) -> None:
    strike = PARTITIONS[fault]
    before = {host: len(cut_stack.log(host)) for host in HOSTS[1:]}
    account = proved(fault, strike, cut_stack, tmp_path, strikes=WAYS)
    assert (account.refused > 0) == (strike in REFUSES)
    assert account.most_executions <= 1 + WAYS
    logs = {host: cut_stack.log(host)[before[host] :] for host in HOSTS[1:]}
    # On a busy machine others may miss a renewal, too.
    assert {host for host, text in logs.items() if BACK in text} >= set(WITHOUT_REDIS[strike])


def test_five_of_a_hundred_packets_are_lost(cut_stack: HostsStack, tmp_path: Path) -> None:
    def lose(stack: HostsStack) -> None:
        stack.network.lose(5)
        time.sleep(5)
        stack.network.mend()

    account = proved("loss", lose, cut_stack, tmp_path)
    # Three losses of one command in a row outlast the broker's time-out.
    assert account.refused < account.requests / 10
