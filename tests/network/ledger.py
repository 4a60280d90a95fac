"""What every test of this folder asks of a run: each request answered right and once, or refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.chaos import campaign
from tests.chaos.campaign import Account
from tests.chaos.hosts import HostsStack

Strike = Callable[[HostsStack], None]

RATE: Final = 30


def proved(fault: str, strike: Strike, stack: HostsStack, folder: Path, *, strikes: int = 1) -> Account:
    """Strike under load, and prove the ledger."""
    account = campaign.strike_under_load(
        fault, strike, stack, strikes=strikes, rate=RATE, seed=1, folder=folder, pictures=4000
    )
    assert account.wrong == []
    assert account.lost == {}
    assert account.cut == 0
    assert account.keys_left == set()
    assert account.right + account.refused == account.requests
    return account
