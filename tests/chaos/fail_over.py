"""Redis fails over to its replica, again and again: faults of a stack whose Redis is behind Sentinels.

Owns those faults, and the account of jobs whose clients poll, which a fail-over may lose.
"""

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx

from broker.connection import connect
from tests.chaos import campaign, numbers
from tests.chaos.campaign import Account
from tests.chaos.stack import ChaosStack
from tests.support import http
from tests.support.keys_left import keys_of_jobs
from tests.support.sentinels import SentinelService, running_sentinels
from tests.support.waiting import eventually

_PAUSE_S: Final = 0.05
"""Between two polled jobs while a fault strikes."""

_LAG_S: Final = 1.5
"""By so much the replica is behind when its primary dies, where it is behind."""


class PolledJobs(threading.Thread):
    """A client that submits polled jobs until it is ended, and then fetches each."""

    def __init__(self, url: str, numbers_left: Iterator[int], counts: collections.Counter[str]) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._numbers = numbers_left
        self._counts = counts
        self._places: dict[int, str] = {}
        self._ending = threading.Event()
        self.start()

    def run(self) -> None:
        """Submit; what is refused is not tried again."""
        while not self._ending.wait(_PAUSE_S):
            number = next(self._numbers)
            files = {"image": ("x.png", numbers.picture(number))}
            answer = http.post(
                f"{self._url}/predict", files=files, headers={"Prefer": "respond-async"}, timeout=20
            )
            if answer.status_code == 202:
                self._places[number] = self._url + answer.headers["Location"]
            else:
                self._counts["refused" if answer.status_code == 503 else f"http {answer.status_code}"] += 1

    def end(self) -> None:
        """Submit no more, and count what became of each job."""
        self._ending.set()
        self.join()
        for number, place in self._places.items():
            answer = self._ended(place)
            if answer.status_code == 200:
                label = answer.json()["predictions"][0]["label"]
                self._counts["kept" if label == str(number) else "wrong"] += 1
            else:
                self._counts[answer.json()["error"]["code"]] += 1

    def _ended(self, place: str) -> httpx.Response:
        until = time.monotonic() + 30
        while True:
            answer = http.get(place, timeout=20)
            if answer.status_code not in (202, 503) or time.monotonic() > until:
                return answer
            time.sleep(_PAUSE_S)


class FailOverStack(ChaosStack):
    """Two model servers and Gunicorn over a primary, a replica and three Sentinels."""

    def __init__(self, folder: Path, service: SentinelService, seed: int, *, replicas: int = 0) -> None:
        super().__init__(folder, service, seed)
        # Results outlive the fail-over: one that has expired is not one that was lost.
        self.environment |= {"REDIS_REPLICAS": str(replicas), "RESULT_TTL_S": "20"}
        self._service = service
        self._polled_numbers = itertools.count(numbers.COUNT - 1, -1)
        """The load tester's begin at the other end."""
        self.polled: collections.Counter[str] = collections.Counter()
        """What became of polled jobs that were submitted while a fault struck."""

    def keys(self) -> set[str]:
        """The names of all keys but those that are one for all jobs."""
        with connect(self._service.admin_url, timeout_s=5) as client:
            return keys_of_jobs(client)

    def primary_killed(self) -> None:
        """SIGKILL the primary; later it comes back as the replica."""
        with self._polled():
            before = self._service.primary()
            self._await_batch()
            before.stop()
            self._service.await_other_than(before)
            eventually(lambda: self.answers("/readyz"), within_s=30)
        before.start(replica_of=self._service.primary().port)
        eventually(self._service.is_complete, within_s=40)

    def primary_killed_ahead(self) -> None:
        """The same, of a primary whose replica has heard nothing for _LAG_S."""
        with self._polled():
            before = self._service.primary()
            (replica,) = [node for node in self._service.nodes if node is not before]
            assert replica.process is not None
            with before.client() as client:
                self._await_batch()
                client.acl_setuser("replica", enabled=False)
                client.client_kill_filter(_type="replica")
                time.sleep(_LAG_S)
            before.stop()
            self._service.await_other_than(before)
            eventually(lambda: self.answers("/readyz"), within_s=30)
        before.start(replica_of=self._service.primary().port)
        eventually(self._service.is_complete, within_s=40)

    def primary_demoted(self) -> None:
        """SENTINEL FAILOVER, as before work on a host."""
        with self._polled():
            before = self._service.primary()
            self._await_batch()
            self._service.fail_over()
        self._service.rejoin(before)
        eventually(self._service.is_complete, within_s=40)

    def primary_cut_off(self) -> None:
        """Cut the primary off its replica and the Sentinels, but not off the service; then it is back."""
        with self._polled():
            before = self._service.primary()
            self._await_batch()
            self._service.cut_off(before)
            self._service.await_other_than(before)
        self._service.rejoin(before)
        eventually(self._service.is_complete, within_s=40)

    @contextlib.contextmanager
    def _polled(self) -> Iterator[None]:
        jobs = PolledJobs(self.url, self._polled_numbers, self.polled)
        time.sleep(0.5)
        try:
            yield
            time.sleep(0.5)
        finally:
            jobs.end()


FAIL_OVERS: Final[dict[str, Callable[[FailOverStack], None]]] = {
    "Redis fails over to a replica": FailOverStack.primary_killed,
    "Redis fails over to a replica that is 1.5 s behind": FailOverStack.primary_killed_ahead,
    "Redis' primary is demoted by its Sentinels": FailOverStack.primary_demoted,
    "Redis' primary is cut off its Sentinels and replica": FailOverStack.primary_cut_off,
}


def run(
    fault: str,
    *,
    strikes: int,
    rate: float,
    seed: int,
    folder: Path,
    replicas: int = 0,
    pictures: int = numbers.COUNT,
) -> tuple[Account, collections.Counter[str]]:
    """The account of the load, and what became of the polled jobs."""
    with running_sentinels() as service:
        stack = FailOverStack(folder, service, seed, replicas=replicas)
        try:
            stack.begin()
            account = campaign.strike_under_load(
                fault,
                FAIL_OVERS[fault],
                stack,
                strikes=strikes,
                rate=rate,
                seed=seed,
                folder=folder,
                pictures=pictures,
            )
        finally:
            stack.stop()
    return account, stack.polled
