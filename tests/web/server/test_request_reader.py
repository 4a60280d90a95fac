"""A request on its way in: where it ends, what is refused and when, in however many pieces it comes."""

import io
from typing import Any

import pytest
from gunicorn.config import Config

from broker.errors import ClientError
from web.server import bodies, request_reader
from web.server.refusals import HeaderTooLarge, RequestHead, UploadTimeout, UploadTooLarge, UriTooLong
from web.server.request_reader import Arrival

CFG = Config()
AT_MOST = 1000
NOW = 100.0


def begin(*, now: float = NOW) -> Arrival:
    """The first request of a connection."""
    return Arrival(CFG, ("127.0.0.1", 1), number=1, at_most=AT_MOST, now=now)


def request(*lines: str, body: bytes = b"", line: str = "POST /predict HTTP/1.1") -> bytes:
    """A request's bytes."""
    return "\r\n".join([line, "Host: x", *lines, "", ""]).encode("latin-1") + body


def sized(body: bytes) -> bytes:
    """A request with this body."""
    return request(f"Content-Length: {len(body)}", body=body)


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A request with a body in these chunks."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return request("Transfer-Encoding: chunked", body=framed + end)


def feed_all(coming: Arrival, sent: bytes, piece: int) -> None:
    """Feed it in pieces of a size; it must not get whole."""
    for at in range(0, len(sent), piece):
        assert not coming.feed(sent[at : at + piece], NOW)


def read(opened: Any) -> bytes:  # noqa: ANN401 - Gunicorn has no types
    """The body as the app reads it."""
    assert isinstance(opened.body, io.BytesIO)
    return opened.body.read()


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (request(line="GET /healthz HTTP/1.1"), b""),
        (b"GET / HTTP/1.0\r\n\r\n", b""),
        (b"\r\n" + request(), b""),
        (sized(b""), b""),
        (sized(b"abc" * 300), b"abc" * 300),
        (chunked(), b""),
        (chunked(b"ab", b"c" * 500), b"ab" + b"c" * 500),
        (chunked(b"ab", end=b"0\r\nX: y\r\n\r\n"), b"ab"),
        (request("Transfer-Encoding: chunked", body=b'002 ;a=b;c="d"\r\nab\r\n0\r\n\r\n'), b"ab"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_request_ends_where_it_ends_in_however_many_pieces(sent: bytes, body: bytes, piece: int) -> None:
    both = sent + b"NEXT"
    coming = begin()
    for at in range(0, len(both), piece):
        if coming.feed(both[at : at + piece], NOW):
            break
    assert at <= len(sent) - 1 < at + piece
    assert coming.rest == both[len(sent) : at + piece]
    assert read(coming.opened()) == body


def test_the_parsed_request_is_gunicorn_s() -> None:
    coming = begin()
    assert coming.feed(request("A: b", line="GET /x?y=z HTTP/1.1"), NOW)
    opened = coming.opened()
    assert (opened.method, opened.path, opened.query) == ("GET", "/x", "y=z")
    assert ("A", "b") in opened.headers


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (sized(b"x" * (AT_MOST + 1))[: -AT_MOST - 1], UploadTooLarge),  # from the head
        (chunked(b"x" * (AT_MOST + 1))[: -AT_MOST - 8], UploadTooLarge),  # from the chunk's size
        (chunked(b"x" * AT_MOST, b"x")[:-6], UploadTooLarge),
        (request("Content-Length: 9" + "9" * 5000), ClientError),
        (request("Content-Length: -1"), ClientError),
        (request("Content-Length: 1_0"), ClientError),
        (request("Content-Length: \xb2"), ClientError),
        (request("Content-Length: 3", "Content-Length: 3"), ClientError),
        (request("Content-Length: 3", "Transfer-Encoding: chunked"), ClientError),
        (request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), ClientError),
        (request("Transfer-Encoding: gzip"), ClientError),
        (request("Transfer-Encoding: xchunked"), ClientError),
        (request("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), ClientError),
        (request("Expect: a miracle"), ClientError),
        (request(" folded"), ClientError),
        (request(line="POST /"), ClientError),
        (request(line="POST / HTTP/2.0"), ClientError),
        (request(line="\x16\x03\x01"), ClientError),
        (b"\r\n\r\n", ClientError),
        (b"GET / HTTP/1.1\n", ClientError),
        (b"GET / HTTP/1.1\r\nHost: x\n", ClientError),
        (b"GET /" + b"x" * request_reader.MAX_LINE_BYTES, UriTooLong),
        (request(line="GET /" + "x" * 4081 + " HTTP/1.1"), UriTooLong),
        (request("A: " + "x" * 9000), HeaderTooLarge),
        (request(*["A: b"] * 200), HeaderTooLarge),
        (request("A: " + "x" * request_reader.MAX_HEAD_BYTES)[:-4], HeaderTooLarge),
    ],
)
@pytest.mark.parametrize("piece", [1, 100_000])
def test_what_can_not_be_is_refused_at_its_last_byte(
    sent: bytes, error: type[ClientError], piece: int
) -> None:
    coming = begin()
    with pytest.raises(ClientError) as caught:
        feed_all(coming, sent, piece)
    assert type(caught.value) is error
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "framing",
    [
        b"ZZZ\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1 \r\n",
        b"+1\r\n",
        b"1;\x00\r\n",
        b"1;" + b"a" * bodies.MAX_CHUNK_LINE + b"\r\n",
        b"1\nab",
        b"2\r\nabc\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"0" * bodies.MAX_CHUNK_LINE,
        b"1" * 17 + b"\r\n",
        b"0\r\n" + b"x" * bodies.MAX_TRAILERS,
    ],
)
@pytest.mark.parametrize("piece", [1, 100_000])
def test_chunks_that_can_not_be_are_refused(framing: bytes, piece: int) -> None:
    coming = begin()
    framing = framing.ljust(300, b"\n") if framing == b"1\nab" else framing
    assert not coming.feed(request("Transfer-Encoding: chunked"), NOW)
    with pytest.raises(ClientError):
        feed_all(coming, framing, piece)


def test_trailers_that_can_not_be_are_refused_once_they_are_whole() -> None:
    coming = begin()
    assert coming.feed(chunked(b"a", end=b"0\r\nContent-Length: 3\r\n\r\n"), NOW)
    with pytest.raises(ClientError, match="chunks"):
        coming.opened()


def test_bytes_that_gunicorn_s_reader_leaves_are_refused_not_kept() -> None:
    body = bodies.ChunkedBody(object(), AT_MOST)
    body._raw += b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"  # as if the end had been found there
    with pytest.raises(ClientError, match="end twice"):
        body.opened()


def _form(*parts: bytes, boundary: bytes = b"--x1") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


_FILE = (
    b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n\xff\xd8 priority \r\n\r\n model'
)
_TEXT = b'Content-Disposition: form-data; name="model"\r\n\r\ndigits'


@pytest.mark.parametrize(
    ("kind", "body", "names"),
    [
        ("multipart/form-data; boundary=--x1", _form(_FILE), ()),
        ('multipart/form-data;boundary="--x1"', _form(_FILE, _TEXT), ("model",)),
        ("multipart/form-data; boundary=--x1", _form(_TEXT, _FILE), ("model",)),
        ("multipart/form-data; boundary=--x1", _form(_TEXT).replace(b"\r\n", b"\n"), ("model",)),
        ("multipart/form-data; boundary=--x1", b"--" * 400, ()),
        # Perhaps read in another way: all of the body counts.
        ("multipart/form-data; boundary=--x1; charset=x", _form(_FILE), ("model", "priority")),
        ("Multipart/Form-Data; boundary=--x1", _form(_FILE), ("model", "priority")),
        ("application/json", b'{"model": "digits"}', ("model",)),
        ("application/x-www-form-urlencoded", b"priority=low", ("priority",)),
        ("", b"model", ("model",)),
    ],
)
def test_a_field_is_looked_for_where_one_can_be_named(kind: str, body: bytes, names: tuple[str, ...]) -> None:
    coming = begin()
    assert coming.feed(request(f"Content-Type: {kind}", f"Content-Length: {len(body)}", body=body), NOW)
    words = ("model", "priority", "callback_url")
    assert tuple(word for word in words if coming.mentions(word.encode())) == names
    assert read(coming.opened()) == body
    coming.forget_body()
    assert not coming.mentions(b"model")


def test_of_a_form_with_more_parts_than_any_has_all_counts() -> None:
    form = b"--x\r\n\r\n" * bodies.MAX_HEADS
    assert b"model" not in bodies.part_heads(form + b"model", b"x")
    assert b"model" in bodies.part_heads(form + b"--x\r\n\r\nmodel", b"x")


@pytest.mark.parametrize("field", ["Content-Encoding: gzip", "Transfer-Encoding: chunked"])
def test_what_can_not_be_searched_may_name_any_field(field: str) -> None:
    coming = begin()
    body = b"3\r\nabc\r\n0\r\n\r\n" if "chunked" in field else b""
    assert coming.feed(request(field, body=body), NOW)
    assert coming.mentions(b"priority")


def test_more_chunks_than_anybody_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_CHUNKS", 10)
    assert begin().feed(chunked(*[b"x"] * 9), NOW)
    with pytest.raises(UploadTooLarge, match="10 chunks"):
        begin().feed(chunked(*[b"x"] * 10), NOW)


def test_a_client_is_told_to_continue_once_its_head_is_accepted_and_only_then() -> None:
    head = request("Content-Length: 3", "Expect: 100-continue")
    coming = begin()
    seen = []
    for piece in (head[:-1], head[-1:]):
        assert not coming.feed(piece, NOW)
        seen.append(coming.wants_continue)
    assert seen == [False, True]
    assert coming.feed(b"abc", NOW)
    assert not coming.opened()._expected_100_continue
    at_once = begin()
    assert not at_once.feed(head + b"a", NOW)
    assert not at_once.wants_continue
    with pytest.raises(UploadTooLarge):
        begin().feed(request(f"Content-Length: {AT_MOST + 1}", "Expect: 100-continue"), NOW)


def test_a_head_has_its_time_however_busy_its_client_is() -> None:
    coming = begin()
    for second in range(4):
        coming.feed(b"G", NOW + second)
        assert coming.deadline == NOW + request_reader.HEAD_S
    assert "head" in coming.late().message


def test_a_body_must_go_on_and_at_a_pace() -> None:
    coming = Arrival(CFG, None, number=1, at_most=10_000_000, now=NOW)
    coming.feed(request("Content-Length: 10000000"), NOW)
    assert coming.deadline == NOW + request_reader.SILENCE_S
    coming.feed(b"x" * 100_000, NOW + 1)
    assert coming.deadline == NOW + 1 + request_reader.SILENCE_S
    coming.feed(b"x", NOW + 7)
    assert coming.deadline == pytest.approx(
        NOW + request_reader.GRACE_S + 100_001 / request_reader.PACE_BYTES_PER_S
    )
    late: UploadTimeout = coming.late()
    assert "16 KB/s" in late.message


def test_what_is_held_is_counted() -> None:
    coming = begin()
    coming.feed(b"GET", NOW)
    assert coming.held == 3
    sent = sized(b"x" * 100)
    other = begin()
    other.feed(sent[:-40], NOW)
    assert other.held == 60
    other.feed(sent[-40:] + b"rest", NOW)
    assert other.held == 104


def test_a_refusal_s_head_is_known_before_the_body_is_refused() -> None:
    coming = begin()
    with pytest.raises(UploadTooLarge):
        coming.feed(
            request(
                "Origin: https://a.example",
                f"Content-Length: {AT_MOST + 1}",
                line="POST /infer?model=digits HTTP/1.1",
            ),
            NOW,
        )
    assert coming.head == RequestHead("https://a.example", method="POST", path="/infer", query="model=digits")
