"""Whose word counts for where a request comes from: that of proxies which the operator has listed.

Owns which address in X-Forwarded-For is the client's. Reads no other field that proxies add: the service
makes no absolute URLs, and nobody's scheme, host or prefix changes an answer. (Werkzeug's ProxyFix counts
entries and believes whoever connects; here an address is believed.)
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

_MOST_ENTRIES: Final = 32
"""A chain of proxies is shorter; to read all that fit into a header section would cost the loop 30 ms."""

_MAPPED_BITS: Final = 96
"""Of an IPv4 address within IPv6, before that address."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Addresses and networks of proxies, in the words of TRUSTED_PROXIES."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(_network, networks))

    def client(self, peer: object, forwarded_for: Iterable[str]) -> object:
        """Who sent a request that came from `peer` with these X-Forwarded-For: `peer`, or (address, 0).

        Each proxy appends whom it took the request from, so the last entry that is no trusted proxy's is the
        client: all before it may be of its own making. An entry that is no address ends what is believed.
        """
        if not isinstance(peer, tuple) or not self._trusts(_address(peer[0])):
            return peer
        client = peer
        for entry in reversed(",".join(forwarded_for).split(",")[-_MOST_ENTRIES:]):
            address = _address(entry.strip())
            if address is None:
                break
            client = (str(address), 0)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network of the setting; one of IPv4 addresses within IPv6 is that of those addresses, as below."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    within = network.prefixlen - _MAPPED_BITS
    return ipaddress.IPv4Network((int(mapped), within)) if mapped is not None and within >= 0 else network


def _address(text: str) -> Address | None:
    """An address as proxies write it, perhaps with a port; an IPv4 address within IPv6 is that one.

    Without its zone: another host's says nothing here, and may be any text.
    """
    host = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
