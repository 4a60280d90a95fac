"""A form read from its bytes: what real clients send, what is bounded, and what is refused."""

import base64
from collections.abc import Callable

import pytest

from broker.errors import ClientError
from web.server.refusals import UploadTooLarge
from web.uploads import forms


def _part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


def test_files_and_texts_each_in_the_order_sent() -> None:
    body = _part("image", b"\x00\r\n--c", "a.png") + _part("top", b"3") + _part("image", b"second", "b.png")
    form = forms.read(body + _part("top", b"4") + b"--b--\r\n", "b")
    assert form.files == [("image", b"\x00\r\n--c"), ("image", b"second")]
    assert form.texts == {"top": "3"}


def test_a_file_input_left_empty_is_neither_file_nor_text() -> None:
    form = forms.read(_part("image", b"", "") + b"--b--\r\n", "b")
    assert (form.files, form.texts) == ([], {})


def test_a_name_spelt_as_rfc_5987_does_is_a_file_s() -> None:
    head = b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename*=utf-8''%C3%A4.png\r\n\r\n"
    assert forms.read(head + b"bytes\r\n--b--\r\n", "b").files == [("image", b"bytes")]


@pytest.mark.parametrize("charset", ["gbk", "shift-jis", "big5"])
def test_a_file_name_in_any_charset_is_a_file_s(charset: str) -> None:
    head = '--b\r\nContent-Disposition: form-data; name="image"; filename="\u8868\u5357.jpg"\r\n\r\n'
    assert forms.read(head.encode(charset) + b"bytes\r\n--b--\r\n", "b").files == [("image", b"bytes")]


def test_any_byte_may_be_in_a_file_name() -> None:
    for byte in set(range(1, 256)) - {*b'\r\n"\\'}:
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="%c.jpg"\r\n\r\n' % byte
        assert forms.read(head + b"bytes\r\n--b--\r\n", "b").files == [("image", b"bytes")]


def test_a_field_s_name_is_utf_8() -> None:
    assert forms.read(_part("\u56fe", b"3") + b"--b--", "b").texts == {"\u56fe": "3"}


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", "application/octet-stream"])
@pytest.mark.parametrize("name", ["", '; filename=""'])
def test_a_part_with_a_picture_s_type_is_a_file(kind: str, name: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="image"{name}\r\nContent-Type: {kind}\r\n\r\n'
    assert forms.read(head.encode() + b"bytes\r\n--b--\r\n", "b").files == [("image", b"bytes")]
    # But a file input left empty, as browsers send it, is none.
    assert forms.read(head.encode() + b"\r\n--b--\r\n", "b").files == []


def test_a_part_without_a_name_or_a_type_is_a_file_if_it_is_binary() -> None:
    big = b"\x89PNG\r\n\x1a\n\0\0" + b"x" * forms.MAX_TEXT_BYTES
    assert forms.read(_part("image", big) + b"--b--", "b").files == [("image", big)]


def test_text_that_is_not_utf_8_is_no_error() -> None:
    assert forms.read(_part("model", b"\xff") + b"--b--", "b").texts == {"model": "\ufffd"}


PIXELS = bytes(range(256))


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize(
    "declared", ["", "Content-Transfer-Encoding: base64\n", "content-transfer-encoding: BASE64\n"]
)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
def test_a_file_in_base64_is_decoded(encode: Callable[[bytes], bytes], declared: str, line_end: str) -> None:
    """The form that is posted with `ab -p turtle.txt`, whose tutorial says that nothing need be decoded."""
    head = f'--b\nContent-Disposition: form-data; name="file"; filename="turtle.jpg"\n{declared}\n'
    body = (head + encode(PIXELS).decode() + "\n--b--\n").replace("\n", line_end)
    assert forms.read(body.encode(), "b").files == [("file", PIXELS)]


def test_a_file_that_says_base64_and_is_not_is_refused() -> None:
    part = _part("image", b"\xffno", "x.png").replace(
        b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    )
    with pytest.raises(ClientError, match="'image' is not base64"):
        forms.read(part + b"--b--\r\n", "b")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"not base64!", b"abcde", b"\x89PNG\r\n"])
def test_a_file_that_is_no_base64_is_left_as_it_is(data: bytes) -> None:
    assert forms.read(_part("image", data, "x") + b"--b--\r\n", "b").files == [("image", data)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        _part("image", b"bytes", "x.png"),
        _part("image", b"bytes", "x.png")[:-4],
        _part("image", b"\xff", "x.png").replace(b"\r\n", b"\n") + b"--b--\n",
        b"--b\r\nContent-Type: image/png\r\n\r\nbytes\r\n--b--\r\n",
    ],
)
def test_a_broken_form_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(ClientError, match="broken or was cut short"):
        forms.read(body, "b")


def test_a_boundary_that_can_not_be_one_is_refused() -> None:
    with pytest.raises(ClientError, match="boundary"):
        forms.read(_part("image", b"", "x") + b"--b--", "b\n")


def test_parts_and_text_are_bounded() -> None:
    most = _part("x", b"") * forms.MAX_PARTS
    assert forms.read(most + b"--b--", "b").texts == {"x": ""}
    with pytest.raises(UploadTooLarge, match="1000 fields"):
        forms.read(_part("x", b"") + most + b"--b--", "b")
    half = b"x" * (forms.MAX_TEXT_BYTES // 2)
    forms.read(_part("x", half) * 2 + b"--b--", "b")
    with pytest.raises(UploadTooLarge, match="500000 bytes of text"):
        forms.read(_part("x", half) * 2 + _part("y", b"1") + b"--b--", "b")
    # A file is no text.
    assert len(forms.read(_part("x", half, "a") * 3 + b"--b--", "b").files) == 3


def test_a_ppm_in_text_is_not_taken_for_base64() -> None:
    """Its refusal must name it."""
    pixels = b"P3\n2 2\n255\n" + b"0 255 0\n" * 4
    assert forms.read(_part("image", pixels, "a.ppm") + b"--b--\r\n", "b").files == [("image", pixels)]
