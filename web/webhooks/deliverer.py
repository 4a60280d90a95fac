"""The threads of a web process that call receivers: which webhook when, how many at once, and when again.

Owns the schedule of attempts and the shares of receivers. A webhook lives in Redis (broker/webhooks.py): what
a process that dies had taken is taken by another once its lease is over: receivers are called at least once.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec
from msgspec import UNSET

from broker import codec
from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    InferenceFailed,
    MalformedMessage,
)
from broker.messages import Failure, Result
from broker.outage import Outage
from broker.webhooks import GRACE_S, DueWebhook, TakenWebhook, WebhookStore
from telemetry import logs
from web import answers, metrics, responses
from web.middleware import request_ids
from web.webhooks.attempt import AttemptFailed, ReceiverAnswer, ReceiverCaller
from web.webhooks.callback_hosts import CallbackHosts
from web.webhooks.signing import Signer

_LOG = logging.getLogger(__name__)

_PAGE: Final = 256
"""Webhooks that one look sees of each model."""

_PAGE_SHARE: Final = 64
"""Of a full page no more are for one receiver: the rest is put off for a moment, so that others are seen."""

_GONE: Final = 410

USER_AGENT: Final = "Batchwire-Webhooks"


@dataclass(frozen=True, slots=True)
class DeliverySchedule:
    """When receivers are called, and how many at once."""

    look_s: float = 1.0
    """Between looks at what is due."""
    at_once: int = 16
    """Calls of this process."""
    for_each_host: int = 4
    """Of these to one host: one that is slow leaves twelve to others."""
    attempt_s: float = 15.0
    """For an attempt, from the moment it is taken: resolving, connecting, sending and the answer's head."""
    lease_s: float = 25.0
    """Then another process takes it: longer than an attempt."""
    first_s: float = 1.0
    factor: float = 5.0
    most_s: float = 3600.0
    """Pauses after failed attempts: 1, 5, 25, 125, 625, 3,125 s, then an hour each."""
    last_s: float = 86_400.0
    """So long after its job's end a webhook is given up."""

    def pause_s(self, attempts: int, retry_after: str = "") -> float:
        """Seconds until the next attempt, after so many; longer, an hour at most, where the receiver says so.

        A quarter more or less, so that those which failed together do not come back together.
        """
        pause_s = min(self.most_s, self.first_s * self.factor ** min(attempts - 1, 32))
        pause_s *= random.uniform(0.75, 1.25)
        return max(pause_s, min(self.most_s, _seconds(retry_after)))


class Deliverer:
    """Calls the receivers of all models' webhooks. `start` it in a process that has forked."""

    def __init__(
        self,
        store: WebhookStore,
        hosts: CallbackHosts,
        signer: Signer,
        *,
        result_ttl_s: int,
        schedule: DeliverySchedule | None = None,
        make_caller: Callable[[CallbackHosts], ReceiverCaller] = ReceiverCaller,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._signer = signer
        self._result_ttl_s = result_ttl_s
        self._schedule = schedule or DeliverySchedule()
        self._make_caller = make_caller
        self._wall_clock = wall_clock
        self._outage = Outage("Webhooks wait")
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._waiting: list[DueWebhook] = []
        """Due when last looked; another process may have taken them since."""
        self._changing = threading.Lock()
        self._calls: dict[tuple[str, str], threading.Thread] = {}
        """By model and job."""
        self._hosts_called: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Start the thread that looks at what is due."""
        self._caller = self._make_caller(self._hosts)
        self._thread.start()

    def stop(self, *, within_s: float = 0.0) -> None:
        """Begin no more calls, and wait for those under way, so long at most. Others take over the rest."""
        self._stopping.set()
        self._woken.set()
        deadline = time.monotonic() + within_s
        with self._changing:
            threads = [self._thread, *self._calls.values()]
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        look_at, is_full = 0.0, False
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                if time.monotonic() >= look_at or (is_full and not self._waiting):
                    look_at = time.monotonic() + self._schedule.look_s
                    is_full = self._look()
                    self._outage.succeeded()
                self._waiting = [due for due in self._waiting if not self._begins(due)]
            except BrokerUnavailable as error:
                self._outage.failed(error)
            except Exception:  # noqa: BLE001 - a thread that dies quietly would leave all webhooks to others
                _LOG.exception("the webhooks' thread failed; it goes on. This is a bug")
            if not (is_full and not self._waiting):
                self._woken.wait(max(0.0, look_at - time.monotonic()))

    def _look(self) -> bool:
        """See what is due. Returns whether more may be due than it saw."""
        due = self._store.due(_PAGE)
        is_full = len(due) >= _PAGE
        counts: Counter[str] = Counter()
        waiting: list[DueWebhook] = []
        excess: list[DueWebhook] = []
        for each in due:
            host = self._host(each)
            counts[host] += 1
            (excess if is_full and counts[host] > _PAGE_SHARE else waiting).append(each)
        random.shuffle(waiting)  # or all processes would reach for the same ones
        self._waiting = waiting
        if excess:
            # Before others, these would hide them from every look.
            self._store.put_off(excess, by_s=lambda: random.uniform(1, 2) * self._schedule.look_s)
        return is_full

    def _begins(self, due: DueWebhook) -> bool:
        """Begin to deliver it in a thread, unless its receiver has its share of calls, or all are taken."""
        host = self._host(due)
        thread = threading.Thread(target=self._deliver, args=(due, host), name="webhook", daemon=True)
        with self._changing:
            if (due.model, due.job_id) in self._calls:
                return True  # it is seen again because its lease is over
            if len(self._calls) >= self._schedule.at_once:
                return False
            if self._hosts_called[host] >= self._schedule.for_each_host:
                return False
            self._hosts_called[host] += 1
            self._calls[due.model, due.job_id] = thread
        try:
            thread.start()
        except RuntimeError:  # the system has no room for a thread just now
            self._ended(due, host)
            raise
        return True

    def _ended(self, due: DueWebhook, host: str) -> None:
        """Give its place among the calls back."""
        with self._changing:
            del self._calls[due.model, due.job_id]
            self._hosts_called[host] -= 1
            if not self._hosts_called[host]:
                del self._hosts_called[host]

    def _host(self, due: DueWebhook) -> str:
        """Its receiver; empty for one that is not listed any more."""
        try:
            return self._hosts.target(due.webhook.url).origin
        except ClientError:
            return ""

    def _deliver(self, due: DueWebhook, host: str) -> None:
        try:
            until = time.monotonic() + self._schedule.attempt_s
            taken = self._store.take(due, lease_s=self._schedule.lease_s)
            if taken is None:
                pass  # another process was quicker
            elif taken.result is None:
                self._expire(taken)
            else:
                self._attempt(taken, taken.result, until=until)
        except BrokerUnavailable as error:
            self._outage.failed(error, due.model)
        except Exception:  # noqa: BLE001 - its lease ends, and it is tried again
            about = logs.about(job_id=due.job_id, model=due.model)
            _LOG.exception(
                "%s: the webhook of job %s failed. This is a bug", due.model, due.job_id, extra=about
            )
        else:
            self._outage.succeeded(due.model)
        finally:
            self._ended(due, host)
            self._woken.set()

    def _expire(self, taken: TakenWebhook) -> None:
        """Its job has not ended: past its deadline that is announced; before, Redis' clock has stepped."""
        left_s = self._store.left_s(taken)
        if left_s > 0:
            self._store.later(taken, in_s=left_s + GRACE_S, attempts=taken.webhook.attempts)
            return
        error = DeadlinePassed("The picture waited for a model server until its deadline.")
        failure = Failure(error.code, error.message)
        self._store.expire(taken.model, Result(taken.job_id, taken.model, "", error=failure))

    def _attempt(self, taken: TakenWebhook, result: bytes, *, until: float) -> None:
        request_ids.CURRENT.set(taken.webhook.request_id or request_ids.NONE)
        try:
            target = self._hosts.target(taken.webhook.url)
        except ClientError:
            self._failed(taken, "its receiver", "WEBHOOK_HOSTS lists it no more")
            return
        body = self._body(taken, result)
        headers = {
            **self._signer.headers(taken.job_id, body, at=self._wall_clock()),
            "Content-Type": responses.MIMETYPE,
            "User-Agent": USER_AGENT,
        }
        answer, reason = ReceiverAnswer(0), ""
        try:
            answer = self._caller.post(target, headers, body, until=until)
            reason = f"it answered {answer.status}"
        except AttemptFailed as error:
            reason = str(error)
        if 200 <= answer.status < 300:
            self._store.end(taken.model, taken.job_id)
            metrics.webhook(taken.model, "delivered")
            level = logging.INFO if taken.webhook.attempts else logging.DEBUG  # its failure was told, too
            about = logs.about(job_id=taken.job_id, model=taken.model)
            _LOG.log(
                level, "%s: job %s was announced to %s", taken.model, taken.job_id, target.origin, extra=about
            )
        elif answer.status == _GONE:
            self._give_up(taken, target.origin, reason)
        else:
            self._failed(taken, target.origin, reason, retry_after=answer.retry_after)

    def _failed(self, taken: TakenWebhook, origin: str, reason: str, *, retry_after: str = "") -> None:
        """Try again later, or give it up after a day."""
        attempts = taken.webhook.attempts + 1
        pause_s = self._schedule.pause_s(attempts, retry_after)
        if self._store.age_s(taken) + pause_s > self._schedule.last_s:
            self._give_up(taken, origin, f"{reason}, the last of {attempts} attempts")
            return
        self._store.later(taken, in_s=pause_s, attempts=attempts)
        metrics.webhook(taken.model, "failed")
        _LOG.log(
            logging.WARNING if attempts == 1 else logging.DEBUG,
            "%s: job %s can't be announced to %s yet: %s",
            *(taken.model, taken.job_id, origin, reason),
            extra=logs.about(job_id=taken.job_id, model=taken.model),
        )

    def _give_up(self, taken: TakenWebhook, origin: str, reason: str) -> None:
        if self._store.end(taken.model, taken.job_id):
            metrics.webhook(taken.model, "given_up")
            _LOG.error(
                "%s: job %s is not announced to %s: %s",
                *(taken.model, taken.job_id, origin, reason),
                extra=logs.about(job_id=taken.job_id, model=taken.model),
            )

    def _body(self, taken: TakenWebhook, payload: bytes) -> bytes:
        """What a poller gets, whole."""
        try:
            result = codec.decode(payload, Result)
        except MalformedMessage as error:
            _LOG.error(
                "%s: the result of job %s can't be read: %s",
                *(taken.model, taken.job_id, error.detail),
                extra=logs.about(job_id=taken.job_id, model=taken.model),
            )
            failure = Failure(InferenceFailed.code, "The model server's answer can't be read.")
            result = Result(taken.job_id, taken.model, "", error=failure)
        answer = answers.of(
            result,
            request_id=taken.webhook.request_id or UNSET,
            expires_at=responses.time_of(taken.ended_at + self._result_ttl_s),
        )
        return msgspec.json.encode(answer) + b"\n"


def _seconds(retry_after: str) -> float:
    """What Retry-After says (RFC 9110, section 10.2.3); 0 where it says nothing that can be read."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0
