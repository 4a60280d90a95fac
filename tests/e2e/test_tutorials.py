"""The tutorials' own commands, to a running service and through nginx: curl's, ab's and a browser's bytes."""

import base64
import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support import http
from tests.support.nginx import running_nginx
from tests.support.stack import SHADE, Stack, shade, whole_service
from web.errors import STATUS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that FILES_DIR names, with a picture; a secret is beside it, and a link leads there."""
    folder = tmp_path_factory.mktemp("files") / "path"
    (folder / "to").mkdir(parents=True)
    (folder / "to" / "poodle.png").write_bytes(shade(SHADE))
    (folder.parent / "secret.png").write_bytes(shade(SHADE))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Stack]:
    """The whole service, whose network tells shades."""
    settings = {"FILES_DIR": str(shared), "INFER_CORS_ORIGINS": "*"}
    with whole_service(tmp_path_factory.mktemp("service"), settings) as stack:
        yield stack


def _run(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _curl(*arguments: str) -> str:
    return _run("curl", "-sS", *arguments)


def _status(*arguments: str) -> str:
    return _curl("-o", "/dev/null", "-w", "%{http_code}", *arguments)


def test_each_line_of_the_tutorials_comes_back(url: str, picture: Path) -> None:
    infer = json.loads(_curl("-F", f"img=@{picture}", f"{url}/infer"))
    assert infer == {"code": 0, "data": '{"result":7,"possibility":1.000000}', "message": "success"}
    assert _curl("-F", f"img=@{picture}", f"{url}/upload") == "success"
    mission = json.loads(_curl("-X", "POST", "-F", f"image=@{picture}", f"{url}/predict"))
    assert (mission["success"], mission["predictions"][0]["label"]) == (True, "7")
    torch = json.loads(_curl("-F", f"file=@{picture}", f"{url}/predict"))
    assert (torch["class_id"], torch["class_name"]) == ("shade-7", "7")
    for method in ("GET", "POST"):
        assert _curl("-X", method, "-F", f"file=@{picture}", f"{url}/run") == "result : 7"
    arrays = [["7"], [1.0]]
    assert json.loads(_curl("-F", f"file=@{picture}", f"{url}/classify")) == arrays
    assert json.loads(_curl(f"{url}/classify?file=to/poodle.png")) == arrays


def test_nothing_leads_out_of_the_folder(url: str) -> None:
    for name in (
        "../secret.png",
        "to/../../secret.png",
        "link.png",
        "/etc/hostname",
        "%2e%2e/secret.png",
        "to",
    ):
        assert _status("--path-as-is", f"{url}/classify?file={name}") == "404"


def test_a_page_of_elsewhere_may_use_infer_and_nothing_else(url: str, picture: Path) -> None:
    for path, allowed in (("infer", ["*"]), ("run", [])):
        head = _curl(
            "-D", "-", "-o", "/dev/null", "-H", "Origin: null", "-F", f"img=@{picture}", f"{url}/{path}"
        )
        assert re.findall(r"(?i)^Access-Control-Allow-Origin: (\S+)", head, re.MULTILINE) == allowed


def test_a_browser_gets_a_form_and_then_a_page_with_the_picture(url: str, picture: Path) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with http.client(timeout=30, headers=browser) as client:
        form = client.get(f"{url}/upload")
        assert '<input id="file" type="file" name="file"' in form.text
        page = client.post(f"{url}/upload", files={"file": ("jemma.png", picture.read_bytes(), "image/png")})
        (inlined,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page.text)
        assert Image.open(io.BytesIO(base64.b64decode(inlined))).size == (480, 360)
        wrong = client.post(f"{url}/upload", files={"file": ("turtle.txt", b"text")})
        assert (wrong.status_code, wrong.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
    refused = _curl(
        "-w", " %{http_code}", "-F", f"file=@{picture};type=text/plain", "-F", "file=x", f"{url}/upload"
    )
    assert refused.endswith(" 200")  # a picture is known by its bytes
    refused = json.loads(_curl("-F", f"file=@{__file__}", f"{url}/upload"))
    assert (refused["error"], "not a picture" in refused["msg"]) == (1001, True)


HEADS = {
    "declared": "Content-Type: image/png\nContent-Transfer-Encoding: base64\n",
    "bare": "",
}


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("head", HEADS)
def test_ab_posts_a_picture_in_base64(url: str, tmp_path: Path, head: str, line_end: str) -> None:
    if shutil.which("ab") is None:
        pytest.skip("NOT RUN: ab is not installed (Debian: apt install apache2-utils)")
    part = f'Content-Disposition: form-data; name="file"; filename="turtle.png"\n{HEADS[head]}\n'
    text = f"--1234567890\n{part}{base64.encodebytes(shade(SHADE)).decode()}\n--1234567890--\n"
    (tmp_path / "turtle.txt").write_bytes(text.replace("\n", line_end).encode())
    command = ["ab", "-n", "2", "-c", "2", "-T", "multipart/form-data; boundary=1234567890", "-p"]
    said = _run(*command, str(tmp_path / "turtle.txt"), f"{url}/run")
    assert re.search(r"Complete requests: +2\n", said)
    assert re.search(r"Failed requests: +0\n", said)
    assert re.search(r"Document Length: +10 bytes\n", said)  # result : 7
    assert "Non-2xx" not in said


@pytest.fixture
def nginx(service: Stack, tmp_path: Path) -> Iterator[str]:
    """The address of nginx in front of the service."""
    with running_nginx(tmp_path / "nginx", service.port) as address:
        yield address


def test_a_picture_that_is_posted_to_the_port_of_nginx_is_one_for_run(nginx: str, picture: Path) -> None:
    assert _curl("-F", f"file=@{picture}", nginx) == "result : 7"
    assert "<title>Batchwire</title>" in _curl(nginx)


def test_the_metrics_are_not_for_the_world(nginx: str, service: Stack) -> None:
    for address in ("/metrics", "/scaling"):
        answer = http.get(f"{nginx}{address}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert http.get(f"{service.url}{address}").status_code == 200


def test_nginx_takes_fifteen_megabytes_and_says_in_json_that_more_is_too_much(
    nginx: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.bmp"
    Image.new("RGB", (2500, 2100), (SHADE,) * 3).save(large)
    assert large.stat().st_size > 15 * 1024 * 1024
    assert _curl("-F", f"file=@{large}", f"{nginx}/run") == "result : 7"
    with large.open("ab") as file:
        file.write(bytes(10_000_000))
    answer = _curl(
        "-w", "%{http_code}/%{content_type}", "-H", "X-Request-ID: mine", "-F", f"file=@{large}", nginx
    )
    body, status = answer.split("\n")
    assert status == "413/application/json"
    assert json.loads(body)["error"]["code"] == "too_large"
    assert json.loads(body)["request_id"] == "mine"


_GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"

REFUSED_BY_NGINX = {
    "no HTTP": (b"FOO\r\n\r\n", 400, "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "another coding": (_GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "bad_request"),
    "another version": (_GET.replace(b"1.1", b"2.0") + b"\r\n", 400, "bad_request"),
    "its own address": (b"GET /refusal HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
    "TRACE": (_GET.replace(b"GET", b"TRACE") + b"\r\n", 405, "method_not_allowed"),
    "too long": (_GET.replace(b"healthz", b"a" * 40_000) + b"\r\n", 414, "uri_too_long"),
    "a large field": (_GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431, "header_too_large"),
    "many fields": (_GET + b"X: 123456789\r\n" * 20_000 + b"\r\n", 431, "header_too_large"),
}


def _raw(url: str, sent: bytes) -> tuple[int, dict[str, str], str]:
    """Status, fields and body of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # nginx closes with bytes of the request unread
            head, _, body = client.makefile("rb").read().decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize("name", REFUSED_BY_NGINX)
def test_what_nginx_refuses_reads_as_a_refusal_of_the_service(nginx: str, name: str) -> None:
    sent, status, code = REFUSED_BY_NGINX[name]
    answered, fields, body = _raw(nginx, sent)
    assert (answered, fields["content-type"]) == (status, "application/json")
    answer = json.loads(body)
    assert (answer["success"], answer["error"]["code"]) == (False, code)
    assert STATUS[code] == status
    assert fields["x-request-id"] == answer["request_id"]
    assert "retry-after" not in fields


def test_a_header_section_that_the_service_takes_passes_through_nginx(url: str) -> None:
    for count, size in ((6, 5000), (4, 8000), (90, 300)):
        fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))
        assert _raw(url, _GET + b"Connection: close\r\n" + fields + b"\r\n")[0] == 200
    status, _, body = _raw(url, _GET + b"X: " + b"a" * 12_000 + b"\r\n\r\n")
    assert (status, json.loads(body)["error"]["code"]) == (431, "header_too_large")


def test_what_the_service_refuses_passes_through_nginx_as_it_is(nginx: str, picture: Path) -> None:
    for path, status in (("/predict?model=other", 404), ("/infer?model=other", 404), ("/nowhere", 404)):
        files = {"file": picture.read_bytes()}
        answer = http.post(nginx + path, files=files, headers={"X-Request-ID": "mine"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (status, "mine")
        assert "other" in answer.text or path == "/nowhere"


def test_a_service_that_is_away_or_silent_is_said_in_json(
    service: Stack, tmp_path: Path, picture: Path
) -> None:
    def answer(url: str, request_id: str) -> httpx.Response:
        files = {"file": picture.read_bytes()}
        headers = {"X-Request-ID": request_id}
        return http.post(f"{url}/run?model=shades", files=files, headers=headers, timeout=30)

    with running_nginx(tmp_path / "away", 9) as url:
        away = answer(url, 'of "no" sort')
    assert (away.status_code, away.json()["error"]["code"]) == (502, "unavailable")
    assert away.headers["Retry-After"] == "1"
    assert re.fullmatch(r"[0-9a-f]{32}", away.json()["request_id"])
    (model_server,) = [each for each in service._processes if "shades_server" in str(each.args)]
    model_server.send_signal(signal.SIGSTOP)
    try:
        with running_nginx(tmp_path / "silent", service.port, proxy_read_timeout="500ms") as url:
            silent = answer(url, "mine")
    finally:
        model_server.send_signal(signal.SIGCONT)
    assert (silent.status_code, silent.json()["error"]["code"]) == (504, "deadline_passed")
    assert silent.headers["X-Request-ID"] == silent.json()["request_id"] == "mine"
