"""Pictures as base64 in JSON: one, several, their bounds, and what is refused."""

import base64
import json

import pytest

from broker.errors import ClientError
from tests.support.pictures import png
from tests.support.service import Service
from web.uploads import json_bodies
from web.uploads.parameters import MAX_PICTURES


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_a_picture_is_answered_as_one(running: Service) -> None:
    response = running.client.post("/predict", json={"image": b64(png(255)), "top": 1})
    assert response.status_code == 200
    assert [each["label"] for each in response.get_json()["predictions"]] == ["bright"]


@pytest.mark.parametrize("values", [[0, 255], [0]])
def test_a_list_is_answered_by_a_list_in_its_order(running: Service, values: list[int]) -> None:
    answer = running.client.post("/predict", json={"image": [b64(png(value)) for value in values]}).get_json()
    labels = [each["predictions"][0]["label"] for each in answer["results"]]
    assert (answer["success"], labels) == (True, ["dark", "bright"][: len(values)])


def test_each_picture_of_a_list_fails_alone(running: Service) -> None:
    sent = ["no base64", b64(b"no picture"), b64(png(255))]
    response = running.client.post("/predict", json={"image": sent})
    answer = response.get_json()
    assert (response.status_code, answer["success"]) == (200, False)
    first, second, third = answer["results"]
    assert first["error"]["code"] == second["error"]["code"] == "invalid_image"
    assert (
        "not base64 (RFC 4648): send its bytes in base64, not a path or a URL." in first["error"]["message"]
    )
    assert third["predictions"][0]["label"] == "bright"


def test_the_query_counts_before_the_body(running: Service) -> None:
    body = {"image": b64(png(0)), "model": "other", "top": 1}
    answer = running.client.post("/predict?model=tiny&top=3", json=body).get_json()
    assert (answer["model"], len(answer["predictions"])) == ("tiny", 3)
    # But one that can't be is refused all the same.
    refused = running.client.post("/predict?top=3", json={"image": b64(png(0)), "top": 4})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "bad_request")
    refused = running.client.post("/predict", json=body)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    "prefix", ["data:image/png;base64,", "DATA:;base64,", "data:image/png;name=x.png;base64,"]
)
def test_a_data_url_is_the_picture_in_it(prefix: str) -> None:
    assert json_bodies.read(json.dumps({"image": prefix + b64(b"abc")}).encode()).pictures == [b"abc"]


@pytest.mark.parametrize(
    "text", ["+/+/AAE=", "+/+/\r\nAAE=\r\n", "+/+/AAE", "-_-_AAE=", "-_-_AAE", "data:;base64,-_-_AAE"]
)
def test_base64_as_encoders_spell_it(text: str) -> None:
    assert json_bodies.read(json.dumps({"image": text}).encode()).pictures == [b"\xfb\xff\xbf\0\x01"]


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_passed_over(charset: str) -> None:
    mark = "\ufeff" if charset.endswith("e") else ""  # utf-8-sig and utf-16 write it themselves
    assert json_bodies.read((mark + '{"image": "AAE="}').encode(charset)).pictures == [b"\0\x01"]


def test_a_whole_number_may_have_a_point() -> None:
    assert json_bodies.read(b'{"image": "", "top": 2.0}').parameters == {"top": "2"}


def test_slashes_may_be_escaped() -> None:
    assert json_bodies.read(rb'{"image": "\/9j\/"}').pictures == [base64.b64decode("/9j/")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.org/x.png", "none is opened"),
        ("file:///etc/passwd", "none is opened"),
        ("data:image/png,abcd", "none is opened"),
        ("abcde", "not base64"),
        ("äbcd", "not base64"),
        ("../x.png", "not base64"),
    ],
)
def test_what_is_no_base64_is_refused(text: str, words: str) -> None:
    (picture,) = json_bodies.read(json.dumps({"image": text}).encode()).pictures
    assert isinstance(picture, ClientError)
    assert picture.code == "invalid_image"
    assert words in picture.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"\xff\xfe{\0", "not valid JSON"),
        (b'{"image": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "`object`"),
        (b"{}", "`image`"),
        (b'{"image": null}', "`$.image`"),
        (b'{"image": []}', "length >= 1"),
        (b'{"image": ["", 1]}', "`$.image[1]`"),
        (b'{"image": "", "images": ""}', "unknown field `images`"),
        (b'{"image": "", "model": 1}', "`$.model`"),
        (b'{"image": "", "model": "A"}', "`$.model`"),
        (b'{"image": "", "top": 0}', '"top" is a whole number from 1'),
        (b'{"image": "", "top": "1"}', '"top" is a whole number from 1'),
        (b'{"image": "", "top": 1.5}', "without quotes"),
        (b'{"image": ' + b"[" * 100_000, "`$.image[0]`"),
    ],
)
def test_what_has_another_shape_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(ClientError, match="The JSON body is not accepted") as refusal:
        json_bodies.read(body)
    assert refusal.value.code == "bad_request"
    assert words in refusal.value.message
    assert '{"image": "BASE64"}' in refusal.value.message


def test_a_refusal_repeats_little_of_the_body() -> None:
    with pytest.raises(ClientError) as refusal:
        json_bodies.read(b'{"image": "", "%s": ""}' % (b"x" * 19_000_000))
    assert 150 <= refusal.value.message.count("x") <= 200
    assert len(refusal.value.message) < 500


def test_too_many_are_refused() -> None:
    with pytest.raises(ClientError, match=f"length <= {MAX_PICTURES}"):
        json_bodies.read(json.dumps({"image": [""] * (MAX_PICTURES + 1)}).encode())


@pytest.mark.parametrize("environment", [{"MAX_UPLOAD_MB": "1"}])
def test_the_bound_on_a_request_holds(running: Service) -> None:
    response = running.client.post("/predict", json={"image": "A" * 1_200_000})
    assert (response.status_code, response.get_json()["error"]["code"]) == (413, "too_large")


def test_several_can_not_be_drawn(running: Service) -> None:
    response = running.client.post("/predict", json={"image": [b64(png(0))]}, headers={"Accept": "image/png"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "bad_request")
