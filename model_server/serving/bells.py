"""Waiting for bells that no one command can wait for: those of shards on different nodes of a cluster.

Owns a thread for each bell, which blocks on it only while the worker has nothing to do. A token that comes
when the worker has found something meanwhile is handed on, for another one that sleeps. Claims nothing.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from model_server.serving.registration import RECONNECT_S

_BLOCK_S: Final = 1.0
"""How long one command blocks at most: after it the thread looks whether it is still wanted."""


class Bells:
    """The bells of one worker. `wait` is one thread's."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._threads: dict[str, threading.Thread] = {}
        self._changing = threading.Condition()
        self._wanted: frozenset[str] = frozenset()
        """Those that the worker waits for; none: it has something to do."""
        self._rung: set[str] = set()
        self._is_closed = False

    def wait(self, consumers: Sequence[Consumer], timeout_s: float) -> set[str]:
        """Sleep until one of their bells rings, for so long at most; return those that rang."""
        for consumer in consumers:
            self._attend(consumer)
        with self._changing:
            self._wanted = frozenset(consumer.bell for consumer in consumers)
            self._changing.notify_all()
            self._changing.wait_for(lambda: self._rung, timeout_s)
            self._wanted = frozenset()
            rung, self._rung = self._rung, set()
        return rung

    def close(self) -> None:
        """End the threads, without waiting for those that block."""
        with self._changing:
            self._is_closed = True
            self._changing.notify_all()

    def _attend(self, consumer: Consumer) -> None:
        if consumer.bell not in self._threads:
            thread = threading.Thread(
                target=self._run, args=(consumer,), name=f"bell-{self._model}", daemon=True
            )
            self._threads[consumer.bell] = thread
            thread.start()

    def _run(self, consumer: Consumer) -> None:
        bell = consumer.bell
        while True:
            with self._changing:
                self._changing.wait_for(lambda: self._is_closed or bell in self._wanted)
                if self._is_closed:
                    return
            try:
                if consumer.ringing(_BLOCK_S) and not self._tell(bell):
                    consumer.ring()
            except BrokerUnavailable:  # its keeper tells, and a claim finds out
                time.sleep(RECONNECT_S)

    def _tell(self, bell: str) -> bool:
        """Wake the worker, if it waits for this bell; else return False."""
        with self._changing:
            if bell not in self._wanted:
                return False
            self._rung.add(bell)
            self._changing.notify_all()
            return True
