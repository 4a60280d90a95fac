"""Who sent a request that came through proxies, and whom nobody believes."""

import pytest

from tests.web.server.serving import Serving
from web.server.proxies import TrustedProxies
from web.server.request_reader import Arrival

TRUSTED = TrustedProxies(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])
PEER = ("10.0.0.1", 5)


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        (PEER, ["203.0.113.9"], ("203.0.113.9", 0)),
        (PEER, ["6.6.6.6, 203.0.113.9"], ("203.0.113.9", 0)),  # a client's own entry comes first
        (PEER, ["6.6.6.6", "203.0.113.9, 10.2.3.4"], ("203.0.113.9", 0)),
        (PEER, ["10.9.9.9, 10.2.3.4"], ("10.9.9.9", 0)),
        (PEER, ["203.0.113.9:1234"], ("203.0.113.9", 0)),
        (PEER, ["[2001:db8::9]:1234"], ("2001:db8::9", 0)),
        (PEER, ["2001:db8::9"], ("2001:db8::9", 0)),
        (PEER, ["::ffff:203.0.113.9"], ("203.0.113.9", 0)),
        (PEER, ["fe80::9%eth0"], ("fe80::9", 0)),
        (PEER, ["2001:db8::9%x key=admin status=200"], ("2001:db8::9", 0)),
        (("::ffff:10.0.0.1", 5, 0, 0), ["203.0.113.9"], ("203.0.113.9", 0)),
        (("fd00::1", 5, 0, 0), ["203.0.113.9"], ("203.0.113.9", 0)),
        (PEER, ["6.6.6.6, unknown, 10.2.3.4"], ("10.2.3.4", 0)),
        (PEER, ["6.6.6.6, " + "10.2.3.4, " * 32 + "10.2.3.4"], ("10.2.3.4", 0)),
        (PEER, [], PEER),
        (PEER, [""], PEER),
        (PEER, ["<script>"], PEER),
        (("203.0.113.7", 5), ["6.6.6.6"], ("203.0.113.7", 5)),
        ("", ["6.6.6.6"], ""),
    ],
)
def test_the_client_is_the_last_who_is_no_trusted_proxy(
    peer: object, fields: list[str], client: object
) -> None:
    assert TRUSTED.client(peer, fields) == client
    assert TrustedProxies([]).client(peer, fields) == peer


@pytest.mark.parametrize("listed", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104"])
def test_a_proxy_may_be_listed_as_an_ipv6_socket_names_it(listed: str) -> None:
    trusted = TrustedProxies([listed])
    for peer in (PEER, ("::ffff:10.0.0.1", 5, 0, 0)):
        assert trusted.client(peer, ["203.0.113.9"]) == ("203.0.113.9", 0)
    assert trusted.client(("11.0.0.1", 5), ["203.0.113.9"]) == ("11.0.0.1", 5)
    assert TrustedProxies(["::/0"]).client(PEER, ["203.0.113.9"]) == PEER


@pytest.mark.parametrize(("proxies", "address"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")])
def test_the_app_sees_a_client_s_address_from_a_trusted_proxy_alone(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...], address: str
) -> None:
    monkeypatch.setattr(Arrival, "proxies", TrustedProxies(proxies))
    client = serving.client()
    for forwarded, seen in ((b"X-Forwarded-For: 203.0.113.9\r\n", address), (b"", "127.0.0.1")):
        client.send(b"GET /echo HTTP/1.1\r\nHost: x\r\n" + forwarded + b"\r\n")
        assert client.answer()[1]["client"] == seen  # of each request on a connection its own


@pytest.mark.slow
@pytest.mark.parametrize("connections", [32])
def test_behind_a_proxy_a_flood_takes_its_places_from_itself_too(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Arrival, "proxies", TrustedProxies(["127.0.0.1"]))
    half = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nX-Forwarded-For: %b\r\n\r\n"
    honest = [serving.client() for _ in range(5)]
    for client in honest:
        client.send(half % b"203.0.113.7")
    for _ in range(40):
        serving.client().send(half % b"203.0.113.66")
        serving.answers()  # one after the other: it has read the half request by then
    for client in honest:
        client.send(b"123456789")
        assert client.answer()[0] == 200
