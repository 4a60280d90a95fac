"""The table of statuses: every error class has its row."""

import json

import pytest

import broker.errors
import pictures.decode
import web.errors
import web.jobs
from broker.errors import ServiceError
from settings import Settings
from web.app import refusal_renderer
from web.server.refusals import RequestHead, UploadTooLarge


def _all(base: type[ServiceError]) -> set[type[ServiceError]]:
    return {base}.union(*(_all(each) for each in base.__subclasses__()))


def test_every_error_class_has_a_status() -> None:
    classes = _all(ServiceError)
    assert {pictures.decode.InvalidImage, web.jobs.ClientGone, broker.errors.LeaseLost} <= classes
    assert {each.code for each in classes} <= set(web.errors.STATUS)


def test_every_status_has_an_error_class_or_is_flask_s_own() -> None:
    codes = {each.code for each in _all(ServiceError)}
    assert set(web.errors.STATUS) - codes <= set(web.errors._HTTP_CODES.values())


def test_the_tree_in_the_docstring_names_every_error_of_the_broker() -> None:
    drawn = broker.errors.__doc__ or ""
    assert all(each.__name__ in drawn for each in _all(ServiceError) if each.__module__ == "broker.errors")


@pytest.mark.parametrize(
    ("path", "allowed", "content"),
    [
        ("/infer", "*", {"code": -1, "message": "A request may have up to 1 MB."}),
        ("/upload", None, {"error": 1001, "msg": "A request may have up to 1 MB."}),
    ],
)
def test_a_refusal_before_the_app_has_the_shape_of_its_address(
    path: str, allowed: str | None, content: dict[str, object]
) -> None:
    render = refusal_renderer(Settings.from_env({"INFER_CORS_ORIGINS": "*"}))
    answer, _ = render(UploadTooLarge.than(1 << 20), RequestHead("https://a.example", path=path))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body) == content
    assert (b"Access-Control-Allow-Origin: *" in head) is (allowed == "*")
    assert f"Content-Length: {len(body)}".encode() in head
