"""Which URLs may be called: `WEBHOOK_HOSTS` against a URL's form, its host and the addresses of that host.

Owns the rules that keep a client from having the service call what only the service reaches. Resolves no name
and calls nobody; attempt.py does.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from broker.errors import ClientError
from web.uploads.parameters import CALLBACK_URL, MAX_URL_LETTERS

Address = IPv4Address | IPv6Address

_PORTS: Final = {"https": 443, "http": 80}

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"

_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")

_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
"""The last label of a host that some resolvers take for an IPv4 address, such as 127.1 or 0x7f000001."""

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:/[^?#\\\s]*)?(?:\?[^#\\\s]*)?)",
    re.IGNORECASE,
)

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")

_ENTRY: Final = re.compile(
    r"(?P<http>http://)?(?P<host>\[[0-9a-f:./]+\]|[^\[\]:\s]+)(?::(?P<port>[0-9]{1,5}))?"
)

_NOT_PUBLIC: Final[tuple[IPv4Network | IPv6Network, ...]] = (
    *map(IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")),
    IPv6Network("fec0::/10"),
    *map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")),
)
"""Besides what `ipaddress` calls so: IPv6 networks whose addresses have an IPv4 address in them (compatible,
mapped, NAT64, 6to4, Teredo), which may be any, and site-local ones; IPv4's protocol assignments (metadata of
Oracle's cloud; Python 3.11.7 calls most of them public) and 6to4 relays; and what each host of Azure asks."""


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """A URL that may be called, in its parts."""

    scheme: str
    host: str
    """A name in lower case, or an address without brackets."""
    port: int
    target: str = field(repr=False)
    """Path and query, which may hold a token of the receiver's."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be logged of it."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Entry:
    scheme: str
    port: int
    host: str
    """A name, or a name after `*.`; empty: `network`."""
    network: IPv4Network | IPv6Network | None

    def covers(self, target: CallbackTarget, address: Address | None) -> bool:
        """Whether it lists this host; `address`: what it is, where it is no name."""
        if (target.scheme, target.port) != (self.scheme, self.port):
            return False
        if self.network is not None or address is not None:
            return self.network is not None and address is not None and address in self.network
        if self.host.startswith("*."):
            return target.host.endswith(self.host[1:])
        return target.host == self.host


class CallbackHosts:
    """The entries of WEBHOOK_HOSTS. Raises ValueError for one that is none."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = tuple(map(_entry, entries))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def target(self, url: str) -> CallbackTarget:
        """The parts of a URL that may be called, as far as its text says so. Raises ClientError."""
        if not self._entries:
            raise ClientError(
                f"This service calls no webhooks, so {CALLBACK_URL} is refused: its operator has not set "
                "WEBHOOK_HOSTS. Poll for the result instead (Prefer: respond-async)."
            )
        match = _URL.fullmatch(url) if len(url) <= MAX_URL_LETTERS and _VISIBLE.fullmatch(url) else None
        if match is None:
            raise ClientError(
                f"The {CALLBACK_URL} is not accepted: it is an https URL, or an http one where WEBHOOK_HOSTS "
                f"says so, of {MAX_URL_LETTERS} visible ASCII characters at most, with neither a user nor a "
                "fragment."
            )
        scheme, host = match["scheme"].lower(), match["host"].lower().strip("[]")
        target = CallbackTarget(scheme, host, int(match["port"] or _PORTS[scheme]), _path(match["target"]))
        address = _address(host)
        if address is None and not _is_name(host):
            raise ClientError(f"The host of the {CALLBACK_URL} is neither a host name nor an address.")
        if not any(entry.covers(target, address) for entry in self._entries):
            raise ClientError(
                f"{target.origin} is not in this service's WEBHOOK_HOSTS, which lists hosts with scheme and "
                f"port: no {CALLBACK_URL} may lead there."
            )
        return target

    @staticmethod
    def entry_for(address: str, target: CallbackTarget) -> str:
        """The entry that would let a target's host lead to this address."""
        scheme = "http://" if target.scheme == "http" else ""
        return f"{scheme}{replace(target, host=address).authority}"

    def permits(self, text: str, target: CallbackTarget) -> bool:
        """Whether this address, to which a target's host leads, may be called.

        A public one may; any other only if it, or its network, is listed itself, for that port. So a name
        whose address changes leads nowhere that the operator did not mean.
        """
        address = _address(text.partition("%")[0])
        if address is None:
            return False
        if any(entry.covers(target, address) for entry in self._entries):
            return True
        if any(address in network for network in _NOT_PUBLIC):
            return False
        return address.is_global and not (address.is_multicast or address.is_reserved)


def _entry(text: str) -> _Entry:
    """An entry: a name, `*.` and a name, an address or a network; `:port` after it, `http://` before it."""
    match, bare = _ENTRY.fullmatch(text), _network(text.removeprefix("http://"))
    scheme = "http" if text.startswith("http://") else "https"
    if bare is not None:  # an IPv6 network needs no brackets where no port follows
        return _Entry(scheme, _PORTS[scheme], "", bare)
    if match is None or not 1 <= (port := int(match["port"] or _PORTS[scheme])) <= 65535:
        raise ValueError(f"{text!r} is not a host")
    host = match["host"]
    network = _network(host.strip("[]"))
    if network is None and not _is_name(host.removeprefix("*.")):
        raise ValueError(f"{text!r} is not a host")
    return _Entry(scheme, port, "" if network else host, network)


def _is_name(host: str) -> bool:
    return (
        len(host) <= 253
        and _NAME.fullmatch(host) is not None
        and not _NUMBER.fullmatch(host.rpartition(".")[2])
    )


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _path(target: str) -> str:
    return target if target.startswith("/") else f"/{target}"
