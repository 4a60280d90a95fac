"""The table of statuses: every error class has its row."""

import json
import re

import pytest

import broker.errors
import pictures.decode
import web.errors
import web.jobs
from broker.errors import ServiceError
from settings import Settings
from web.app import create_app, refusal_renderer
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


def test_a_404_lists_the_addresses_of_clients_a_new_one_among_them() -> None:
    app = create_app(Settings.from_env({"REDIS_URL": "redis://127.0.0.1:9/0"}))
    app.add_url_rule("/orders/<int:number>", "orders", str, methods=["DELETE", "PUT"])
    answer = app.test_client().get("/nowhere")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")
    begin, _, listed = answer.get_json()["error"]["message"].partition("Available: ")
    assert begin == "Nothing is at this address. "
    addresses = listed.removesuffix(".").split(", ")
    assert len(addresses) == len({*addresses})
    assert {
        "GET /",
        "POST /predict",
        "DELETE and GET /predictions/{job_id}",
        "GET and POST /upload",
        "DELETE and PUT /orders/{number}",
    } <= {*addresses}
    assert not re.search("static|favicon|/v1|/v2", listed)


TOO_LARGE = (
    "A request may have up to 1 MB. Send a smaller picture, or fewer; the operator can raise MAX_UPLOAD_MB."
)


@pytest.mark.parametrize(
    ("path", "allowed", "content"),
    [
        ("/infer", "*", {"code": -1, "message": TOO_LARGE}),
        ("/upload", None, {"error": 1001, "msg": TOO_LARGE}),
    ],
)
def test_a_refusal_before_the_app_has_the_shape_of_its_address(
    path: str, allowed: str | None, content: dict[str, object]
) -> None:
    render = refusal_renderer(Settings.from_env({"INFER_CORS_ORIGINS": "*"}))
    answer, _ = render(UploadTooLarge.than(1 << 20), RequestHead("https://a.example", path=path))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Cache-Control: no-store" in head
    assert json.loads(body) == content
    assert (b"Access-Control-Allow-Origin: *" in head) is (allowed == "*")
    assert f"Content-Length: {len(body)}".encode() in head
