"""Hosts whose clocks are hours apart, and a Redis that is far away."""

import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.chaos.hosts import WEB, WRONG_BY_S, HostsStack
from tests.network.ledger import proved
from tests.support import http

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]


def test_clocks_that_are_hours_apart_change_nothing(distant_stack: HostsStack, tmp_path: Path) -> None:
    shown = [http.get(f"{url}/healthz").headers["Date"] for url in distant_stack.urls]
    first, second = (parsedate_to_datetime(each).timestamp() for each in shown)
    assert first - second == pytest.approx(WRONG_BY_S[WEB[0]] - WRONG_BY_S[WEB[1]], abs=60)
    account = proved("clocks", lambda _: time.sleep(3), distant_stack, tmp_path)
    assert (account.refused, account.executed_again) == (0, 0)


def test_redis_is_a_tenth_of_a_second_away(distant_stack: HostsStack, tmp_path: Path) -> None:
    def stretch(stack: HostsStack) -> None:
        stack.network.delay(0.1)
        time.sleep(5)
        stack.network.mend()

    account = proved("delay", stretch, distant_stack, tmp_path)
    assert (account.refused, account.executed_again) == (0, 0)
