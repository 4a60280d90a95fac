"""Redis behind Sentinels: which server is the primary now, and connections that follow it.

Owns `sentinel://` and `sentinels://` URLs, the choice among what several Sentinels say, and that no
connection stays with a server that is the primary no longer. Time-outs and bounds are connection.py's.
"""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from weakref import WeakSet, WeakValueDictionary

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, SentinelManagedConnection
from redis.utils import SENTINEL, str_if_bytes

from broker import addresses, tls
from broker.addresses import Address

_LOG = logging.getLogger(__name__)

SCHEMES: Final = ("sentinel", "sentinels")
"""The second is TLS, to the Sentinels and to Redis."""

LOOK_S: Final = 1.0
"""How often the Sentinels are asked while all is well: a primary that was cut off from them and its replicas
lives, and would go on taking jobs that nobody else will ever see."""

_AGAIN_S: Final = 0.1
"""New connections share an answer that is so young: hundreds are made in the moment of a fail-over."""

_TIMEOUT_S: Final = 0.3
"""For one Sentinel, of which three must fit into the second in which a request is to be refused."""

_SILENT_S: Final = 10.0
"""A Sentinel that did not answer is left out for so long, unless no other answers."""

_PORT: Final = 26379

_SERVICE: Final = re.compile(r"/(?P<name>[^/]+)(?:/(?P<db>\d*))?")


class NoPrimary(MasterNotFoundError):
    """The Sentinels name no primary that lives, or none of them answers; the words say which."""


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one Sentinel says. A higher epoch is a later fail-over."""

    epoch: int
    primary: Address
    is_down: bool


class PrimaryFinder:
    """Asks the Sentinels who is the primary; shared by the pools of a process. Safe to use from any thread.

    A Sentinel that is cut off names the old primary for ever, so all are asked, and the latest fail-over
    counts. While none answers, the last known primary stays the one: Redis may be well.
    """

    is_master = True
    check_connection = False

    def __init__(
        self,
        service_name: str,
        sentinels: Mapping[Address, redis.Redis],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service_name: Final = service_name
        self.known: Address | None = None
        """The primary, as far as it was heard; None: it never was."""
        self.pools: Final[WeakSet[SentinelPool]] = WeakSet()
        """Who is to leave a server that is the primary no longer."""
        self._sentinels = dict(sentinels)
        self._silent_until: dict[Address, float] = {}
        self._monotonic = monotonic
        self._asking = threading.Lock()
        self._asked_at = float("-inf")
        self._problem: NoPrimary | None = None
        self._is_blind = False

    def get_master_address(self) -> Address:
        """The primary, for a connection that is to be made. Raises NoPrimary."""
        with self._asking:
            if self._monotonic() - self._asked_at >= _AGAIN_S:
                self._ask()
            if self.known is None or (self._problem is not None and not self._is_blind):
                raise NoPrimary(str(self._problem))
            return self.known

    def look(self) -> Address | None:
        """The primary, asked for again where that was long ago; one thread asks, and others do not wait."""
        if self._monotonic() - self._asked_at >= LOOK_S and self._asking.acquire(blocking=False):
            try:
                self._ask()
            finally:
                self._asking.release()
        return self.known

    def _ask(self) -> None:
        opinions, problems = self._opinions()
        self._asked_at = self._monotonic()
        was_blind, self._is_blind, self._problem = self._is_blind, not opinions and bool(problems), None
        if self._is_blind:
            self._problem = NoPrimary(f"no Sentinel of REDIS_URL can be asked ({'; '.join(problems)})")
            if self.known and not was_blind:
                _LOG.warning("%s: staying with %s.", _sentence(self._problem), self.known)
            return
        if was_blind and self.known:
            _LOG.warning("Sentinels of REDIS_URL answer again.")
        if not opinions:
            self._problem = NoPrimary(f"the Sentinels of REDIS_URL know no primary {self.service_name!r}")
            return
        epoch = max(opinion.epoch for opinion in opinions)
        latest = [opinion for opinion in opinions if opinion.epoch == epoch]
        alive = [opinion.primary for opinion in latest if not opinion.is_down]
        if not alive:
            self._problem = NoPrimary(
                f"the Sentinels see the primary {latest[0].primary} down, and have not chosen another yet"
            )
            return
        before, self.known = self.known, alive[0]
        if before not in (None, self.known):
            _LOG.warning("The primary of %s is %s now; it was %s.", self.service_name, self.known, before)
            for each in tuple(self.pools):
                each.abandon_all_but(self.known)

    def _opinions(self) -> tuple[list[_Opinion], list[str]]:
        """What those that answer know of the primary, and why others do not answer."""
        now, opinions, problems = self._monotonic(), [], []
        silent = [each for each in self._sentinels if self._silent_until.get(each, now) > now]
        heard = False
        for address in (*(each for each in self._sentinels if each not in silent), *silent):
            if address in silent and heard:
                break
            try:
                opinion = _asked(self._sentinels[address], self.service_name)
            except redis.RedisError as error:
                self._silent_until[address] = self._monotonic() + _SILENT_S
                problems.append(_problem(address, error))
                continue
            heard = True
            self._silent_until.pop(address, None)
            if opinion is not None:
                opinions.append(opinion)
        return opinions, problems if not heard else []


def _asked(sentinel: redis.Redis, service_name: str) -> _Opinion | None:
    """What it says; None: it does not know that name. Raises RedisError."""
    with sentinel.pipeline(transaction=False) as pipe:
        # The first is the new primary from the moment of its promotion, the second a few seconds later.
        pipe.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", service_name)  # type: ignore[no-untyped-call]
        pipe.sentinel_master(service_name, return_responses=True)
        place, state = pipe.execute(raise_on_error=False)
    if isinstance(place, redis.RedisError):
        raise place
    if place is None or (isinstance(state, redis.ResponseError) and "No such master" in str(state)):
        return None
    if isinstance(state, redis.RedisError):
        raise state
    primary = Address(str_if_bytes(place[0]), int(place[1]))
    is_same = primary == (state["ip"], int(state["port"]))
    return _Opinion(int(state["config-epoch"]), primary, is_same and (state["is_sdown"] or state["is_odown"]))


def _problem(address: Address, error: redis.RedisError) -> str:
    if reason := tls.reason(error):
        return f"{address}: {reason}"
    if isinstance(error, redis.AuthenticationError):
        return f"{address}: it wants another ?sentinel_username= or ?sentinel_password= in REDIS_URL"
    return f"{address}: {str(error).rstrip('.')}"


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[0].upper() + text[1:]


class _Connection(SentinelManagedConnection):
    """A connection to whichever server is the primary when it is made."""

    @property
    def address(self) -> Address:
        """Of the server that it is, or was, connected to."""
        return Address(self.host, self.port)

    def abandon(self) -> None:
        """Wake the thread that waits for a reply here, if one does; it finds the connection closed."""
        sock = cast("socket.socket | None", self._sock)
        if sock is not None:
            # The plain socket's: SSLSocket.shutdown would have that thread read on in the clear.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: float | object = SENTINEL,
        disconnect_on_error: bool | None = True,
        push_request: bool | None = False,
    ) -> object:
        """As Connection's. A replica's refusal ends the connection: the next one goes to the primary.

        Not as SentinelManagedConnection's, which knows no refusal that a script has met, and which may stay
        connected after half a reply.
        """
        try:
            return super(SentinelManagedConnection, self).read_response(
                disable_decoding=disable_decoding,
                timeout=timeout,
                disconnect_on_error=disconnect_on_error,
                push_request=push_request,
            )
        except redis.ResponseError as error:
            if "READONLY" not in str(error) and not isinstance(error, redis.exceptions.ReadOnlyError):
                raise
            address = self.address
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError(f"{address} is a replica now") from error


class _TlsConnection(_Connection, SSLConnection):
    """The same, over TLS."""


class SentinelPool(redis.BlockingConnectionPool):
    """Connections to the primary. One that is with another server is not given out, and not waited on."""

    def __init__(self, finder: PrimaryFinder, options: Mapping[str, Any]) -> None:
        self._finder = finder
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.connection_kwargs["connection_pool"] = finder  # whom SentinelManagedConnection asks
        finder.pools.add(self)

    def get_connection(self, *args: object, **options: object) -> _Connection:
        """A connection to the primary, as it is known now. Raises RedisError."""
        self._finder.look()
        connection: _Connection = super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        if connection.address != self._finder.known:
            try:
                connection.disconnect()  # type: ignore[no-untyped-call]
                connection.connect()  # type: ignore[no-untyped-call]
            except BaseException:
                self.release(connection)  # type: ignore[no-untyped-call]
                raise
        return connection

    def abandon_all_but(self, primary: Address) -> None:
        """Close those to other servers, in use or not: a subscription would stay, and hear of no result."""
        for connection in tuple(self._connections):
            if connection.address != primary:
                connection.abandon()


_FINDERS: Final[WeakValueDictionary[str, PrimaryFinder]] = WeakValueDictionary()
"""By URL: the pools of a process ask together, and say once what they hear."""


def pool(url: str, options: Mapping[str, Any]) -> SentinelPool:
    """A pool of connections to the primary that `url` describes. Asks nobody yet. Raises ValueError."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    of_sentinels = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    service = _SERVICE.fullmatch(parts.path)
    credentials, at, hosts = parts.netloc.rpartition("@")
    if service is None or not hosts:
        raise ValueError("it has to be sentinel://HOST:PORT,HOST:PORT/NAME, and NAME the primary's")
    # redis-py knows what each parameter means, and how a password is quoted.
    scheme = "rediss" if parts.scheme == "sentinels" else "redis"
    place = f"{scheme}://{credentials}{at}sentinel/{service['db'] or ''}?{urlencode(query)}"
    of_redis: dict[str, Any] = parse_url(place)  # type: ignore[no-untyped-call]
    for name in ("host", "connection_class"):
        of_redis.pop(name, None)
    has_tls = scheme == "rediss"
    for_tls = {name: value for name, value in of_redis.items() if name.startswith("ssl_")} if has_tls else {}
    finder = _FINDERS.get(url)
    if finder is None:
        places = [
            addresses.read(each, port=_PORT, what="the HOST:PORT of a Sentinel") for each in hosts.split(",")
        ]
        sentinels = {each: _sentinel(each, of_sentinels, for_tls, has_tls=has_tls) for each in places}
        finder = _FINDERS[url] = PrimaryFinder(unquote(service["name"]), sentinels)
    connection_class = _TlsConnection if has_tls else _Connection
    return SentinelPool(finder, {**of_redis, **options, "connection_class": connection_class})


def _sentinel(
    address: Address, credentials: Mapping[str, str | None], for_tls: Mapping[str, Any], *, has_tls: bool
) -> redis.Redis:
    """A client of one Sentinel."""
    return redis.Redis(
        address.host,
        address.port,
        username=credentials["username"],
        password=credentials["password"],
        ssl=has_tls,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
        **for_tls,
    )
