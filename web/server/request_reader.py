"""One request on its way in: from the bytes as they come to a whole request, or to its refusal.

Owns the bounds on a request's size and on its client's pace. Pure: no sockets, no clock. What a head means
is Gunicorn's parser's to say, which reads it once, as soon as it is whole; two readings could differ.
"""

import functools
import logging
import re
from typing import Any, ClassVar, Final

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import InvalidHTTPVersion, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from broker.errors import ClientError
from web.server.bodies import ChunkedBody, SizedBody
from web.server.proxies import TrustedProxies
from web.server.refusals import HeaderTooLarge, RequestHead, UploadTimeout, UploadTooLarge, UriTooLong

_LOG: Final = logging.getLogger(__name__)

HEAD_S: Final = 5.0
"""A head must be whole so long after its first byte."""

SILENCE_S: Final = 5.0
"""A body must not stand still for so long."""

GRACE_S: Final = 5.0
PACE_BYTES_PER_S: Final = 16 * 1024
"""After the grace a body must have come this fast on average; a phone on a bad day sends three times that."""

MAX_HEAD_BYTES: Final = 32 * 1024
"""A head with its request line; browsers and proxies send one or two kilobytes."""

MAX_LINE_BYTES: Final = 4094
"""The request line; the bound that Gunicorn's parser has, too."""

_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
"""A host and perhaps a port (RFC 9110, section 7.2); empty where the address names no host."""


class _ParserSettings:
    """Gunicorn's settings, each looked up once.

    Its Config finds them anew each time, 14 for a head: a quarter of the parser's time.
    """

    def __init__(self, cfg: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - Gunicorn has no types
        value = self.__dict__[name] = getattr(self._cfg, name)
        return value


_parser_settings: Final = functools.lru_cache(maxsize=1)(_ParserSettings)
"""Those of a process, which do not change while it serves."""

_FORM: Final = re.compile(r'multipart/form-data; ?boundary=("?)([A-Za-z0-9_.+-]{1,70})\1')
"""A Content-Type that can be read in one way only, as most are."""

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class Arrival:
    """A request that is on its way. `number`: which one of its connection it is."""

    proxies: ClassVar[TrustedProxies | None] = None
    """Those in front, if any; the settings hand them in before the first request (wsgi.py)."""

    def __init__(self, cfg: Any, peer: Any, *, number: int, at_most: int, now: float) -> None:  # noqa: ANN401
        self.deadline = now + HEAD_S
        """When it must have gone on, by the caller's clock."""
        self.wants_continue = False
        """The client waits for `100 Continue` before its body; the next byte clears this."""
        self.rest = b""
        """What came after the request: the beginning of the next."""
        self.held = 0
        """Bytes in memory."""
        self.received = 0
        """Bytes of the body that have come."""
        self.began_at = now
        self.is_judged = False
        """Its head was looked at, before its body is whole."""
        self.head = RequestHead()
        """Known once the head is whole."""
        self._cfg = cfg
        self.client = peer
        """Who sends it: the socket's peer, or whom a trusted proxy names."""
        self._peer = peer
        self._number = number
        self._at_most = at_most
        self._head = bytearray()
        self._scanned = 0
        self._request: Any = None
        self._body: SizedBody | ChunkedBody = SizedBody(0)
        self._body_began = 0.0
        self._boundary = b""
        """The form's; empty where it is no form, or not surely."""
        self._naming: bytes | None = None
        """What of a whole body may name a field."""

    def feed(self, data: memoryview | bytes, now: float) -> bool:
        """Take what came; return whether the request is whole. Raises ClientError (bad_request and its kin).

        The verdict on some bytes is the same in however many pieces they come.
        """
        if self._request is None:
            self._head += data
            end = self._head_end()
            if not end:
                self.held = len(self._head)
                return False
            data = bytes(self._head[end:])
            self._begin_body(bytes(self._head[:end]), now)
        rest = self._body.feed(data)
        self.held = self.received = self._body.received
        if rest is not None:
            self.rest = rest
            self.held += len(rest)
            self.wants_continue = False
            return True
        if self._body.received:
            self.wants_continue = False
        paced = self._body_began + GRACE_S + self._body.received / PACE_BYTES_PER_S
        self.deadline = min(now + SILENCE_S, paced)
        return False

    def late(self) -> UploadTimeout:
        """The refusal of one whose deadline has passed."""
        if self._request is None:
            return UploadTimeout(f"The request's header section was not complete after {HEAD_S:g} s.")
        return UploadTimeout(
            f"Nothing came for {SILENCE_S:g} s, or less than {PACE_BYTES_PER_S // 1024} KB/s; send it again."
        )

    def opened(self) -> Any:  # noqa: ANN401 - Gunicorn has no types
        """The whole request as Gunicorn parsed it, its body ready to be read. Raises ClientError."""
        body = self._body
        self._request.body = body.opened() if isinstance(body, ChunkedBody) else body.buffer
        return self._request

    def mentions(self, word: bytes) -> bool:
        """Whether the body of a whole request may name a field so. In chunks or compressed any body may."""
        if isinstance(self._body, ChunkedBody) or self.head.is_compressed:
            return True
        if self._naming is None:
            self._naming = self._body.naming(self._boundary)
        return word in self._naming

    def closes(self) -> bool:
        """Whether a whole request asks to close its connection after the answer."""
        return bool(self._request.should_close())

    def forget_body(self) -> None:
        """Let go of the body of a whole request, which nobody will read."""
        self._body = SizedBody(0)
        self._naming = None
        self.held = len(self.rest)

    def _head_end(self) -> int:
        """Where the head ends; 0 while it does not. Raises for the first byte that makes it hopeless."""
        head = self._head
        line_begin = 2 if head.startswith(b"\r\n") else 0  # Gunicorn passes over one empty line
        line_limit = line_begin + MAX_LINE_BYTES + 2
        end = head.find(b"\r\n\r\n", max(0, self._scanned - 3))
        reach = end + 4 if end >= 0 else len(head)
        is_long = head.find(b"\r\n", line_begin, line_limit) < 0
        # Not beyond the head: a body of 100 KB behind it took a millisecond, as long as all else together.
        bare_lf = _BARE_LF.search(head, self._scanned, min(reach, MAX_HEAD_BYTES))
        if bare_lf and not (is_long and bare_lf.start() >= line_limit):
            raise ClientError("The request can't be read: its lines must end with CR LF.")
        if is_long and reach >= line_limit:
            raise UriTooLong(f"The request's first line is longer than {MAX_LINE_BYTES} bytes.")
        if reach > MAX_HEAD_BYTES:
            raise HeaderTooLarge(f"The request's header section is larger than {MAX_HEAD_BYTES // 1024} KB.")
        self._scanned = len(head)
        return end + 4 if end >= 0 else 0

    def _begin_body(self, head: bytes, now: float) -> None:
        self._head = bytearray()
        try:
            request = Request(_parser_settings(self._cfg), IterUnreader([head]), self._peer, self._number)
        except LimitRequestLine:
            raise UriTooLong(f"The request's first line is longer than {MAX_LINE_BYTES} bytes.") from None
        except LimitRequestHeaders:
            raise HeaderTooLarge("The request has too many header fields, or one that is too long.") from None
        except InvalidHTTPVersion:
            raise _other_version() from None
        except ParseException as error:
            _LOG.debug("A request can't be read: %r", error)
            raise ClientError(
                "The request can't be read: its first line or a header field is not HTTP."
            ) from None
        fields = dict(reversed(request.headers))  # the first of each name
        self.head = RequestHead(
            fields.get("ORIGIN", ""),
            fields.get("X-REQUEST-ID", ""),
            method=request.method,
            path=request.path,
            query=request.query or "",
            has_preference="PREFER" in fields,
            authorization=fields.get("AUTHORIZATION", ""),
            x_api_key=fields.get("X-API-KEY", ""),
            is_head=request.method == "HEAD",
            is_compressed="CONTENT-ENCODING" in fields,
        )
        if (form := _FORM.fullmatch(fields.get("CONTENT-TYPE", ""))) is not None:
            self._boundary = form[2].encode()
        if self.proxies is not None:
            forwarded_for = [value for name, value in request.headers if name == "X-FORWARDED-FOR"]
            self.client = self.proxies.client(self._peer, forwarded_for)
        _require_one_reading(request)
        # Gunicorn would send it again.
        self.wants_continue, request._expected_100_continue = request._expected_100_continue, False
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            self._body = ChunkedBody(request, self._at_most)
        elif reader.length > self._at_most:
            raise UploadTooLarge.than(self._at_most)
        else:
            self._body = SizedBody(reader.length)
        self._request = request
        self._body_began = now


def _require_one_reading(request: Any) -> None:  # noqa: ANN401 - Gunicorn has no types
    """Refuse what Gunicorn takes, but a proxy before it may take for something else.

    Two hosts are two readings of one request: RFC 9112 (sections 2.3 and 3.2) has it refused.
    """
    if request.version not in ((1, 0), (1, 1)):
        raise _other_version()
    hosts = [value for name, value in request.headers if name == "HOST"]
    if len(hosts) > 1 or (not hosts and request.version != (1, 0)):
        raise ClientError("The request can't be read: it must have one Host field.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise ClientError("The request can't be read: its Host field is no name or address.")
    if "#" in request.uri:
        raise ClientError("The request can't be read: its address has a fragment, which no client sends.")
    if request.path.startswith("//"):  # the app's routes pass over it, a proxy's rules for a path may not
        raise ClientError("The request's path begins with two slashes: leave one out.")
    codings = {value.strip().lower() for name, value in request.headers if name == "TRANSFER-ENCODING"}
    if not codings <= {"chunked"}:
        raise ClientError("The body can't be read: chunked is the only transfer coding that is taken.")


def _other_version() -> ClientError:
    return ClientError("The request can't be read: only HTTP/1.1 and HTTP/1.0 are spoken here.")
