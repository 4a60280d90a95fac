"""One attempt to call a receiver: its name is resolved once, every address is checked, and one is called.

Owns the connection and its bounds: an attempt as a whole ends in time, however slowly a receiver answers.
No proxy is asked and no redirect followed, and of an answer little more than its head is read. When to try
again is deliverer.py's.
"""

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from web.webhooks.callback_hosts import CallbackHosts, CallbackTarget

CONNECT_S: Final = 5.0
"""For one address of a host."""

_READ_BYTES: Final = 4096
"""Of an answer's body: enough for one to end, so that a receiver sees no reset connection."""

Resolve = Callable[[str, int], Sequence[str]]
"""From a host and a port to addresses. Raises OSError."""


class AttemptFailed(Exception):
    """The receiver did not answer; the message says why, without the URL."""


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """What a receiver answered."""

    status: int
    retry_after: str = ""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class ReceiverCaller:
    """Makes attempts, from any thread."""

    def __init__(self, hosts: CallbackHosts, *, resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._context = ssl.create_default_context()
        self._context.set_alpn_protocols(["http/1.1"])

    def post(
        self, target: CallbackTarget, headers: dict[str, str], body: bytes, *, until: float
    ) -> ReceiverAnswer:
        """POST `body`, until that monotonic time at most. Raises AttemptFailed."""
        try:
            connection = http.client.HTTPConnection(target.host, target.port)
            with contextlib.closing(self._connect(target, until)) as connected:
                # It has what http.client asks of a socket.
                connection.sock = cast("socket.socket", _TimedSocket(connected, until))
                connection.request("POST", target.target, body, {"Host": target.authority, **headers})
                with connection.getresponse() as response:
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        response.read(_READ_BYTES)
                    return ReceiverAnswer(response.status, response.headers.get("Retry-After", ""))
        except TimeoutError:
            raise AttemptFailed("it did not answer in time") from None
        except ssl.SSLCertVerificationError as error:
            raise AttemptFailed(f"its certificate is refused: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else ""
            raise AttemptFailed(f"{type(error).__name__} {reason or ''}".strip()) from None

    def _connect(self, target: CallbackTarget, until: float) -> socket.socket:
        """A connection to an address that was checked, not to a name: a second look-up may find another."""
        addresses = self._resolve(target.host, target.port)
        for address in addresses:
            if not self._hosts.permits(address, target):
                entry = self._hosts.entry_for(address, target)
                raise AttemptFailed(f"it is at {address}, and WEBHOOK_HOSTS does not list {entry}")
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                sock = socket.create_connection(
                    (address, target.port), timeout=min(CONNECT_S, _left_s(until))
                )
            except OSError as error:
                failure = error
                continue
            try:
                sock.settimeout(_left_s(until))
                if target.scheme == "http":
                    return sock
                return self._context.wrap_socket(sock, server_hostname=target.host)
            except BaseException:
                sock.close()
                raise
        raise failure


def _left_s(until: float) -> float:
    """Raises TimeoutError where there is none: a socket takes 0 for `never wait`."""
    if (left_s := until - time.monotonic()) <= 0:
        raise TimeoutError
    return left_s


class _TimedSocket:
    """A socket all of whose operations together end at one time: a receiver may trickle byte by byte."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(_left_s(self._until))
            rest = rest[self._sock.send(rest) :]

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """A file to read the answer from."""
        return io.BufferedReader(_TimedReader(self._sock, self._until))

    def close(self) -> None:
        """Its maker closes it."""


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, until: float) -> None:
        super().__init__()
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # any writable buffer
        self._sock.settimeout(_left_s(self._until))
        return self._sock.recv_into(buffer)
