"""deploy/nginx: its figures are those of the web tier. tests/e2e/test_nginx.py has it at work."""

import re
from typing import Final

import pytest

from settings import Settings
from tests.support.nginx import CONFIG
from web.server import request_reader

TEXT: Final = CONFIG.read_text("utf-8")
DEFAULTS: Final = Settings()
_UNITS: Final = {"": 1, "s": 1, "h": 3600, "d": 86400, "k": 1024, "m": 1024 * 1024}
HTTP, GRPC = TEXT.split("    # gRPC, in clear text.")
"""The second has the server of gRPC, the first the rest."""


def _figures(directive: str, text: str = TEXT) -> list[list[int]]:
    """The numbers that each use of a directive has, in seconds or bytes."""
    found = re.findall(rf"^ *{directive} (.*);", text, re.MULTILINE)
    assert found, directive
    return [
        [int(number) * _UNITS[unit] for number, unit in re.findall(r"\b(\d+)([a-z]?)\b", each)]
        for each in found
    ]


def test_uploads_are_as_large_as_the_web_tier_takes() -> None:
    largest = DEFAULTS.max_upload_mb * 1024 * 1024
    assert _figures("client_max_body_size", HTTP) == [[largest]]
    assert f"larger than {DEFAULTS.max_upload_mb} MB" in HTTP
    assert _figures("client_max_body_size", GRPC) == [
        [0]
    ]  # its process judges the message by its first bytes


def test_header_sections_are_as_large_as_the_web_tier_takes() -> None:
    ((count, size),) = _figures("large_client_header_buffers")
    assert (count, size) == (4, request_reader.MAX_HEAD_BYTES)
    assert f"larger than {size // 1024} KB" in TEXT
    assert f"longer than {request_reader.MAX_LINE_BYTES} bytes" in TEXT


@pytest.mark.parametrize(("text", "kind"), [(HTTP, "proxy"), (GRPC, "grpc")])
def test_the_service_says_itself_that_a_deadline_has_passed(text: str, kind: str) -> None:
    patience = _figures(f"{kind}_read_timeout", text)[0][0]
    assert DEFAULTS.request_timeout_s + 2 <= patience <= DEFAULTS.request_timeout_s * 2
    assert f"did not answer in {patience} s" in text
    # No request is sent to another host when nobody waits for it any more.
    assert _figures(f"{kind}_next_upstream_timeout", text) == [[int(DEFAULTS.request_timeout_s)]]
    assert _figures(f"{kind}_connect_timeout", text)[0][0] * 2 < DEFAULTS.request_timeout_s


def test_idle_connections_are_closed_by_whoever_sends_next() -> None:
    clients, *upstreams = _figures("keepalive_timeout")
    # Web tier and gRPC process keep theirs for KEEPALIVE_S, and half of it is time enough for a request.
    assert upstreams == [[60], [60]]
    assert DEFAULTS.keepalive_s >= 2 * upstreams[0][0]
    # Clients have as long as they have without nginx, and are told so a little sooner.
    assert clients == [DEFAULTS.keepalive_s, DEFAULTS.keepalive_s - 5]


def test_only_named_requests_to_predict_may_be_sent_twice() -> None:
    uses = re.findall(r"^ *(?:proxy|grpc)_next_upstream (.*);", TEXT, re.MULTILINE)
    assert uses == ["error timeout", "error timeout non_idempotent", "off", "error timeout"]
    (named,) = re.findall(r"location @repeatable \{(.*?)\}", TEXT, re.DOTALL)
    assert "non_idempotent" in named


def test_a_host_that_hangs_gets_no_more_than_the_others_have() -> None:
    """In turn it would soon have every client; the processes of nginx must count together."""
    upstreams = re.findall(r"upstream (\w+) \{(.*?)\n    \}", TEXT, re.DOTALL)
    assert [name for name, _ in upstreams] == ["batchwire", "batchwire_grpc"]
    for name, text in upstreams:
        assert re.search(rf"^ *zone {name} \d+k;\n(?: *#.*\n)* *least_conn;$", text, re.MULTILINE), name
