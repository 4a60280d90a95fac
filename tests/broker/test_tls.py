"""TLS to Redis, against a real server: what works, and what each failure is called."""

import logging
import time
from collections.abc import Iterator

import pytest

from broker.connection import connect, translated
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.replies import Replies
from tests.broker.tls_server import TlsServer, running_tls, running_tls_cluster, running_tls_sentinel
from tests.support import http
from tests.support.stack import SHADE, Stack, shade, web_up
from tests.support.waiting import eventually

WRONG = {
    "another CA": ({"ca": "other"}, r"of no CA that is trusted here \(self-signed.*ssl_ca_certs=FILE"),
    "no CA": ({"ca": ""}, r"of no CA that is trusted here"),
    "another host": ({"host": "127.0.0.1"}, r"is another host's \(IP address mismatch.*name the host"),
    "no client certificate": (
        {"client": ""},
        r"ended the TLS connection.*client certificate.*ssl_certfile=FILE",
    ),
    "a client of another CA": ({"client": "other"}, r"ended the TLS connection.*that its CA signed"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """The server, for all tests of this module."""
    with running_tls(tmp_path_factory.mktemp("tls")) as running:
        yield running


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_at_once(server: TlsServer, what: str) -> None:
    changes, said = WRONG[what]
    began = time.monotonic()
    with (
        connect(server.url(**changes), timeout_s=30) as client,
        pytest.raises(BrokerUnavailable, match=said),
        translated("be asked"),
    ):
        client.ping()
    assert time.monotonic() - began < 10  # not the time-out of 30 s


@pytest.mark.slow
def test_the_subscription_says_it_once_and_without_a_traceback(
    server: TlsServer, caplog: pytest.LogCaptureFixture
) -> None:
    replies = Replies(connect(server.url(ca="other"), timeout_s=5), Keys("bw:"), "web-1")
    with caplog.at_level(logging.INFO):
        replies.start()
        eventually(lambda: "of no CA that is trusted" in caplog.text)
        assert not replies.is_subscribed(1.0)  # five attempts
        replies.stop()
    assert caplog.text.count("of no CA that is trusted") == 1
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_a_picture_is_answered_over_tls(server: TlsServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    with web_up(Stack(tmp_path_factory.mktemp("stack"), server.url())) as stack:
        stack.start_model_server()
        assert _label(stack) == str(SHADE)
        assert stack.executed() == [SHADE]


@pytest.mark.slow
def test_over_tls_a_replica_that_a_sentinel_promotes_is_found(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        running_tls_sentinel(tmp_path_factory.mktemp("tls")) as fleet,
        web_up(Stack(tmp_path_factory.mktemp("stack"), fleet.url)) as stack,
    ):
        stack.start_model_server()
        assert _label(stack) == str(SHADE)
        primary, _ = fleet.servers
        primary.process.kill()
        eventually(lambda: _label(stack) == str(SHADE), within_s=20)


@pytest.mark.slow
def test_over_tls_a_cluster_answers_wherever_its_slots_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_tls_cluster(tmp_path_factory.mktemp("tls")) as fleet:
        stack = Stack(tmp_path_factory.mktemp("stack"), fleet.url)
        stack.environment["QUEUE_SHARDS"] = "8"
        with web_up(stack):
            stack.start_model_server()
            # Each node has shards of the eight: none is left out for a name that is not the certificate's.
            eventually(lambda: _label(stack) == str(SHADE) and all(map(_has_had_a_job, fleet.servers)))


def _has_had_a_job(node: TlsServer) -> bool:
    return "cmdstat_rpush" in node.call("INFO", "commandstats")


def _label(stack: Stack) -> str | None:
    """The answer to a picture; None: it was refused."""
    answer = http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(SHADE))}, timeout=30)
    assert answer.status_code in (200, 503), answer.text
    return str(answer.json()["predictions"][0]["label"]) if answer.status_code == 200 else None
