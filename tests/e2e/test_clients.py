"""Programs that people send pictures with, to a running service and through nginx: what each gets back."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.stack import SHADE, Stack, shade, whole_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_URLLIB = urllib.request.build_opener(urllib.request.ProxyHandler({}))

JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;

public class Send {
    public static void main(String[] names) throws Exception {
        var body = HttpRequest.BodyPublishers.ofFile(Path.of(names[1]));
        var request = HttpRequest.newBuilder(URI.create(names[0])).POST(body).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.body());
    }
}
"""


GO = """
package main

import ("bytes"; "fmt"; "io"; "mime/multipart"; "net/http"; "os")

func main() {
	picture, _ := os.ReadFile(os.Args[2])
	body, kind := bytes.NewBuffer(picture), os.Args[3]
	if kind == "form" {
		body = &bytes.Buffer{}
		form := multipart.NewWriter(body)
		part, _ := form.CreateFormFile("image", "x.png")
		part.Write(picture)
		form.Close()
		kind = form.FormDataContentType()
	}
	answer, err := http.Post(os.Args[1], kind, body)
	if err != nil { panic(err) }
	text, _ := io.ReadAll(answer.Body)
	fmt.Println(string(text))
}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service, whose network tells shades."""
    with whole_service(tmp_path_factory.mktemp("service")) as stack:
        yield stack


@pytest.fixture
def url(url: str) -> str:
    """The address of `/predict`, directly or through nginx."""
    return f"{url}/predict"


def _label(*command: str) -> str:
    """The label in the JSON that a client prints; the test is skipped where there is no such client."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"NOT RUN: {command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(done.stdout)["predictions"][0]["label"])


def test_curl(url: str, picture: Path) -> None:
    curl = ("curl", "-sS")
    assert _label(*curl, "-F", f"image=@{picture}", url) == str(SHADE)
    assert _label(*curl, "--data-binary", f"@{picture}", url) == str(SHADE)
    assert _label(*curl, "-H", "Content-Type:", "--data-binary", f"@{picture}", url) == str(SHADE)
    assert _label(*curl, "-H", "Expect:", "-F", f"image=@{picture}", url) == str(SHADE)
    assert _label(*curl, "-H", "Expect: 100-continue", "-F", f"image=@{picture}", url) == str(SHADE)


def test_fetch_of_node(url: str, picture: Path) -> None:
    for body in ("bytes", "form"):
        script = (
            "const bytes = require('fs').readFileSync(process.argv[2]);"
            "const form = new FormData(); form.append('image', new Blob([bytes]), 'x.png');"
            f"fetch(process.argv[1], {{method: 'POST', body: {body}}})"
            ".then(answer => answer.text()).then(console.log)"
        )
        assert _label("node", "-e", script, url, str(picture)) == str(SHADE)


def test_http_client_of_java(url: str, picture: Path, tmp_path: Path) -> None:
    if shutil.which("javac") is None:
        pytest.skip("NOT RUN: javac is not installed (Debian: apt install default-jdk-headless)")
    (tmp_path / "Send.java").write_text(JAVA)
    assert _label("java", str(tmp_path / "Send.java"), url, str(picture)) == str(SHADE)


def test_net_http_of_go(url: str, picture: Path, tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("NOT RUN: go is not installed (Debian: apt install golang-go)")
    (tmp_path / "send.go").write_text(GO)
    subprocess.run(["go", "build", "send.go"], cwd=tmp_path, capture_output=True, timeout=110, check=True)
    for kind in ("", "image/png", "form"):
        assert _label(str(tmp_path / "send"), url, str(picture), kind) == str(SHADE)


def test_curl_of_php(url: str, picture: Path) -> None:
    for body in ("['image' => new CURLFile($argv[2])]", "file_get_contents($argv[2])"):
        script = (
            "$curl = curl_init($argv[1]); curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);"
            f"curl_setopt($curl, CURLOPT_POSTFIELDS, {body}); echo curl_exec($curl);"
        )
        assert _label("php", "-r", script, "--", url, str(picture)) == str(SHADE)


def test_requests(url: str, picture: Path) -> None:
    requests = pytest.importorskip("requests", reason="NOT RUN: requests is not installed")
    with requests.Session() as session:
        session.trust_env = False
        for how in ({"data": picture.read_bytes()}, {"files": {"image": picture.read_bytes()}}):
            answer = session.post(url, timeout=30, **how)
            assert answer.json()["predictions"][0]["label"] == str(SHADE)


def test_nc_that_closes_its_side(url: str, picture: Path) -> None:
    if shutil.which("nc") is None:
        pytest.skip("NOT RUN: nc is not installed (Debian: apt install netcat-openbsd)")
    body = picture.read_bytes()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    command = ["nc", "-N", "127.0.0.1", str(httpx.URL(url).port)]
    done = subprocess.run(command, input=head + body, capture_output=True, timeout=60, check=False)
    assert json.loads(done.stdout.split(b"\r\n\r\n")[-1])["predictions"][0]["label"] == str(SHADE)


def test_urllib(url: str, picture: Path) -> None:
    with _URLLIB.open(url, picture.read_bytes(), timeout=30) as answer:
        assert json.load(answer)["predictions"][0]["label"] == str(SHADE)


def test_a_client_that_closes_its_side_after_two_pictures(url: str) -> None:
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + shade(SHADE) + b"\r\n"
    )
    body = part * 2 + b"--b--\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30) as client:
        client.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    results = json.loads(answer[answer.rindex(b"\r\n\r\n") :])["results"]
    assert [each["predictions"][0]["label"] for each in results] == [str(SHADE)] * 2


class _Slow:
    """Thirty megabytes, at about 5 MB/s."""

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(60):
            time.sleep(0.1)
            yield bytes(500_000)


def test_urllib_reads_its_413_after_a_slow_upload(service: Stack) -> None:
    head = {"Content-Length": "30000000", "Content-Type": "image/png"}
    request = urllib.request.Request(f"{service.url}/predict", _Slow(), head)  # noqa: S310 - ours
    with pytest.raises(urllib.error.HTTPError) as refused:
        _URLLIB.open(request, timeout=30)
    with refused.value as answer:
        assert (answer.code, json.load(answer)["error"]["code"]) == (413, "too_large")
