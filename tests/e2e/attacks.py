"""Requests that try to be two, or another than they seem, as data: what is sent, and the only right answers.

Used by test_attacks.py, against a web process alone: `POST /healthz` is answered 405 once its body has been
understood. What is in hostile_cases.py (sizes, slow clients, pictures) is not here.
"""

from dataclasses import dataclass
from typing import Final

SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
"""Nobody may answer this: it is in the body, or behind the doubtful end, of another request."""

OPEN: Final = "open"
"""The connection goes on with the next request."""
CLOSED: Final = "closed"
"""It is closed after the last answer: what would come next is in doubt, or the client wants it so."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What is sent in one go, the statuses of all answers, and what becomes of the connection."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    ends: str = CLOSED
    smuggles: bool = False
    """It is tried through nginx as well."""


def _head(*fields: bytes, line: bytes = b"GET /healthz HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def _post(*fields: bytes, body: bytes = b"") -> bytes:
    return _head(*fields, line=b"POST /healthz HTTP/1.1") + body


def _chunked(body: bytes, *fields: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", *fields, body=body)


def _refused(name: str, sent: bytes, status: int = 400) -> Attack:
    return Attack(name, sent, (status,))


def _framed(name: str, sent: bytes, status: int = 400) -> Attack:
    """Refused, for its end is in doubt; with a request behind that doubtful end."""
    return Attack(name, sent + SMUGGLED, (status,), smuggles=True)


def _doubtful(name: str, sent: bytes, status: int = 400) -> Attack:
    """The same, which nginx reads in one way and passes on in its own words: no doubt is left behind it."""
    return Attack(name, sent + SMUGGLED, (status,))


def _taken(name: str, sent: bytes, status: int = 200, ends: str = OPEN) -> Attack:
    return Attack(name, sent, (status,), ends)


_SIZED: Final = b"Content-Length: %d" % len(SMUGGLED)
_CHUNKS: Final = b"3\r\nabc\r\n0\r\n\r\n"

LENGTHS: Final = [
    _doubtful(
        "a length and chunks", _post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")
    ),
    _doubtful(
        "chunks and a length", _post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n")
    ),
    _doubtful("two lengths", _post(b"Content-Length: 3", _SIZED, body=b"abc")),
    _doubtful("one length twice", _post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    _doubtful("two lengths in a field", _post(b"Content-Length: 3, 3", body=b"abc")),
    _doubtful("a negative length", _post(b"Content-Length: -1")),
    _doubtful("a length with a plus", _post(b"Content-Length: +3", body=b"abc")),
    _doubtful("a length in hexadecimal", _post(b"Content-Length: 0x3", body=b"abc")),
    _doubtful("a length with an underscore", _post(b"Content-Length: 1_0", body=b"abc")),
    _doubtful("a length in Arabic digits", _post(b"Content-Length: \xd9\xa3", body=b"abc")),
    _doubtful("a length with words behind it", _post(b"Content-Length: 3 bytes", body=b"abc")),
    _doubtful("an empty length", _post(b"Content-Length:")),
    _doubtful("a fraction as length", _post(b"Content-Length: 3.0", body=b"abc")),
    _doubtful("a length beyond all numbers", _post(b"Content-Length: " + b"9" * 30), 413),
    _doubtful("a length on a folded line", _post(b"Content-Length:\r\n 3", body=b"abc")),
    _doubtful("a length with a space before the colon", _post(b"Content-Length : 3", body=b"abc")),
    _doubtful("a length with a NUL", _post(b"Content-Length: 3\x00", body=b"abc")),
    _taken("a length with zeros before it", _post(b"Content-Length: 003", body=b"abc"), 405),
    _taken("a length among spaces", _post(b"Content-Length: \t 3 ", body=b"abc"), 405),
    Attack("a request as the body of a GET", _head(_SIZED) + SMUGGLED, (200,), OPEN, smuggles=True),
    Attack("a request as the body of a POST", _post(_SIZED, body=SMUGGLED), (405,), OPEN, smuggles=True),
    Attack("a length with an underscore in its name", _head(b"Content_Length: 9"), (200,), OPEN),
]

CODINGS: Final = [
    _doubtful(f"the coding {shown!r}", _post(b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n"))
    for shown, coding in {
        "gzip, chunked": b"gzip, chunked",
        "chunked, gzip": b"chunked, gzip",
        "chunked, chunked": b"chunked, chunked",
        "xchunked": b"xchunked",
        "identity": b"identity",
        "chunked;q=1": b"chunked;q=1",
        "'chunked'": b"'chunked'",
        "a comma": b",chunked,",
        "chunked behind VT": b"\x0bchunked",
        "chunked before VT": b"chunked\x0b",
        "chunked with NUL": b"chun\x00ked",
        "nothing": b"",
    }.items()
] + [
    _doubtful("two codings", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: identity")),
    _doubtful("chunked twice", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked")),
    _doubtful("a space before the coding's colon", _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    _doubtful("a folded coding", _post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n")),
    _doubtful("a coding behind a fold", _post(b"A: b\r\n Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    _doubtful("a coding behind a bare LF", _post(b"A: b\nTransfer-Encoding: chunked", body=b"0\r\n\r\n")),
    _doubtful("a coding behind a bare CR", _post(b"A: b\rTransfer-Encoding: chunked", body=b"0\r\n\r\n")),
    _doubtful(
        "chunks in HTTP/1.0",
        _head(b"Transfer-Encoding: chunked", line=b"POST /healthz HTTP/1.0") + b"0\r\n\r\n",
    ),
    _taken("CHUNKED", _post(b"TRANSFER-ENCODING: CHUNKED", body=_CHUNKS), 405),
    _taken("a coding with an underscore in its name", _head(b"Transfer_Encoding: chunked")),
]

CHUNKS: Final = [
    _doubtful(f"the chunk size {line!r}", _chunked(line + b"\r\nabc\r\n0\r\n\r\n"))
    for line in (
        b"+3",
        b"-3",
        b"0x3",
        b"3 ",
        b" 3",
        b"3_0",
        b"",
        b"g",
        b"3;\x00",
        b"3\n",
        b"3\r",
        b"0" * 17 + b"3",
    )
] + [
    _doubtful("a chunk size beyond all numbers", _chunked(b"f" * 16 + b"\r\n"), 413),
    _doubtful("a chunk that is longer than its size", _chunked(b"2\r\nabc\r\n0\r\n\r\n")),
    _doubtful("a chunk that ends with LF", _chunked(b"3\r\nabc\n0\r\n\r\n")),
    _doubtful("a chunk without its end", _chunked(b"3\r\nabc0\r\n\r\n")),
    _doubtful("a trailer that is a length", _chunked(b"0\r\nContent-Length: 9\r\n\r\n")),
    _doubtful("a trailer that is a coding", _chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    _doubtful("a trailer with a NUL", _chunked(b"0\r\nA: \x00\r\n\r\n")),
    _doubtful("a trailer that is folded", _chunked(b"0\r\nA: b\r\n c\r\n\r\n")),
    _doubtful("a trailer with a bare LF", _chunked(b"0\r\nA: b\nC: d\r\n\r\n")),
    _doubtful("a trailer without a colon", _chunked(b"0\r\nhello\r\n\r\n")),
    _taken("an extension", _chunked(b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n'), 405),
    _taken("a trailer", _chunked(b"0\r\nA: b\r\n\r\n"), 405),
    _taken("a last chunk of many zeros", _chunked(b"0000\r\n\r\n"), 405),
    Attack(
        "a request as a chunk",
        _chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
        (405,),
        OPEN,
        True,
    ),
    Attack("two last chunks", _chunked(b"0\r\n\r\n0\r\n\r\n"), (405, 400)),
]

FIELDS: Final = [
    _refused("a folded field", _head(b"A: b\r\n c")),
    _refused("a space before the first field", _head(host=b" Host: x")),
    _refused("a bare CR in a value", _head(b"A: b\rc")),
    _refused("a bare LF in a value", _head(b"A: b\nc: d")),
    _refused("lines that end with LF", b"GET /healthz HTTP/1.1\nHost: x\n\n"),
    _refused("CR CR LF", _head(b"A: b\r")),
    _refused("a NUL in a value", _head(b"A: \x00")),
    _refused("a NUL in a name", _head(b"A\x00: b")),
    _refused("a control character in a value", _head(b"A: \x01")),
    _refused("a space before the colon", _head(b"A : b")),
    _refused("a tab before the colon", _head(b"A\t: b")),
    _refused("a field without a colon", _head(b"A")),
    _refused("a field without a name", _head(b": b")),
    _refused("a name of 8 bits", _head(b"\xc3\xa4: b")),
    _refused("a name in brackets", _head(b"(A): b")),
    _taken("a value of 8 bits", _head(b"A: \xc3\xa4")),
    _refused("101 fields", _head(*[b"A: b"] * 101), 431),
]

LINES: Final = [
    _taken("the absolute form", _head(line=b"GET http://x/healthz HTTP/1.1")),
    _refused("an absolute form that is none", _head(line=b"GET http://[x/healthz HTTP/1.1")),
    _refused("the authority form", _head(line=b"GET x:80 HTTP/1.1")),
    _refused("a target without a slash", _head(line=b"GET healthz HTTP/1.1")),
    _refused("an asterisk", _head(line=b"GET * HTTP/1.1")),
    _refused("a fragment", _head(line=b"GET /healthz#x HTTP/1.1")),
    _refused("a space in the target", _head(line=b"GET /health z HTTP/1.1")),
    _refused("a NUL in the target", _head(line=b"GET /healthz\x00 HTTP/1.1")),
    _refused("a CR in the target", _head(line=b"GET /health\rz HTTP/1.1")),
    _refused("8 bits in the target", _head(line=b"GET /health\xff HTTP/1.1")),
    _refused("a backslash in the target", _head(line=b"GET \\healthz HTTP/1.1")),
    _refused("tabs in the first line", _head(line=b"GET\t/healthz\tHTTP/1.1")),
    _refused("two spaces in the first line", _head(line=b"GET  /healthz HTTP/1.1")),
    _refused("a space behind the version", _head(line=b"GET /healthz HTTP/1.1 ")),
    _refused("two versions", _head(line=b"GET /healthz HTTP/1.1 HTTP/1.1")),
    _refused("a space before the method", _head(line=b" GET /healthz HTTP/1.1")),
    _refused("two empty lines first", b"\r\n\r\n" + _head()),
    _taken("an empty line first", b"\r\n" + _head()),
    _refused("two slashes", _head(line=b"GET //healthz HTTP/1.1")),
    _taken("an encoded NUL", _head(line=b"GET /healthz%00 HTTP/1.1"), 404),
    _taken("an encoded slash", _head(line=b"GET /v2%2fhealth/live HTTP/1.1"), 200),
    _taken("dot segments", _head(line=b"GET /static/../healthz HTTP/1.1"), 404),
    _taken("encoded dot segments", _head(line=b"GET /static/%2e%2e/healthz HTTP/1.1"), 404),
    _taken("lines in the path", _head(line=b"GET /x%0d%0aSet-Cookie:%20a=b HTTP/1.1"), 404),
    _refused("a method in lower case", _head(line=b"get /healthz HTTP/1.1")),
    _refused("a method that is no word", _head(line=b"G@T /healthz HTTP/1.1")),
    _taken("an unknown method", _head(line=b"BREW /healthz HTTP/1.1"), 405),
    _taken("TRACE", _head(line=b"TRACE /healthz HTTP/1.1"), 405),
    _refused("CONNECT", _head(line=b"CONNECT x:443 HTTP/1.1"), 404),
    _refused("HTTP/0.9", b"GET /healthz\r\n\r\n"),
    _refused("HTTP/1.9", _head(line=b"GET /healthz HTTP/1.9")),
    _refused("HTTP/2.0", _head(line=b"GET /healthz HTTP/2.0")),
    _refused("HTTP/1.01", _head(line=b"GET /healthz HTTP/1.01")),
    _refused("http/1.1", _head(line=b"GET /healthz http/1.1")),
    _refused(
        "HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    ),
    _refused("a line of the PROXY protocol", b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n" + _head()),
    _refused("the PROXY protocol's signature", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x00" + _head()),
    _refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
]

HOSTS: Final = [
    _refused("no Host", _head(host=b"")),
    _taken("no Host in HTTP/1.0", _head(host=b"", line=b"GET /healthz HTTP/1.0"), ends=CLOSED),
    _taken("an empty Host", _head(host=b"Host:")),
    _taken("a Host with a port", _head(host=b"Host: [::1]:5000")),
    _refused("two Hosts", _head(b"Host: y")),
    _refused("one Host twice", _head(b"Host: x")),
] + [
    _refused(f"the Host {host!r}", _head(host=b"Host: " + host))
    for host in (b"x y", b"x/y", b"x@y", b"x?y", b"x:y", b"<script>", b"x\xff", b"[::1", b"x:80:80")
]

INTENTIONS: Final = [
    _taken(
        "an upgrade to h2c",
        _head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    ),
    _taken(
        "an upgrade to a WebSocket",
        _head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        400,
    ),
    _refused("another expectation", _head(b"Expect: 200-ok")),
    Attack("100-continue", _post(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc"), (405,), OPEN),
    _taken(
        "SCRIPT_NAME and PATH_INFO",
        _head(b"SCRIPT_NAME: /x", b"PATH_INFO: /models", b"Script-Name: /healthz"),
    ),
    _taken(
        "X-Forwarded-*",
        _head(
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: evil",
            b"X-Forwarded-Prefix: /x",
            b"Forwarded: for=6.6.6.6",
        ),
    ),
    _taken("schemes that disagree", _head(b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off")),
    _taken("another path by a field", _head(b"X-Original-URL: /metrics", b"X-Rewrite-URL: /metrics")),
    _taken("another method by a field", _head(b"X-HTTP-Method-Override: DELETE")),
    _taken("a proxy by a field", _head(b"Proxy: http://6.6.6.6:80")),
    _taken("fields that Connection would drop", _head(b"Connection: keep-alive, Host, Content-Length")),
    Attack("two requests at once", _head() * 2, (200, 200), OPEN),
    Attack("a good request before a bad one", _head() + _head(b"A : b"), (200, 400)),
    Attack("a good request behind a bad one", _head(b"A : b") + SMUGGLED, (400,)),
    Attack("a request behind the last", _head(b"Connection: close") + SMUGGLED, (200,)),
]

ATTACKS: Final = [*LENGTHS, *CODINGS, *CHUNKS, *FIELDS, *LINES, *HOSTS, *INTENTIONS]
