"""Which answers are compressed, and what caches are told of it."""

import gzip

import brotli
import pytest
from flask import Flask
from flask_compress import flask_compress

from tests.support.pictures import png
from tests.support.service import Service
from web.middleware.compression import LEAST_BYTES


@pytest.mark.parametrize("path", ["/", "/status", "/openapi.json", "/docs"])
@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_what_is_long_is_compressed_for_those_who_take_it(service: Service, path: str, coding: str) -> None:
    plain = service.client.get(path)
    assert "Content-Encoding" not in plain.headers
    assert ("Accept-Encoding" in plain.headers.get("Vary", "")) is (len(plain.data) >= LEAST_BYTES)
    packed = service.client.get(path, headers={"Accept-Encoding": coding})
    if len(plain.data) < LEAST_BYTES:
        assert "Content-Encoding" not in packed.headers
        return
    assert packed.headers["Content-Encoding"] == coding
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert (gzip.decompress if coding == "gzip" else brotli.decompress)(packed.data) == plain.data
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 2


def test_an_answer_to_a_picture_is_not_worth_it(running: Service) -> None:
    head = {"Accept-Encoding": "gzip, br"}
    answer = running.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept"


def test_a_picture_is_not_compressed_again(running: Service) -> None:
    head = {"Accept-Encoding": "gzip", "Accept": "image/png"}
    drawn = running.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    assert (drawn.status_code, drawn.mimetype) == (200, "image/png")
    assert len(drawn.data) >= LEAST_BYTES
    assert "Content-Encoding" not in drawn.headers


def test_the_compressed_kind_of_a_file_is_revalidated_by_its_own_etag(service: Service) -> None:
    head = {"Accept-Encoding": "gzip"}
    first = service.client.get("/openapi.json", headers=head)
    assert first.headers["Cache-Control"] == "no-cache"
    etag = first.headers["ETag"]
    assert etag != service.client.get("/openapi.json").headers["ETag"]
    again = service.client.get("/openapi.json", headers={**head, "If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    plain = service.client.get("/openapi.json")
    again = service.client.get("/openapi.json", headers={"If-None-Match": plain.headers["ETag"]})
    assert again.status_code == 304


def test_gzip_q_0_is_a_no(service: Service) -> None:
    answer = service.client.get("/openapi.json", headers={"Accept-Encoding": "gzip;q=0, br;q=0"})
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_file_is_compressed_once_and_other_answers_each_time(
    service: Service, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    compress = flask_compress._compress_data

    def counted(app: Flask, data: bytes, algorithm: str) -> bytes:
        done.append(algorithm)
        return compress(app, data, algorithm)

    monkeypatch.setattr(flask_compress, "_compress_data", counted)
    head = {"Accept-Encoding": coding}
    files = ["/static/x/style.css", "/static/x/swagger-ui/swagger-ui.css"]
    answers = [service.client.get(path, headers=head) for path in files * 3]
    assert done == [coding, coding]
    for path, answer in zip(files * 3, answers, strict=True):
        unpacked = (gzip.decompress if coding == "gzip" else brotli.decompress)(answer.data)
        assert unpacked == service.client.get(path).data
    for _ in range(2):
        service.client.get("/openapi.json", headers=head)
    assert done == [coding] * 4
