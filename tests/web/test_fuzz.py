"""Hostile bytes by the thousand: pictures, forms, whole requests. Each is answered, or refused in words.

The same examples each time (derandomized), in a few seconds; FUZZ_EXAMPLES=20000 runs so many of each kind.
"""

import contextlib
import gc
import io
import itertools
import os
import random
from typing import Any, Final

import numpy as np
import psutil
import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from broker.errors import ClientError
from broker.messages import Fit, InputSpec
from pictures import confined
from pictures.decode import FORMATS
from pictures.fit import prepare
from tests.support.pictures import png
from tests.support.service import Service
from web.server.request_reader import Arrival

EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MAX_PIXELS: Final = 1_000_000


def fuzz(examples: int) -> settings:
    """A seeded run of so many examples, or of as many as the environment asks for."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


def _seeds() -> list[bytes]:
    """Small real files of every format and mode that is taken."""
    noise = Image.fromarray(np.random.default_rng(4).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    made: list[tuple[Image.Image, str, dict[str, object]]] = [(noise, kind, {}) for kind in FORMATS]
    made += [(noise.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    made += [(noise.convert("CMYK"), kind, {}) for kind in ("JPEG", "TIFF")]
    made += [(noise, "JPEG", {"progressive": True}), (noise, "WEBP", {"lossless": True})]
    made += [(noise, "TIFF", {"compression": how}) for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    made += [(noise, kind, {"save_all": True, "append_images": [noise]}) for kind in ("GIF", "PNG", "WEBP")]
    exif = Image.Exif()
    exif[0x0112] = 6
    made.append((noise, "JPEG", {"exif": exif}))
    files = []
    for image, kind, how in made:
        buffer = io.BytesIO()
        image.save(buffer, kind, **how)
        files.append(buffer.getvalue())
    return files


SEEDS: Final = _seeds()
CONFINED: Final = [seed for seed in SEEDS if confined.is_for(seed)]
"""Each is decoded by a process of its own, which takes as long as hundreds of the others do."""
OTHERS: Final = [seed for seed in SEEDS if not confined.is_for(seed)]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of the files with some of its bytes changed, cut, doubled or another file's."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "head", "cut", "splice", "insert"])):
            case "flip":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "head":
                at = min(at, 40)
                data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]))
            case "cut":
                del data[at : at + draw(st.integers(1, 400))]
            case "splice":
                data[at:] = draw(st.sampled_from(files))[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
    return bytes(data)


@pytest.mark.slow
@fuzz(300)
@given(upload=damaged(OTHERS * 2 + CONFINED), fit=st.sampled_from(Fit))
def test_a_picture_is_prepared_or_refused_and_nothing_else(upload: bytes, fit: Fit) -> None:
    spec = InputSpec(8, 6, 1 if fit is Fit.INK else 3, fit)
    with contextlib.suppress(ClientError):  # anything else fails the test
        prepared = prepare(upload, spec, max_pixels=MAX_PIXELS)
        assert prepared.pixels.shape == spec.shape
        assert prepared.pixels.dtype == np.uint8


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_broken_pictures_leave_nothing_behind() -> None:
    seeded = random.Random(7)
    spec = InputSpec(8, 6, 3, Fit.STRETCH)

    def run(count: int) -> int:
        for number in range(count):
            upload = bytearray(seeded.choice(OTHERS if number % 20 else CONFINED))
            for _ in range(4):
                upload[seeded.randrange(len(upload))] = seeded.randrange(256)
            with contextlib.suppress(ClientError):
                prepare(bytes(upload[: seeded.randrange(1, len(upload))]), spec, max_pixels=MAX_PIXELS)
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    warm = run(500)
    # Two kilobytes lost with each would be 2 MB, and so would 40 with each that is decoded elsewhere.
    assert run(1000) - warm < 1_500_000  # it is 0.2 MB


_FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n'
    b"Content-Type: image/png\r\n\r\n" + png(9) + b"\r\n--b--\r\n"
)
_FORMS: Final = [
    _FORM,
    _FORM.replace(b"filename", b"filename*").replace(b'"x.png"', b"utf-8''%ff"),
    b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n' + _FORM,
    b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 1200 + _FORM,
    _FORM[:-6] * 70 + b"--b--\r\n",
    png(3),
    b"",
    b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
    b"a=b&image=c",
    b'{"image": 1}',
    b'{"image": "iVBORw0KGgo=", "top": 2}',
    b'{"image": ["", "data:;base64,AAAA"], "model": "x"}',
]
_TYPES: Final = st.sampled_from(
    [
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 300,
        "multipart/form-data; boundary=b; charset=utf-7",
        "multipart/mixed; boundary=b",
        "image/png",
        "image/",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "application/json",
        "",
        ";;;",
    ]
)
_WORDS: Final = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)


def _is_ours(path: str) -> bool:
    return path.split("?", maxsplit=1)[0] == "/predict"


# Werkzeug leaves the parts of a form that it gives up to Python's collector.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@fuzz(150)
@given(
    body=damaged(_FORMS),
    kind=st.one_of(_TYPES, _TYPES, _WORDS),
    path=st.sampled_from(
        [
            "/predict",
            "/predict",
            "/predict?top=%ff",
            "/predict?model=%00",
            "/predictions/tiny",
            "/predictions/%00",
            "/v1/models/tiny:predict",
            "/v1/models/tiny/versions/%00:classify",
        ]
    ),
    fields=st.dictionaries(
        st.sampled_from(["Prefer", "traceparent", "Cookie", "Content-Encoding", "Host", "Range"]), _WORDS
    ),
)
def test_no_body_is_answered_by_a_500(
    running: Service, body: bytes, kind: str, path: str, fields: dict[str, str]
) -> None:
    response = running.client.post(path, data=body, content_type=kind, headers=fields)
    answer = response.get_json()
    if response.status_code in (200, 202):
        assert answer["success"] in (True, False) if _is_ours(path) else answer
        return
    assert 400 <= response.status_code < 500, response.status_code
    if not _is_ours(path):
        assert [*answer] in (["error"], ["code", "type", "message"])
        return
    for each in answer.get("results", [answer]):
        assert (each["success"], set(each["error"])) == (False, {"code", "message"})
    assert answer["request_id"] == response.headers["X-Request-ID"]


_JSON: Final = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(0, 255),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from([{"b64": ""}, {"b64": "AAAA"}, [[0, 1], [2, 3]], [[[0], [1]], [[2], [3]]]]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner, max_size=2),
    ),
    max_leaves=12,
)


@pytest.mark.slow
@fuzz(150)
@given(
    method=st.sampled_from(["predict", "classify", "regress"]),
    body=st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "signature_name"]), _JSON),
)
def test_no_json_of_tensorflow_serving_is_answered_by_a_500(
    running: Service, method: str, body: dict[str, object]
) -> None:
    response = running.client.post(f"/v1/models/tiny:{method}", json=body)
    assert 200 <= response.status_code < 500, response.status_code
    assert ("error" in response.get_json()) is (response.status_code != 200)


_LINES: Final = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /predict HTTP/1.1",
        b"POST / HTTP/1.0",
        b"Host: x",
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"Content-Length:  3 ",
        b"Content-Length : 3",
        b"Content-Length: 3, 3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Expect: 100-continue",
        b"Connection: close",
        b" folded",
        b"",
        b"",
        b"5",
        b"5;a=b",
        b"0",
        b"abcde",
        b"X: y",
        b"\r",
        b"a\nb",
    ]
)
_SOUND: Final = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1 ; a="b"\r\na\r\n00\r\nX: y\r\n\r\n',
]
REQUESTS: Final = st.one_of(
    st.lists(_LINES, max_size=12).map(b"\r\n".join),
    damaged(_SOUND),
    st.tuples(damaged(_SOUND), damaged(_SOUND)).map(b"".join),
)
CFG: Final = Config()


def _arrived(pieces: list[bytes]) -> tuple[str, bytes, int]:
    """The verdict, the body, and the bytes that the request took."""
    coming = Arrival(CFG, ("127.0.0.1", 1), number=1, at_most=1000, now=0)
    fed = 0
    try:
        for piece in pieces:
            fed += len(piece)
            if coming.feed(piece, 0):
                return "whole", coming.opened().body.read(), fed - len(coming.rest)
    except ClientError as error:
        return error.message, b"", 0
    return "incomplete", b"", 0


def _by_gunicorn(data: bytes) -> tuple[str, bytes, int]:
    """The same by Gunicorn's parser alone, on a connection that ends there."""
    unreader = IterUnreader([data])
    try:
        request: Any = Request(CFG, unreader, ("127.0.0.1", 1))
        length = getattr(request.body.reader, "length", 0)
        body = request.body.read()
        if len(body) < length:
            return "incomplete", b"", 0
    except (NoMoreData, StopIteration):
        return "incomplete", b"", 0
    except ParseException:
        return "refused", b"", 0
    return "whole", body, len(data) - len(unreader.take_buffered())


@pytest.mark.slow
@fuzz(600)
@given(data=REQUESTS, cuts=st.lists(st.integers(0, 300), max_size=6))
def test_a_verdict_does_not_depend_on_the_pieces(data: bytes, cuts: list[int]) -> None:
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(marks)]
    assert _arrived(pieces) == _arrived([data]) == _arrived([bytes([each]) for each in data])


@pytest.mark.slow
@fuzz(600)
@given(data=REQUESTS)
def test_gunicorn_s_parser_agrees_on_every_request_that_is_taken(data: bytes) -> None:
    ours, theirs = _arrived([data]), _by_gunicorn(data)
    if ours[0] == "whole":
        assert theirs == ours
    elif theirs[0] == "whole":  # then we are stricter, and say so
        assert ours[0] != "incomplete"


@pytest.mark.parametrize("sent", _SOUND)
def test_the_sound_requests_are_sound(sent: bytes) -> None:
    assert _arrived([sent])[0] == _by_gunicorn(sent)[0] == "whole"
    assert _arrived([sent])[2] == len(sent)
