"""Requests as bytes: read again with the standard library's parsers."""

import asyncio
import base64
import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from loadtest.sending.messages import Target, Traffic
from loadtest.sending.target import PreparedRequest, address, is_batchwire, prepare
from loadtest.sending.traffic import RequestChoice, Requests

PICTURE = b"\xff\xd8 not really\r\n--\r\n\x00"


def prepared(
    target: Target, tmp_path: Path, *models: str, name: str = "a cat.jpg"
) -> dict[RequestChoice, PreparedRequest]:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(PICTURE)
    # A file without a suffix is taken where it is named, not where its folder is.
    path = tmp_path if Path(name).suffix else tmp_path / name
    requests = Requests(Traffic(paths=(str(path),)))
    return asyncio.run(prepare(target, requests, list(models) or [""]))


def one(target: Target, tmp_path: Path, *, model: str = "", name: str = "a cat.jpg") -> PreparedRequest:
    return prepared(target, tmp_path, model, name=name)[RequestChoice(name, model, polled=False)]


@pytest.mark.parametrize(
    ("url", "batchwire"),
    [
        ("http://h", True),
        ("http://h/", True),
        ("http://h:5000", True),
        ("http://h/predict", False),
        ("http://h?key=1", False),
        ("http://h/?key=1", False),
    ],
)
def test_an_address_of_a_server_only_is_batchwires(url: str, batchwire: bool) -> None:
    assert is_batchwire(url) is batchwire


@pytest.mark.parametrize(
    ("url", "model", "top", "expected"),
    [
        ("http://h:5000", "", None, "http://h:5000/predict"),
        ("http://h:5000/", "", None, "http://h:5000/predict"),
        ("http://h", "digits", None, "http://h/predict?model=digits"),
        ("http://h", "", 3, "http://h/predict?top=3"),
        ("http://h", "a&b c", 3, "http://h/predict?model=a%26b+c&top=3"),
        ("http://h/v1/models/{model}:predict", "m", 3, "http://h/v1/models/m:predict"),
        ("http://h/x?key=1", "m", 3, "http://h/x?key=1"),
        ("http://h?key=1", "m", 3, "http://h?key=1"),
    ],
)
def test_address(url: str, model: str, top: int | None, expected: str) -> None:
    assert address(Target(url, top=top), model) == expected


def parsed(request: PreparedRequest) -> list[EmailMessage]:
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.body, policy=policy.HTTP)
    assert isinstance(message, EmailMessage)
    assert message.get_content_type() == "multipart/form-data"
    assert not message.defects
    parts = list(message.iter_parts())
    assert all(isinstance(part, EmailMessage) for part in parts)
    return [part for part in parts if isinstance(part, EmailMessage)]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a cat.jpg", "image/jpeg"),
        ("deep/b.PNG", "image/png"),
        ('a "cat" \\ é 猫.gif', "image/gif"),
        ("100%20.jpg", "image/jpeg"),
        ("no-suffix", "application/octet-stream"),
    ],
)
def test_multipart_is_one_form_field_with_the_picture(name: str, content_type: str, tmp_path: Path) -> None:
    request = one(Target("http://h", field="file"), tmp_path, name=name)
    (part,) = parsed(request)
    assert part.get_content_disposition() == "form-data"
    assert part.get_param("name", header="content-disposition") == "file"
    assert (part.get_filename(), part.get_content_type()) == (name, content_type)
    assert part.get_payload(decode=True) == PICTURE


def test_multipart_is_byte_for_byte_what_a_browser_sends(tmp_path: Path) -> None:
    request = one(Target("http://h"), tmp_path)
    boundary = request.headers["Content-Type"].removeprefix("multipart/form-data; boundary=").encode()
    head = b'Content-Type: image/jpeg\r\nContent-Disposition: form-data; name="image"; filename="a cat.jpg"'
    assert boundary
    assert request.body == b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (boundary, head, PICTURE, boundary)


def test_raw_is_the_picture_itself(tmp_path: Path) -> None:
    request = one(Target("http://h/x", body="raw"), tmp_path)
    assert (request.url, request.body) == ("http://h/x", PICTURE)
    assert request.headers == {"Content-Type": "image/jpeg"}


TEMPLATE = '{"image": "$image_base64", "name": "${name}", "model": "$model", "cost": "$$1"}'


@pytest.mark.parametrize("name", ["a cat.jpg", 'a "cat" \\n é.jpg'])
def test_a_template_is_filled_in_as_json(name: str, tmp_path: Path) -> None:
    request = one(Target("http://h/x", body=TEMPLATE), tmp_path, model="m", name=name)
    found = json.loads(request.body)
    assert found == {"image": base64.b64encode(PICTURE).decode(), "name": name, "model": "m", "cost": "$1"}
    assert request.headers == {"Content-Type": "application/json"}
    assert name.count("é") == request.body.count("é".encode())


def test_headers_are_added_and_replace_ours_in_any_case(tmp_path: Path) -> None:
    headers = (("X-Key", "k"), ("content-type", "image/x"), ("prefer", "wait=9"))
    found = prepared(Target("http://h/x", body="raw", headers=headers), tmp_path)
    plain, polled = (
        found[RequestChoice("a cat.jpg", "", polled=False)],
        found[RequestChoice("a cat.jpg", "", polled=True)],
    )
    assert plain.headers == {"X-Key": "k", "content-type": "image/x", "prefer": "wait=9"}
    assert polled.headers == {"X-Key": "k", "content-type": "image/x", "Prefer": "respond-async"}


def test_a_polled_request_differs_by_its_header_alone(tmp_path: Path) -> None:
    found = prepared(Target("http://h"), tmp_path)
    plain, polled = (
        found[RequestChoice("a cat.jpg", "", polled=False)],
        found[RequestChoice("a cat.jpg", "", polled=True)],
    )
    assert polled.headers == {**plain.headers, "Prefer": "respond-async"}
    assert polled.url == plain.url
    assert polled.body is plain.body


def test_every_choice_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"b")
    found = prepared(Target("http://h"), tmp_path, "", "m")
    assert set(found) == {
        RequestChoice(name, model, polled)
        for name in ("a cat.jpg", "b.png")
        for model in ("", "m")
        for polled in (False, True)
    }
    assert {choice.model: each.url for choice, each in found.items()} == {
        "": "http://h/predict",
        "m": "http://h/predict?model=m",
    }
    for choice, each in found.items():
        assert parsed(each)[0].get_filename() == choice.picture
