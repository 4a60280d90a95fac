"""/openapi.json against the code: every route, every error, every type; and that it is sound."""

import dataclasses
import json
import re
import tomllib
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker.messages import Mask, State
from pictures import rle
from tests.support import ROOT
from tests.support.fakes import CARD
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web import errors
from web.openapi import document as openapi_document
from web.openapi.operations import OPERATIONS
from web.responses import VERSION, WorkerSummary
from web.uploads.parameters import MOST

NEVER_SAID = {"malformed_message", "lease_lost", "unavailable"}
"""Codes that stay within the service."""

OF_NO_OPERATION = {"not_found", "method_not_allowed"}
"""What an address or a method that is not there is answered; the description says so in words."""


OF_KEYS = {"unauthorized", "forbidden", "rate_limited", "too_many_jobs"}
"""Codes of services that ask for API keys."""


@pytest.fixture
def described(running: Service) -> dict[str, Any]:
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    document: dict[str, Any] = running.client.get("/openapi.json").get_json()
    return document


@pytest.mark.slow
def test_it_is_sound(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(described).validate()


@pytest.mark.slow
def test_it_is_sound_before_any_model_is_known(service: Service) -> None:
    document = service.client.get("/openapi.json").get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert _top(document)["maximum"] in (MOST, CARD.top_max)


def _top(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    schema: dict[str, Any] = next(each["schema"] for each in parameters if each["name"] == "top")
    return schema


def test_the_bound_of_top_is_that_of_the_models(described: dict[str, Any]) -> None:
    assert _top(described) == {"type": "integer", "minimum": 1, "maximum": CARD.top_max}
    assert described["components"]["schemas"]["PredictBody"]["properties"]["top"]["maximum"] == CARD.top_max
    assert str(MOST) not in json.dumps(described)


def test_it_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION


def test_every_route_is_described_or_is_a_page(service: Service) -> None:
    pages = {"page.index", "page.status", "docs.page", "docs.document", "files.file", "files.favicon"}
    pages |= {"tutorials.upload_form", "tutorials.upload", "metrics.exposed"}
    endpoints = {rule.endpoint for rule in service.app.url_map.iter_rules()}
    # The protocols of others have documents of their own.
    described = {each for each in endpoints if not each.startswith("open_inference.")}
    assert described == set(OPERATIONS) - {"key_jobs.jobs"} | pages  # that one needs API_KEYS=required


def test_every_error_that_a_client_can_get_is_described(described: dict[str, Any]) -> None:
    operations = [one for path in described["paths"].values() for one in path.values()]
    said: dict[str, set[str]] = {}
    for operation in operations:
        for status, answer in operation["responses"].items():
            for code in errors.STATUS:
                if f"`{code}`: " in answer["description"]:
                    said.setdefault(code, set()).add(status)
    assert said == {code: {str(errors.STATUS[code])} for code in said}
    assert set(errors.STATUS) - NEVER_SAID - {"method_not_allowed"} - OF_KEYS == set(said)
    assert all(f"`{code}`" in described["info"]["description"] for code in OF_NO_OPERATION)


@pytest.mark.slow
def test_where_keys_are_asked_for_every_closed_operation_says_so(service: Service) -> None:
    made = openapi_document.document(service.app.url_map, root="", top_max=None, has_keys=True)
    document = json.loads(json.dumps(made))
    OpenAPIV31SpecValidator(document).validate()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in ("/healthz", "/livez", "/readyz", "/ping")
            assert (operation.get("security") == []) is is_open
            assert ("`unauthorized`: " in operation["responses"].get("401", {}).get("description", "")) is (
                not is_open
            )
    limited = document["paths"]["/predict"]["post"]["responses"]["429"]
    assert all(f"`{code}`: " in limited["description"] for code in ("rate_limited", "too_many_jobs"))
    assert limited["headers"]["Retry-After"]["required"] is True


def test_every_answer_has_its_request_id_and_every_refusal_for_now_when_to_come_back(
    described: dict[str, Any],
) -> None:
    for path, operations in described["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert answer["headers"]["X-Request-ID"]["required"] is True
                # /readyz says 503 of a service that is not ready, too.
                assert ("Retry-After" in answer["headers"]) is (
                    (status == "503" and path != "/readyz")
                    or (path, status) == ("/predictions/{job_id}", "202")  # it is polled
                )


def _valid(document: dict[str, Any], response: Any) -> bool:  # noqa: ANN401 - Werkzeug's
    path = "/predictions/{job_id}" if "/predictions/" in response.request.path else response.request.path
    operation = document["paths"][path][response.request.method.lower()]
    schema = operation["responses"][str(response.status_code)]["content"][response.mimetype]["schema"]
    validator = OAS31Validator({**schema, "components": document["components"]})
    return bool(validator.is_valid(response.get_json()))


@pytest.mark.slow
def test_what_is_answered_is_what_is_described(running: Service, described: dict[str, Any]) -> None:
    client = running.client
    polled = client.post(
        "/predict", data=png(0), content_type="image/png", headers={"Prefer": "respond-async"}
    )
    job = polled.get_json()["id"]
    eventually(lambda: client.get(f"/predictions/{job}").status_code == 200)
    for response in (
        polled,
        client.get(f"/predictions/{job}"),
        client.get("/predictions/x"),
        client.get("/models"),
        client.get("/healthz"),
        client.get("/readyz"),
        client.get("/readyz?model=never"),
        client.get("/readyz?model=other"),
        client.post("/predict", data=png(0), content_type="image/png"),
        client.post("/predict", json={"image": ["", ""]}),
        client.post("/predict", json={"image": ""}),
        client.post("/predict", json={}),
        client.post("/predict?model=never", json={"image": ""}),
    ):
        assert _valid(described, response), (response.request.path, response.get_json())
    assert not _valid(
        described | {"components": {"schemas": {"FailedAnswer": False}}}, client.get("/predictions/x")
    )


def test_paths_that_differ_in_names_alone_are_one(described: dict[str, Any]) -> None:
    shapes = [re.sub(r"\{\w+\}", "{}", path) for path in described["paths"]]
    assert len(shapes) == len({*shapes})
    both = described["paths"]["/predictions/{job_id}"]
    assert set(both) == {"get", "delete", "post", "put"}
    for operation in both.values():
        assert [each["name"] for each in operation["parameters"] if each["in"] == "path"] == ["job_id"]


def test_summaries_are_plain_text_and_torchserve_s_names_its_address(described: dict[str, Any]) -> None:
    groups = [*described["paths"].values(), *described.get("webhooks", {}).values()]
    summaries = [operation["summary"] for group in groups for operation in group.values()]
    assert [summary for summary in summaries if "`" in summary] == []
    assert "/predictions/NAME" in described["paths"]["/predictions/{job_id}"]["post"]["summary"]


def test_the_examples_are_answers(described: dict[str, Any]) -> None:
    asked, polled = described["paths"]["/predict"]["post"], described["paths"]["/predictions/{job_id}"]["get"]
    for operation in (asked, polled):
        for status in ("200", "202"):
            content = operation["responses"][status]["content"]["application/json"]
            validator = OAS31Validator({**content["schema"], "components": described["components"]})
            assert content["examples"]
            for name, example in content["examples"].items():
                assert validator.is_valid(example["value"]), name
            assert not validator.is_valid({**example["value"], "success": "yes"})
    shown = asked["responses"]["200"]["content"]["application/json"]["examples"].values()
    one, detection, masks, keypoints, several = (example["value"] for example in shown)
    assert "box" not in one["predictions"][0]
    assert len(detection["predictions"][0]["box"]) == 4
    for prediction in masks["predictions"]:
        mask = rle.decode(Mask(tuple(prediction["mask"]["size"]), prediction["mask"]["counts"]))
        assert mask.mean() == prediction["area"]
    assert keypoints["predictions"][0]["keypoints"][0]["name"] == "left_knee"
    assert [each["success"] for each in several["results"]] == [True, False]


def test_a_worker_is_shown_with_all_that_it_says_of_itself() -> None:
    said = {each.name for each in dataclasses.fields(State)} - {"card"}
    assert {each.name for each in dataclasses.fields(WorkerSummary)} == {"id", *said}


@pytest.mark.slow
def test_it_names_the_path_that_a_proxy_gave_the_service(service: Service) -> None:
    document = service.client.get("/openapi.json", environ_overrides={"SCRIPT_NAME": "/images"}).get_json()
    assert document["servers"] == [{"url": "/images"}]


@pytest.mark.parametrize(
    "path", ["/predict", "/models", "/", "/docs", "/openapi.json", "/predictions/x", "/status"]
)
def test_every_address_takes_options_and_those_of_get_head(service: Service, path: str) -> None:
    options = service.client.options(path)
    assert (options.status_code, options.data) == (200, b"")
    assert "Content-Type" not in options.headers
    allowed = set(options.headers["Allow"].split(", "))
    others = {"/predict": {"POST"}, "/predictions/x": {"GET", "HEAD", "DELETE", "POST", "PUT"}}
    assert allowed == {"OPTIONS", *others.get(path, {"GET", "HEAD"})}
    if "HEAD" in allowed:
        head, get = service.client.head(path), service.client.get(path)
        assert (head.status_code, head.data) == (get.status_code, b"")
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
    refused = service.client.open(path, method="PATCH")
    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == allowed
