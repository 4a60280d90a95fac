"""The pages as they are sent: their headers, languages and files. What they do is tests/browser's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from broker.clock import RedisClock
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from model_server.tasks import TASKS
from tests.support.fakes import CARD, KEY_TTL_S, MODEL
from tests.support.service import Service
from tests.support.waiting import eventually
from web import errors
from web.pages import languages
from web.routes.static import FOLDER

WEB = Path(errors.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*.js"))
TEMPLATES = sorted((WEB / "pages" / "templates").glob("*.html"))


@pytest.mark.parametrize("address", ["/", "/status"])
def test_a_page_allows_its_own_files_and_nothing_else(running: Service, address: str) -> None:
    response = running.client.get(address)
    assert response.status_code == 200
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["trusted-types"] == "'none'"
    assert "unsafe" not in str(policy)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    text = response.get_data(as_text=True)
    assert re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|https?://", text) is None


def test_the_description_s_page_may_show_pictures_and_nothing_else_besides(running: Service) -> None:
    response = running.client.get("/docs")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    text = response.get_data(as_text=True)
    assert re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|https?://", text) is None
    for address in re.findall(r'"(/static/[^"]+)"', text):
        file = running.client.get(address)
        assert (file.status_code, file.headers["Cache-Control"][:6]) == (200, "public")
    assert 'href="/docs"' in running.client.get("/").get_data(as_text=True)


def test_the_page_offers_the_models(running: Service) -> None:
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    assert f'<option value="{MODEL}" selected>' in running.client.get("/").get_data(as_text=True)


@pytest.mark.parametrize(
    ("address", "accepted", "lang"),
    [
        ("/", "", "en"),
        ("/", "en-US,en;q=0.9,zh;q=0.1", "en"),
        ("/", "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("/", "zh", "zh-CN"),
        ("/", "zh-TW,zh;q=0.9", "zh-CN"),
        ("/", "fr,de;q=0.9", "en"),
        ("/", "fr,zh-CN;q=0.5,en;q=0.4", "zh-CN"),
        ("/?lang=zh-CN", "en", "zh-CN"),
        ("/?lang=en", "zh-CN", "en"),
        ("/?lang=%3Cb%3E", "zh-CN", "zh-CN"),
        ("/status", "zh-CN", "zh-CN"),
        ("/docs", "zh-CN", "zh-CN"),
        ("/docs?lang=zh-CN", "en", "zh-CN"),
    ],
)
def test_a_browser_gets_its_language(service: Service, address: str, accepted: str, lang: str) -> None:
    response = service.client.get(address, headers={"Accept-Language": accepted})
    assert f'<html lang="{lang}">' in response.get_data(as_text=True)
    assert response.headers["Content-Language"] == lang
    assert "Accept-Language" in response.headers["Vary"]


def test_files_are_kept_for_good_and_revalidated_by_their_etag(service: Service) -> None:
    found = re.findall(r'"(/static/[^"]+)"', service.client.get("/").get_data(as_text=True))
    assert {Path(address).name for address in found} == {"icon.svg", "frame.css", "style.css", "page.js"}
    for address in found:
        response = service.client.get(address)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        again = service.client.get(address, headers={"If-None-Match": response.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    assert "javascript" in service.client.get(found[-1]).headers["Content-Type"]


def test_a_page_of_another_release_gets_the_file_but_may_not_keep_it(service: Service) -> None:
    response = service.client.get("/static/0123456789ab/page.js")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["../page.py", "%2e%2e/page.py", "text/../../page.py", "nothing.js", "text"])
def test_nothing_but_the_files_is_given_away(service: Service, name: str) -> None:
    assert service.client.get(f"/static/0/{name}").status_code == 404


def test_a_json_answer_has_an_icon_too(service: Service) -> None:
    assert service.client.get("/favicon.ico").mimetype == "image/svg+xml"


def names_in(phrase: str) -> set[str]:
    """What a phrase wants filled in."""
    return set(re.findall(r"\{(\w+)\}", phrase))


def test_both_languages_say_the_same_things() -> None:
    english, *others = (languages.words(language) for language in languages.NAMES)
    for other in others:
        assert list(other) == list(english)
        assert [names_in(phrase) for phrase in other.values()] == [
            names_in(phrase) for phrase in english.values()
        ]
        same = {key for key in english if other[key] == english[key]}
        assert same <= set(), f"not translated: {same}"


def test_every_phrase_is_used_and_every_used_phrase_is_there() -> None:
    words = languages.words("en")
    topics = {key.split(".")[0] for key in words}
    text = "".join(path.read_text("utf-8") for path in [*SCRIPTS, *TEMPLATES])
    quoted = set(re.findall(r"""["'`]([a-z]+\.[a-z0-9_.]+)["'`]""", text)) - {"page.index", "page.status"}
    named = {key for key in quoted if key.split(".")[0] in topics and not key.endswith((".js", "."))}
    assert named - set(words) == set()
    made_of_parts = ("error.", "advice.", "state.", "trouble.", "time.", "status.column.", "task.")
    said = {key for key in words if key.startswith(made_of_parts) or key.removesuffix(".1") in named}
    assert set(words) - said == set()


def test_every_error_and_every_state_has_its_words() -> None:
    words = languages.words("en")
    for code in (*errors.STATUS, "unreachable", "unexpected"):
        assert f"error.{code}" in words
    for state in ("ready", "loading", "failed", "draining", "no worker"):
        assert f"state.{state}" in words
        assert state == "ready" or f"trouble.{state}" in words


@pytest.mark.parametrize("language", languages.NAMES)
def test_every_task_has_its_words(language: str) -> None:
    words = languages.words(language)
    assert {f"task.{task}" for task in (*TASKS, "pipeline", "other")} == {
        key for key in words if key.startswith("task.")
    }


@pytest.mark.parametrize("language", languages.NAMES)
def test_a_task_without_words_does_not_break_the_page(language: str) -> None:
    said = languages.speaker(language)("task.unheard_of", otherwise="task.other", count="7")
    assert said == languages.words(language)["task.other"].format(count="7")
    with pytest.raises(KeyError):
        languages.speaker(language)("page.unheard_of")


def test_the_page_shows_a_model_of_a_task_that_it_does_not_know(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    card = replace(CARD, model="newer", task="unheard_of", classes=1234)
    newer = Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
    newer.register(State(WorkerState.READY, "v1"))
    eventually(lambda: "1,234 labels ·" in service.client.get("/").get_data(as_text=True))


def test_what_is_final_is_a_failure_of_the_request_and_every_such_failure_is() -> None:
    """But for an unknown model, where another may be chosen, a slow line, a key's limits, and losses."""
    text = (FOLDER / "failures.js").read_text("utf-8")
    (final,) = re.findall(r"FINAL = new Set\(\[(.*?)\]\)", text, re.DOTALL)
    of_the_request = {code for code, status in errors.STATUS.items() if status < 500}
    assert set(re.findall(r'"(\w+)"', final)) == of_the_request - {
        *("unknown_model", "upload_timeout", "rate_limited", "too_many_jobs", "job_lost", "result_expired")
    }


def test_no_script_makes_markup_of_text() -> None:
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert (
            re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
            is None
        )
        assert text.startswith("/**"), f"{path.name} does not open with what it owns"
        assert len(text.splitlines()) <= 250
        assert all((FOLDER / name).is_file() for name in re.findall(r'from "\./([^"]+)"', text))


def test_the_dictionaries_have_each_key_once() -> None:
    for path in languages.TEXT.glob("*.json"):
        pairs = json.loads(path.read_text("utf-8"), object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs)), path.name
