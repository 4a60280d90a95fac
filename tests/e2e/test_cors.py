"""CORS_ORIGINS over a running web process: preflights, answers, and every kind of refusal."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ORIGIN = "https://pages.example:8443"
OTHER = "https://pages.example:8443.evil.example"


@pytest.fixture
def origins() -> str:
    return f"http://localhost:3000, {ORIGIN}, http://[::1]:3000"


@pytest.fixture
def web(own_redis: RedisServer, tmp_path: Path, origins: str) -> Iterator[Stack]:
    made = Stack(tmp_path, own_redis.url)
    made.environment |= {"CORS_ORIGINS": origins, "MAX_UPLOAD_MB": "1"}
    try:
        made.start_web()
        yield made
    finally:
        made.stop()


def _preflight(web: Stack, origin: str) -> httpx.Response:
    return http.request(
        "OPTIONS",
        f"{web.url}/predict",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, prefer",
        },
    )


def _allowed(answer: httpx.Response) -> str | None:
    value: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return value


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000", "http://[::1]:3000"])
def test_a_preflight_of_an_origin_of_the_list_is_granted(web: Stack, origin: str) -> None:
    answer = _preflight(web, origin)
    assert answer.status_code == 200
    assert _allowed(answer) == origin
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert {"content-type", "prefer"} <= set(
        answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    )
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", [OTHER, "https://pages.example", "http://pages.example:8443", "null"])
def test_another_origin_s_is_not(web: Stack, origin: str) -> None:
    assert _allowed(_preflight(web, origin)) is None
    assert _allowed(http.get(f"{web.url}/models", headers={"Origin": origin})) is None


def _raw(web: Stack, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while more := client.recv(65536):
            answer += more
    return answer


@pytest.mark.parametrize("origins", [ORIGIN, "*"])
def test_answers_and_refusals_of_every_kind_may_be_read(web: Stack, origins: str) -> None:
    head = {"Origin": ORIGIN}
    picture = {"image": ("x.png", shade(1))}
    answers = {
        200: http.get(f"{web.url}/healthz", headers=head),
        404: http.get(f"{web.url}/nothing", headers=head),
        405: http.get(f"{web.url}/predict", headers=head),
        415: http.post(f"{web.url}/predict", headers={**head, "Content-Type": "a/b"}, content="x"),
        400: http.post(f"{web.url}/predict", headers=head),
        503: http.post(f"{web.url}/predict", headers=head, files=picture, timeout=20),
    }
    for status, answer in answers.items():
        assert (answer.status_code, _allowed(answer)) == (status, origins), answer.text
    exposed = answers[503].headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Retry-After", "X-Request-ID", "X-Model", "X-Notice"} <= set(exposed)
    # Refused before the app: too large by its head, and cut short.
    post = f"POST /predict HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nContent-Type: image/png\r\n".encode()
    for length, said in ((5_000_000, b"413"), (1000, b"400")):
        refused = _raw(web, post + f"Content-Length: {length}\r\n\r\nabc".encode())
        assert refused.startswith(b"HTTP/1.1 " + said), refused
        assert f"Access-Control-Allow-Origin: {origins}\r\n".encode() in refused


def test_without_the_setting_nothing_is_said(own_redis: RedisServer, tmp_path: Path) -> None:
    web = Stack(tmp_path, own_redis.url)
    try:
        web.start_web()
        for answer in (
            _preflight(web, ORIGIN),
            http.get(f"{web.url}/healthz", headers={"Origin": ORIGIN}),
        ):
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        post = f"POST /predict HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n"
        refused = _raw(web, f"{post}Content-Length: 9999999999\r\n\r\n".encode())
        assert b"413" in refused
        assert b"Access-Control" not in refused
    finally:
        web.stop()
