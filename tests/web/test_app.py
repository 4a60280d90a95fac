"""What every answer has, whatever address it comes from: nobody on its way may keep it."""

import re

import pytest

from settings import Settings
from tests.support.nginx import CONFIG
from tests.support.service import Service
from tests.support.stack import shade
from web.app import create_app
from web.routes import predict

MAY_BE_KEPT = {"docs.document", "files.file", "files.favicon"}
"""They are the same for all."""


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """Method, address and status -> Cache-Control, of every route; no Redis answers them."""
    app = create_app(Settings.from_env({"REDIS_URL": "redis://127.0.0.1:9/0", "FILES_DIR": "."}))
    client, found = app.test_client(), {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in MAY_BE_KEPT:
            for method in sorted(rule.methods or ()):
                address = re.sub("<[^>]+>", "1", rule.rule)
                answer = client.open(address, method=method)
                found[f"{method} {address} {answer.status_code}"] = answer.headers.get("Cache-Control", "")
    found["GET /nowhere"] = client.get("/nowhere").headers.get("Cache-Control", "")
    found["BREW /predict"] = client.open("/predict", method="BREW").headers.get("Cache-Control", "")
    return found


@pytest.mark.slow
def test_nobody_keeps_an_answer_or_an_error(answers: dict[str, str]) -> None:
    assert len(answers) > 100
    assert [which for which, said in answers.items() if said != "no-store"] == []


def test_nobody_keeps_a_prediction_a_polled_one_or_its_events(running: Service) -> None:
    posted = running.client.post("/predict", data=shade(200), content_type="image/png")
    prefer = {"Prefer": "respond-async"}
    accepted = running.client.post("/predict", data=shade(200), content_type="image/png", headers=prefer)
    address = accepted.headers["Location"]
    path, _, query = address.partition("?")
    polled = running.client.get(f"{address}&wait=10")
    events = running.client.get(f"{path}/events?{query}")
    drawn = running.client.post("/predict?annotate=1", data=shade(200), content_type="image/png")
    for answer in (posted, accepted, polled, events, drawn):
        assert answer.status_code < 300, answer.text
        assert answer.headers.getlist("Cache-Control") == ["no-store"]


def test_nginx_repeats_no_request_that_runs_a_picture(running: Service) -> None:
    """It repeats all methods but POST, unless its configuration lists the address."""
    (text,) = re.findall(r"\$runs_once \{(.*?)\}", CONFIG.read_text("utf-8"), re.DOTALL)
    once = [re.compile(pattern) for pattern in re.findall(r'"~(.*)" 1;', text)]
    asked = {
        f"{method} {rule.rule}"
        for rule in running.app.url_map.iter_rules()
        for method in rule.methods or ()
        if predict.ASKS_MODELS.fullmatch(re.sub("<[^>]+>", "1", rule.rule))
    }
    read = {"/upload", "/predictions/<job_id>", "/predictions/<job_id>/events"}
    repeated = {
        each
        for each in asked
        if not any(pattern.search(each) for pattern in once) and not each.startswith(("POST ", "OPTIONS "))
    }
    assert repeated == {f"{method} {path}" for method in ("GET", "HEAD") for path in read} | {
        "DELETE /predictions/<job_id>"
    }
