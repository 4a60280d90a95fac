"""With API_KEYS=required each address and each method of gRPC is closed, unless it is said to be open."""

import base64
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
import redis
from flask import Flask
from werkzeug.routing import Rule

from broker.history import ModelSample, Sample
from broker.keys import Keys
from settings import Settings
from tests.support.api_keys import add_key
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service, disconnect
from tests.web.rpc.client import METHODS, RpcClient
from web import access_log
from web.app import create_app, refusal_renderer
from web.errors import RateLimited, Unauthorized
from web.keys import secret
from web.keys.guard import Credentials, Guard
from web.keys.http_guard import LoopGuard
from web.rpc.server import RpcServer
from web.server.refusals import RequestHead

OPEN = {
    "/favicon.ico",
    "/healthz",
    "/livez",
    "/ping",
    "/readyz",
    "/static/<version>/<path:name>",
    "/v2/health/live",
    "/v2/health/ready",
}

Add = Callable[..., str]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"API_KEYS": "required", "CORS_ORIGINS": "https://a.example"}


@pytest.fixture
def add(client: redis.Redis, keys: Keys) -> Add:
    """Adds a key with such fields, and gives its text."""
    return partial(add_key, client, keys)


def _address(rule: Rule) -> str:
    return (
        rule.rule.replace("<path:name>", "x").replace("<model_name:model>", MODEL).replace("<model>", MODEL)
    )


def _statuses(app: Flask, headers: dict[str, str]) -> dict[tuple[str, str], int]:
    """What each route answers to an empty request."""
    client = app.test_client()
    return {
        (method, rule.rule): client.open(_address(rule), method=method, headers=headers).status_code
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS"}
    }


@pytest.mark.slow
def test_every_route_is_closed_unless_it_says_otherwise(service: Service, add: Add) -> None:
    service.app.add_url_rule("/new", "new", str)
    key = add("ann")
    other = secret.fresh(0)[0]
    of_its_id = f"bw_{secret.id_of(key)}_{other.split('_', 2)[2]}"
    for headers in (
        {},
        {"Authorization": f"Bearer {key[:-1]}"},
        {"X-API-Key": "x"},
        {"X-API-Key": other},
        {"X-API-Key": of_its_id},
    ):
        statuses = _statuses(service.app, headers)
        assert {rule for (_, rule), status in statuses.items() if status != 401} == OPEN
    assert 401 not in _statuses(service.app, {"X-API-Key": key}).values()
    assert service.client.get("/nowhere").status_code == 401
    assert service.client.get("/nowhere", headers={"X-API-Key": key}).status_code == 404


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_every_method_of_grpc_is_closed_unless_it_says_otherwise(
    server: RpcServer, rpc: RpcClient, add: Add
) -> None:
    assert server.methods - set(METHODS) == {"Watch"}  # of the health check, whose stream is another thing

    def code(method: str, *metadata: tuple[str, str]) -> str:
        try:
            rpc.method(method)(METHODS[method][1](), timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    key = add("ann")
    basic = base64.b64encode(f"x:{key}".encode()).decode()
    for metadata in ((), (("x-api-key", "x"),), (("authorization", f"Basic {basic}"),)):
        refused = {method for method in METHODS if code(method, *metadata) == "UNAUTHENTICATED"}
        assert set(METHODS) - refused == {"ServerLive", "ServerReady", "Check"}
    for field in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
        assert "UNAUTHENTICATED" not in {code(method, field) for method in METHODS}


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/predict", lambda body: body["error"]["code"] == "unauthorized"),
        ("/infer", lambda body: body["code"] == -1),
        ("/upload", lambda body: body["error"] == 1001),
        (f"/v1/models/{MODEL}:predict", lambda body: "no valid API key" in body["error"]),
        (f"/v2/models/{MODEL}/infer", lambda body: "no valid API key" in body["error"]),
        (f"/predictions/{MODEL}", lambda body: body["code"] == 401),
    ],
)
def test_a_refusal_has_the_shape_of_its_dialect(
    path: str, shape: Callable[[Any], bool], service: Service
) -> None:
    answer = service.client.post(path)
    assert answer.status_code == 401
    assert shape(answer.get_json())
    assert answer.headers.getlist("WWW-Authenticate") == ['Bearer realm="Batchwire"']


@pytest.mark.slow
def test_browsers_ask_for_the_key_of_a_page_and_send_it_with_what_the_page_asks(
    service: Service, add: Add
) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"any:{add('ann')}".encode()).decode()}
    for page in ("/", "/status", "/docs", "/upload"):
        refusal = service.client.get(page)
        assert "as the password" in refusal.text
        asked = refusal.headers.getlist("WWW-Authenticate")
        assert [each.partition(" ")[0] for each in asked] == ["Bearer", "Basic"]
        assert service.client.get(page, headers=basic).status_code == 200
    for fields, status in (
        ({}, 400),
        ({"Sec-Fetch-Site": "same-origin"}, 400),
        ({"Origin": "http://localhost"}, 400),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://a.example"}, 403),
        ({"Origin": "null"}, 403),
    ):
        assert service.client.post("/predict", headers=basic | fields).status_code == status, fields
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert service.client.get("/", headers=basic | link).status_code == 200
    assert service.client.get("/models", headers=basic | link).status_code == 403


def test_a_preflight_needs_no_key_and_a_refusal_can_be_read(service: Service) -> None:
    fields = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    fields["Access-Control-Request-Headers"] = "authorization"
    preflight = service.client.options("/predict", headers=fields)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    refused = service.client.post("/predict", headers={"Origin": "https://a.example"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://a.example")


def test_a_key_stands_in_a_header_alone(service: Service, add: Add) -> None:
    key = add("ann")
    service.client.set_cookie("api_key", key)
    for address in (
        f"/models?api_key={key}",
        f"/models?key={key}&x-api-key={key}&authorization=Bearer%20{key}",
    ):
        assert service.client.get(address).status_code == 401


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_key_sees_and_asks_the_models_that_it_may(service: Service, rpc: RpcClient, add: Add) -> None:
    http, mine, others = service.client, {"X-API-Key": add("ann", models=(MODEL,))}, {}
    others = {"X-API-Key": add("ben", models=("never",))}
    for headers, names in ((mine, [MODEL]), (others, ["never"])):
        assert [each["model"] for each in http.get("/models", headers=headers).get_json()["models"]] in (
            names,
            [],  # `never` was never announced
        )
        index = http.post("/v2/repository/index", headers=headers).get_json()
        assert {each["name"] for each in index} <= {*names}
        listed = rpc.method("RepositoryIndex")(
            METHODS["RepositoryIndex"][1](), metadata=[("x-api-key", headers["X-API-Key"])]
        )
        assert {each.name for each in listed.models} <= {*names}
    assert http.post("/predict", data=form(png(0)), headers=mine).status_code == 200
    for method, path in (
        ("POST", "/predict"),
        ("POST", f"/predict?model={MODEL}"),
        ("POST", f"/predictions/{MODEL}"),
        ("GET", f"/v1/models/{MODEL}"),
        ("GET", f"/v1/models/{MODEL}/metadata"),
        ("GET", f"/v2/models/{MODEL}"),
        ("GET", f"/v2/models/{MODEL}/ready"),
        ("POST", f"/v2/models/{MODEL}/infer"),
        ("GET", f"/predictions/12345678-1234-4234-8234-123456789012?model={MODEL}"),
        ("POST", "/predict?model=whatever"),  # whether there is one or not
    ):
        data = form(png(0)) if method == "POST" else None
        refused = http.open(path, method=method, data=data, headers=others)
        assert refused.status_code == 403, path
        assert "only never." in refused.get_data(as_text=True)
    with pytest.raises(grpc.RpcError) as error:
        rpc.method("ModelMetadata")(
            METHODS["ModelMetadata"][1](name=MODEL), metadata=[("x-api-key", others["X-API-Key"])]
        )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_key_sees_the_last_hour_of_its_models_alone(service: Service, add: Add) -> None:
    model = ModelSample(1, 1, None, None, None)
    both = Sample(1.0, {MODEL: model, "never": model}, None, None, None)
    service.app.extensions["jobs"].producer.history.add(both)
    keys = [(add("all"), {MODEL, "never"}), (add("one", models=(MODEL,)), {MODEL})]
    for key, seen in keys:
        headers = {"X-API-Key": key}
        (sample,) = service.client.get("/status/history", headers=headers).get_json()["samples"]
        assert {*sample["models"]} == seen


@pytest.mark.slow
def test_metrics_are_a_right_of_their_own(service: Service, add: Add) -> None:
    both, scraper = add("ann", may=("predict", "metrics")), add("prometheus", may=("metrics",))
    statuses = {
        (name, path): service.client.get(path, headers={"X-API-Key": key}).status_code
        for name, key in (("both", both), ("scraper", scraper), ("plain", add("ben")))
        for path in ("/metrics", "/models")
    }
    assert [each for each, status in statuses.items() if status == 403] == [
        ("scraper", "/models"),
        ("plain", "/metrics"),
    ]


def test_the_access_log_names_the_key_of_what_is_refused(
    rpc: RpcClient,
    add: Add,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = add("prometheus", may=("metrics",))
    monkeypatch.setattr(access_log, "is_on", lambda: True)
    caplog.set_level(logging.INFO, "web.access_log")
    settings = Settings.from_env({"REDIS_URL": redis_url, "API_KEYS": "required"})
    app = create_app(settings)
    assert app.test_client().get("/models", headers={"X-API-Key": key}).status_code == 403
    with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
        rpc.method("ServerMetadata")(METHODS["ServerMetadata"][1](), metadata=(("x-api-key", key),))
    loop = LoopGuard(app, Guard(app.extensions["jobs"].api_keys.known))
    render = refusal_renderer(settings, key_name_of=loop.key_name)
    render(RateLimited("full"), RequestHead(method="POST", path="/predict", x_api_key=key))
    render(Unauthorized("no"), RequestHead(method="POST", path="/predict", x_api_key="bw_a_b"))
    disconnect(app)
    lines = [each.__dict__["fields"] for each in caplog.records if each.name == "web.access_log"]
    assert [(each["status"], each.get("key")) for each in lines] == [
        (403, "prometheus"),
        ("PERMISSION_DENIED", "prometheus"),
        (429, "prometheus"),
        (401, None),
    ]


def test_the_loop_refuses_what_the_app_would_and_nothing_else(service: Service, add: Add) -> None:
    key = add("ann")
    known = service.app.extensions["jobs"].api_keys.known
    loop = LoopGuard(service.app, Guard(known))
    nobody = RequestHead(method="POST", path="/predict")
    assert loop.refusal(nobody) is None  # nothing was read yet: a thread asks Redis
    assert known.find("") is None
    refusal = loop.refusal(nobody)
    assert isinstance(refusal, Unauthorized)
    assert not refusal.asks_browser
    page = loop.refusal(RequestHead(method="GET", path="/status"))
    assert isinstance(page, Unauthorized)
    assert page.asks_browser
    for head in (
        RequestHead(method="GET", path="/healthz"),
        RequestHead(method="OPTIONS", path="/predict"),
        RequestHead(method="GET", path="/below/another/root/healthz"),
        RequestHead(method="POST", path="/predict", x_api_key=key),
        RequestHead(method="POST", path="/predict", authorization=f"bearer {key}"),
    ):
        assert loop.refusal(head) is None, head


def test_credentials_and_heads_show_no_secret() -> None:
    text, digest = secret.fresh(0)
    assert secret.digest(text).hex() == digest.sha256
    basic = base64.b64encode(f"x:{text}".encode()).decode()
    shown = [
        repr(Credentials(f"Bearer {text}", text)),
        repr(RequestHead(authorization=f"Basic {basic}", x_api_key=text)),
    ]
    assert not any(text in each or basic in each for each in shown)
    assert Credentials(f"Basic {basic}").text() == text
    assert [Credentials(each).text() for each in ("Basic ?", "Digest x", "", "Bearer")] == ["", "", "", ""]
