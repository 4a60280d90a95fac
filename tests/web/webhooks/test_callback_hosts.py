"""Which URLs may be called: the forms of WEBHOOK_HOSTS and of URLs, and every class of address."""

import pytest

from broker.errors import ClientError
from settings import SettingError, Settings
from tests.support.receivers import SECRET
from web.webhooks.callback_hosts import CallbackHosts

HOSTS = CallbackHosts(
    (
        *("hooks.example.org", "*.example.net", "ports.example.org:8443", "http://plain.example.org"),
        *("10.1.0.0/16", "192.0.2.7:9000", "http://127.0.0.1:8080", "[2001:db8::1]:8443", "fd00::/8"),
    )
)

NAME = HOSTS.target("https://hooks.example.org/")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example.org", ("https", "hooks.example.org", 443, "/")),
        ("https://hooks.example.org:443/a?b=c", ("https", "hooks.example.org", 443, "/a?b=c")),
        ("HTTPS://Hooks.Example.ORG/A", ("https", "hooks.example.org", 443, "/A")),
        ("https://hooks.example.org?b=c", ("https", "hooks.example.org", 443, "/?b=c")),
        ("https://a.example.net/", ("https", "a.example.net", 443, "/")),
        ("https://a.b.example.net/", ("https", "a.b.example.net", 443, "/")),
        ("https://ports.example.org:8443/", ("https", "ports.example.org", 8443, "/")),
        ("http://plain.example.org/", ("http", "plain.example.org", 80, "/")),
        ("https://10.1.2.3/", ("https", "10.1.2.3", 443, "/")),
        ("https://192.0.2.7:9000/", ("https", "192.0.2.7", 9000, "/")),
        ("http://127.0.0.1:8080/", ("http", "127.0.0.1", 8080, "/")),
        ("https://[2001:db8:0::1]:8443/", ("https", "2001:db8:0::1", 8443, "/")),
        ("https://[fd12::9]/", ("https", "fd12::9", 443, "/")),
    ],
)
def test_a_url_of_a_listed_host_is_accepted(url: str, parts: tuple[str, str, int, str]) -> None:
    target = HOSTS.target(url)
    assert (target.scheme, target.host, target.port, target.target) == parts


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.org/",
        "https://example.net/",  # *.example.net are the names below it
        "https://xexample.net/",
        "https://a.example.net.evil.example/",
        "https://hooks.example.org:444/",
        "http://hooks.example.org/",
        "http://hooks.example.org:443/",
        "https://ports.example.org/",
        "https://plain.example.org/",
        "https://10.2.0.1/",
        "https://192.0.2.8:9000/",
        "https://127.0.0.1:8080/",
        "https://[2001:db8::2]:8443/",
        "https://[::ffff:10.1.2.3]/",
    ],
)
def test_any_other_host_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="is not in this service's WEBHOOK_HOSTS"):
        HOSTS.target(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@hooks.example.org/",
        "https://user:password@hooks.example.org/",
        "https://hooks.example.org/#fragment",
        "https://hooks.example.org\\@evil.example/",
        "https://hooks.example.org/a\r\nHost: evil",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/\u00e9",
        "https://h\u00f6oks.example.org/",
        "https://hooks.example.org/\0",
        "https://hooks.example.org:port/",
        "https://hooks.example.org:/",
        "https:///hooks.example.org/",
        "//hooks.example.org/",
        "hooks.example.org",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "gopher://hooks.example.org/",
        "https://hooks.example.org/" + "a" * 2048,
    ],
)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(
        ClientError,
        match="is not accepted: it is an https URL, or an http one where WEBHOOK_HOSTS says so, of 2048",
    ):
        HOSTS.target(url)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "10.1.2", "10.1.2.256", "a..b", "-a.b", "a.", "[1]"],
)
def test_what_a_resolver_may_take_for_an_address_is_no_host(host: str) -> None:
    with pytest.raises(ClientError, match="neither a host name nor an address"):
        HOSTS.target(f"https://{host}/")


def test_without_hosts_the_refusal_says_why() -> None:
    with pytest.raises(ClientError, match=r"calls no webhooks.*its operator has not set WEBHOOK_HOSTS"):
        CallbackHosts(()).target("https://hooks.example.org/")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "::1"),  # loopback
        *("10.2.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1"),  # private
        *("169.254.169.254", "fe80::1", "fe80::1%eth0"),  # link-local, where clouds keep credentials
        *("192.0.0.192", "100.100.100.200", "168.63.129.16"),  # as those of Oracle, Alibaba and Azure do
        *("224.0.0.1", "239.1.2.3", "ff02::1", "ff0e::1"),  # multicast
        *("0.0.0.0", "0.1.2.3", "::"),  # noqa: S104 - unspecified
        *(
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.1",
            "2001:db8::9",
        ),  # reserved
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8"),  # IPv4 in IPv6
        *("2002:7f00:1::", "2002:808:808::", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"),
        *("2001::1", "fec0::1", "no address", "", "1.2.3.4.5"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not HOSTS.permits(address, NAME)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_a_public_address_may_be_called(address: str) -> None:
    assert HOSTS.permits(address, NAME)


@pytest.mark.parametrize("address", ["10.1.255.1", "127.0.0.1", "192.0.2.7", "fd12::9", "2001:db8::1"])
def test_an_address_that_is_listed_may_be_called_at_that_port(address: str) -> None:
    networks = ("10.1.0.0/16", "127.0.0.1", "192.0.2.7", "fd00::/8", "2001:db8::1")
    name = "hooks.example.org"
    assert CallbackHosts((name, *networks)).permits(address, NAME)
    ports = (f"[{each}]:8443" if ":" in each else f"{each}:8443" for each in networks)
    assert not CallbackHosts((name, *ports)).permits(address, NAME)
    assert not CallbackHosts((name, *(f"http://{each}" for each in networks))).permits(address, NAME)


@pytest.mark.parametrize(
    "entry",
    [
        *("a", "hooks.example.org", "*.example.org", "a_b.c-d:1", "http://a:65535", "*.a:80"),
        *("10.0.0.0/8", "10.0.0.1", "10.0.0.0/8:81", "http://10.0.0.1:82", "::1", "fd00::/8", "[::1]:5"),
        *("[fd00::/8]:5", "[::1]", "http://[::1]:5", "http://::1"),
    ],
)
def test_the_settings_take_what_is_understood(entry: str) -> None:
    settings = Settings.from_env({"WEBHOOK_HOSTS": entry, "WEBHOOK_SECRET": SECRET})
    assert settings.webhook_hosts == (entry,)
    assert CallbackHosts(settings.webhook_hosts)
    assert Settings.from_env(settings.environment()) == settings


@pytest.mark.parametrize(
    "entry",
    [
        *("*", "*.*.a", "a.*", "a*", "https://a", "ftp://a", "http://", "a/b", "a:", "a:0", "a:65536", "a:x"),
        *("a b", "user@a", "10.0.0.1/8", "10.0.0", "10.0.0.256", "10.0.0.0/33", "[::1", "::1]", "[::1]:0"),
        *("[a]", "a,,b", ".a", "a.", "-a", "\u00e9"),
    ],
)
def test_the_settings_refuse_what_is_not(entry: str) -> None:
    with pytest.raises(SettingError, match=r"WEBHOOK_HOSTS=.* is not a comma-separated list of hosts"):
        Settings.from_env({"WEBHOOK_HOSTS": entry, "WEBHOOK_SECRET": SECRET})
    if "," not in entry:
        with pytest.raises(ValueError, match="is not a host"):
            CallbackHosts((entry,))
