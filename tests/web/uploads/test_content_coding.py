"""Compressed bodies: what clients send, what is bounded, what is refused."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest

from broker.errors import ClientError
from tests.support.pictures import form, png
from tests.support.service import Service
from web.errors import UnsupportedUpload
from web.server.refusals import UploadTooLarge
from web.uploads.content_coding import decoded

_CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "identity": bytes,
}


def _raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


@pytest.mark.parametrize("coding", _CODERS)
@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 2000])
def test_a_body_comes_out_as_it_went_in(coding: str, data: bytes) -> None:
    assert decoded(_CODERS[coding](data), coding.upper(), at_most=len(data)) == data


def test_less_usual_ways() -> None:
    assert decoded(_raw_deflate(b"abc"), "deflate", at_most=9) == b"abc"
    # Stored as it is, with padding that makes its first byte that of zlib's header.
    assert decoded(b"\x08\x03\0\xfc\xffabc\x03\0", "deflate", at_most=9) == b"abc"
    assert decoded(gzip.compress(b"abc") + gzip.compress(b"def"), "gzip", at_most=9) == b"abcdef"
    assert decoded(brotli.compress(gzip.compress(b"abc")), "gzip, br", at_most=99) == b"abc"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_the_bound_holds_after_inflation(coding: str) -> None:
    bomb = _CODERS[coding](b"\0" * 5_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(UploadTooLarge, match="once it is inflated"):
        decoded(bomb, coding, at_most=4_999_999)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda _: b"no such thing", lambda _: b""])
def test_a_broken_body_is_refused_in_words(coding: str, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ClientError, match=f"not the {coding} that its Content-Encoding names"):
        decoded(damage(_CODERS[coding](bytes(range(256)) * 9)), coding, at_most=10_000)


@pytest.mark.parametrize("codings", ["zstd", "compress", "gzip, gzip, gzip"])
def test_other_codings_are_refused_in_words(codings: str) -> None:
    with pytest.raises(UnsupportedUpload, match="send the body"):
        decoded(b"x", codings, at_most=9)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_compressed_picture_is_answered(running: Service, coding: str) -> None:
    response = running.client.post(
        "/predict",
        data=_CODERS[coding](png(255)),
        headers={"Content-Encoding": coding, "Content-Type": "image/png"},
    )
    assert response.get_json()["predictions"][0]["label"] == "bright"


@pytest.mark.parametrize("environment", [{"MAX_UPLOAD_MB": "1"}])
def test_a_bomb_is_too_large(running: Service) -> None:
    response = running.client.post(
        "/predict",
        data=gzip.compress(b"\0" * 3_000_000),
        headers={"Content-Encoding": "gzip", "Content-Type": "image/png"},
    )
    assert (response.status_code, response.get_json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded"])
def test_a_body_that_nothing_is_said_of_is_a_picture(running: Service, kind: str | None) -> None:
    response = running.client.post("/predict", data=png(255), content_type=kind)
    assert response.get_json()["predictions"][0]["label"] == "bright"


def test_a_real_form_of_text_is_still_refused(running: Service) -> None:
    response = running.client.post("/predict", data={"image": "photo.jpg"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (415, "unsupported_format")
    nothing = running.client.post("/predict", data=b"")
    assert (nothing.status_code, nothing.get_json()["error"]["code"]) == (400, "bad_request")


def test_a_refused_type_is_repeated_in_part(running: Service) -> None:
    refused = running.client.post("/predict", data=b"x", content_type=f"text/{'x' * 5000}")
    message = refused.get_json()["error"]["message"]
    assert refused.status_code == 415
    assert message.startswith("A body of text/xxx")
    assert "is not supported: send multipart/form-data" in message
    assert len(message) < 400


def test_a_file_name_in_gbk_is_answered(running: Service) -> None:
    assert running.client.post("/predict", data=form(png(255))).status_code == 200
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="\xcd\xbc.jpg"\r\n\r\n'
    sent = body + png(255) + b"\r\n--b--\r\n"
    response = running.client.post("/predict", data=sent, content_type="multipart/form-data; boundary=b")
    assert response.get_json()["predictions"][0]["label"] == "bright"


def test_a_gzip_body_of_many_members_is_whole_or_refused() -> None:
    empty, last = gzip.compress(b""), gzip.compress(b"abc" * 50_000)
    assert decoded(empty * 999 + last, "gzip", at_most=150_000) == b"abc" * 50_000
    with pytest.raises(ClientError, match="more than 1000 members"):
        decoded(empty * 1000 + last, "gzip", at_most=150_000)


def test_what_follows_a_deflate_body_is_refused() -> None:
    with pytest.raises(ClientError, match="deflate"):
        decoded(zlib.compress(b"abc") + b"abc", "deflate", at_most=9)
