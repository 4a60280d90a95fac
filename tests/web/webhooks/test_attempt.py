"""One attempt against real receivers: which address is called, what is refused, and how long it may take."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.receivers import Call, Receiver, receiving
from web.webhooks.attempt import AttemptFailed, ReceiverAnswer, ReceiverCaller
from web.webhooks.callback_hosts import CallbackHosts

NAME = "hooks.example.org"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204."""
    with receiving() as running:
        yield running


def _post(
    caller: ReceiverCaller, hosts: CallbackHosts, url: str, *, within_s: float = 5, body: bytes = b"{}"
) -> ReceiverAnswer:
    return caller.post(hosts.target(url), {"webhook-id": "x"}, body, until=time.monotonic() + within_s)


def _named(port: int, *addresses: str) -> tuple[ReceiverCaller, CallbackHosts]:
    """A caller to which NAME is at these addresses; loopback is listed."""
    hosts = CallbackHosts((f"http://{NAME}:{port}", f"http://127.0.0.1:{port}"))
    return ReceiverCaller(hosts, resolve=lambda *_: addresses), hosts


def test_it_posts_the_body_with_the_url_s_host_path_and_query(receiver: Receiver) -> None:
    caller, hosts = _named(receiver.port, "127.0.0.1")
    answer = _post(caller, hosts, f"http://{NAME}:{receiver.port}/a/b?token=c", body=b'{"a": 1}')
    assert answer == ReceiverAnswer(204)
    (call,) = receiver.calls
    assert (call.path, call.body) == ("/a/b?token=c", b'{"a": 1}')
    assert (call.headers["host"], call.headers["webhook-id"]) == (f"{NAME}:{receiver.port}", "x")


def test_a_redirect_is_an_answer_and_nothing_else(receiver: Receiver) -> None:
    receiver.answer = lambda _: (307, {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"})
    caller, hosts = _named(receiver.port, "127.0.0.1")
    assert _post(caller, hosts, f"http://{NAME}:{receiver.port}/").status == 307
    assert [call.path for call in receiver.calls] == ["/"]


def test_no_proxy_of_the_environment_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    caller, hosts = _named(receiver.port, "127.0.0.1")
    assert _post(caller, hosts, f"http://{NAME}:{receiver.port}/").status == 204


def test_a_name_that_leads_to_an_address_that_is_not_listed_is_not_called(receiver: Receiver) -> None:
    hosts = CallbackHosts((f"http://{NAME}:{receiver.port}",))
    caller = ReceiverCaller(hosts, resolve=lambda *_: ["127.0.0.1"])
    with pytest.raises(AttemptFailed, match=r"at 127\.0\.0\.1, and WEBHOOK_HOSTS does not list") as refused:
        _post(caller, hosts, f"http://{NAME}:{receiver.port}/")
    assert receiver.calls == []
    entry = str(refused.value).rpartition(" ")[2]
    assert entry == f"http://127.0.0.1:{receiver.port}"
    listed = CallbackHosts((f"http://{NAME}:{receiver.port}", entry))
    assert listed.permits("127.0.0.1", listed.target(f"http://{NAME}:{receiver.port}/"))


def test_of_several_addresses_one_that_is_not_listed_spoils_all(receiver: Receiver) -> None:
    caller, hosts = _named(receiver.port, "127.0.0.1", "169.254.169.254")
    with pytest.raises(AttemptFailed, match=r"it is at 169\.254\.169\.254"):
        _post(caller, hosts, f"http://{NAME}:{receiver.port}/")
    assert receiver.calls == []


def test_the_address_that_was_checked_is_called_whatever_the_name_leads_to_next(receiver: Receiver) -> None:
    """DNS rebinding: the first answer passes the check, the second would be this machine."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]
    hosts = CallbackHosts((f"http://{NAME}:{receiver.port}", f"http://127.0.0.2:{receiver.port}"))
    caller = ReceiverCaller(hosts, resolve=lambda *_: answers.pop(0))
    with pytest.raises(AttemptFailed, match="Connection refused"):  # the receiver is at 127.0.0.1 alone
        _post(caller, hosts, f"http://{NAME}:{receiver.port}/")
    assert answers == [["127.0.0.1"]]
    with pytest.raises(AttemptFailed, match=r"it is at 127\.0\.0\.1"):
        _post(caller, hosts, f"http://{NAME}:{receiver.port}/")
    assert receiver.calls == []


def test_the_next_address_is_tried_where_one_refuses(receiver: Receiver) -> None:
    hosts = CallbackHosts((f"http://{NAME}:{receiver.port}", f"http://127.0.0.0/8:{receiver.port}"))
    caller = ReceiverCaller(hosts, resolve=lambda *_: ["127.0.0.2", "127.0.0.1"])
    assert _post(caller, hosts, f"http://{NAME}:{receiver.port}/").status == 204


def test_a_name_that_can_t_be_resolved_is_a_failure() -> None:
    def nothing(*_: object) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    hosts = CallbackHosts((NAME,))
    with pytest.raises(AttemptFailed, match="Name or service not known"):
        _post(ReceiverCaller(hosts, resolve=nothing), hosts, f"https://{NAME}/")


@contextlib.contextmanager
def _raw(answer: list[bytes], *, pause_s: float) -> Iterator[int]:
    """A context: a server that writes this, piece by piece, to whoever comes. The port."""
    stopping = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    for piece in answer:
                        client.sendall(piece)
                        if stopping.wait(pause_s):
                            break

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    "pieces", [[b""] * 100, [b"H"] * 100, [b"HTTP/1.1 204 No Content\r\n", *[b"x: y\r\n"] * 100]]
)
def test_an_attempt_as_a_whole_ends_in_time(pieces: list[bytes]) -> None:
    with _raw(pieces, pause_s=0.1) as port:
        caller, hosts = _named(port, "127.0.0.1")
        began = time.monotonic()
        with pytest.raises(AttemptFailed, match="did not answer in time"):
            _post(caller, hosts, f"http://{NAME}:{port}/", within_s=0.5)
        assert time.monotonic() - began < 2


def test_a_body_that_does_not_end_is_not_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    with _raw([head, *[b"x" * 100_000] * 1000], pause_s=0) as port:
        caller, hosts = _named(port, "127.0.0.1")
        began = time.monotonic()
        assert _post(caller, hosts, f"http://{NAME}:{port}/").status == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 2]
)
def test_what_is_no_http_is_a_failure(answer: bytes) -> None:
    with _raw([answer], pause_s=0) as port:
        caller, hosts = _named(port, "127.0.0.1")
        with pytest.raises(AttemptFailed):
            _post(caller, hosts, f"http://{NAME}:{port}/")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for that name, signed by itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def _with_tls(certificate: Path, key: Path, names: list[str | None]) -> Iterator[int]:
    """A context: a TLS server that answers 204 and keeps which names it was asked for. The port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with (
                    client,
                    contextlib.suppress(OSError),
                    context.wrap_socket(client, server_side=True) as tls,
                ):
                    while not tls.recv(65536).endswith(b"{}"):
                        pass
                    tls.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("name", [NAME, "other.example.org"])
def test_the_certificate_must_be_that_of_the_name_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    certificate, key = _certificate(tmp_path, name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names: list[str | None] = []
    with _with_tls(certificate, key, names) as port:
        hosts = CallbackHosts((f"{NAME}:{port}", f"127.0.0.1:{port}"))
        caller = ReceiverCaller(hosts, resolve=lambda *_: ["127.0.0.1"])
        if name == NAME:
            assert _post(caller, hosts, f"https://{NAME}:{port}/").status == 204
        else:
            with pytest.raises(AttemptFailed, match="its certificate is refused: Hostname mismatch"):
                _post(caller, hosts, f"https://{NAME}:{port}/")
    assert names == [NAME]


def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, NAME)
    with _with_tls(certificate, key, []) as port:
        hosts = CallbackHosts((f"{NAME}:{port}", f"127.0.0.1:{port}"))
        caller = ReceiverCaller(hosts, resolve=lambda *_: ["127.0.0.1"])
        with pytest.raises(AttemptFailed, match="its certificate is refused: self"):
            _post(caller, hosts, f"https://{NAME}:{port}/")


def test_a_failure_says_nothing_of_path_and_query(receiver: Receiver) -> None:
    def slow(_: Call) -> tuple[int, dict[str, str]]:
        time.sleep(0.6)
        return 204, {}

    receiver.answer = slow
    caller, hosts = _named(receiver.port, "127.0.0.1")
    with pytest.raises(AttemptFailed) as failure:
        _post(caller, hosts, f"http://{NAME}:{receiver.port}/secret?token=secret", within_s=0.3)
    assert "secret" not in str(failure.value)
    assert "secret" not in repr(hosts.target(f"http://{NAME}:{receiver.port}/secret?token=secret"))
