"""The response cache: what is asked again is not run again, whichever web process is asked."""

import base64
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from flask import Flask, current_app
from numpy.typing import NDArray
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from broker import codec, result_cache
from broker.keys import Keys, ModelKeys
from broker.messages import Card, Fit, Job, Result
from broker.producer import RequestName
from broker.registry import ModelView
from broker.result_cache import ResultCache, shared_name
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.serving.worker import Worker
from pictures import fit
from pictures.fit import PreparedPicture
from settings import Settings
from tests.support import fakes
from tests.support.fakes import FakeEngine
from tests.support.pictures import form, png
from tests.support.service import disconnect
from tests.support.waiting import eventually
from web.app import create_app
from web.cached_inference import digest_of
from web.inference import Inference
from web.jobs import JobClient, JobOptions
from web.middleware import cache_sources
from web.model_choice import ModelChoice

pytestmark = pytest.mark.slow  # together they wait for seconds

MODEL = "shadow"


@dataclass
class Webs:
    """Two web processes' worth of apps over one Redis, and workers of one model."""

    apps: list[Flask]
    client: redis.Redis
    keys: ModelKeys
    folder: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    running: list[tuple[Worker, threading.Thread]] = field(default_factory=list)

    def spec(self) -> ModelSpec:
        """The model as its folder is now."""
        return replace(fakes.spec(self.folder), name=MODEL)

    def announce(self, spec: ModelSpec | None = None, card: Card | None = None) -> Worker:
        """A worker that has published its card, and runs nothing yet."""
        spec = spec or self.spec()
        worker = fakes.unregistered_worker(self.client, Keys("bw:"), spec, lambda: self.engine)
        if card is not None:
            worker.registration.lease.card = card
        worker.registration.ensure()
        return worker

    def start(self, worker: Worker | None = None) -> Worker:
        """Have a worker work."""
        worker = worker or self.announce()
        thread = threading.Thread(target=worker.run)
        self.running.append((worker, thread))
        thread.start()
        return worker

    def stop(self) -> None:
        """Let every worker leave."""
        for worker, thread in self.running:
            worker.stopping.set()
            self.client.rpush(self.keys.bell, "1")  # so that an idle worker looks at once
            thread.join()
        self.running.clear()

    def ask(self, *pictures: bytes, web: int = 0, query: str = "", **headers: str) -> TestResponse:
        """Upload pictures to one of the processes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (
            self.apps[web]
            .test_client()
            .post(f"/predict?model={MODEL}{query}", data=form(*(pictures or (png(255),))), headers=named)
        )

    def waiting(self) -> int:
        """Requests that wait for a result, in both processes; none whose job is not yet in Redis."""
        jobs: list[JobClient] = [app.extensions["jobs"] for app in self.apps]
        tables = [list(each.replies._waiters.values()) for each in jobs]
        return sum(each.is_enqueued for table in tables for waiters in table for each in waiters)

    def runs(self) -> int:
        """Pictures that went through the network."""
        return sum(self.engine.batches)

    def entries(self) -> int:
        """Results that are kept."""
        return len(self.client.keys(self.keys.cached("*")))


@pytest.fixture
def environment() -> dict[str, str]:
    """Variables of the service; a test may parametrise it."""
    return {}


@pytest.fixture
def reread_s() -> float:
    """When what nobody passes on is looked up: too late for any test, unless one is about that."""
    return 60.0


@pytest.fixture
def webs(
    redis_url: str,
    client: redis.Redis,
    keys: Keys,
    tmp_path: Path,
    environment: dict[str, str],
    reread_s: float,
) -> Iterator[Webs]:
    """Two apps; no worker yet."""
    settings = Settings.from_env(
        {"REDIS_URL": redis_url, "MODELS": MODEL, "REQUEST_TIMEOUT_S": "20"}
        | {"RESULT_CACHE_S": "60", **environment}
    )
    folder = tmp_path / "model"
    folder.mkdir()
    with ExitStack() as stack:
        webs = Webs([create_app(settings) for _ in range(2)], client, keys.of(MODEL), folder)
        for app in webs.apps:
            replies = app.extensions["jobs"].replies
            replies._reread_s = reread_s
            replies.start()
            stack.callback(disconnect, app)
            stack.callback(replies.stop)
            assert replies.is_subscribed(20)
        stack.callback(webs.stop)
        yield webs


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every picture that is decoded."""
    prepare, pictures = fit.prepare, list[bytes]()

    def counting(picture: bytes, *arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        pictures.append(picture)
        return prepare(picture, *arguments, **options)

    monkeypatch.setattr(fit, "prepare", counting)
    return pictures


def _source(response: TestResponse) -> str:
    assert response.status_code == 200, response.get_json()
    return response.headers["X-Cache"]


def test_the_same_again_is_answered_by_any_process_without_decoding_and_without_a_run(
    webs: Webs, decoded: list[bytes]
) -> None:
    webs.start()
    first = webs.ask()
    assert _source(first) == "miss"
    for web in (0, 1):
        again = webs.ask(web=web)
        assert _source(again) == "hit"
        assert again.get_json() == first.get_json()
    assert (webs.runs(), len(decoded)) == (1, 1)


@pytest.mark.parametrize("environment", [{"RESULT_CACHE_S": "0"}])
def test_it_is_off_by_default(webs: Webs) -> None:
    assert Settings.from_env({}).result_cache_s == 0
    webs.start()
    answers = [webs.ask() for _ in range(2)]
    assert not any("X-Cache" in each.headers for each in answers)
    assert webs.runs() == 2
    assert type(webs.apps[0].extensions["inference"]) is Inference
    assert webs.client.keys(webs.keys.request("*")) == []
    assert webs.entries() == 0


def test_fifty_in_flight_have_one_run(webs: Webs, decoded: list[bytes]) -> None:
    worker = webs.announce()
    with ThreadPoolExecutor(50) as threads:
        answers = [threads.submit(webs.ask, web=number % 2) for number in range(50)]
        eventually(lambda: webs.waiting() == 50)
        assert webs.client.llen(webs.keys.queue) == 1
        webs.start(worker)
        responses = [each.result(15) for each in answers]
    assert Counter(map(_source, responses)) == {"miss": 1, "shared": 49}
    assert len({each.get_json()["id"] for each in responses}) == 1
    assert webs.runs() == 1
    assert len(decoded) < 10  # one a process, and those few that had looked just before it was enqueued
    assert webs.waiting() == 0


def test_a_run_that_ended_while_others_decode_is_theirs_too(
    webs: Webs, monkeypatch: pytest.MonkeyPatch
) -> None:
    webs.start()
    prepare, ended = fit.prepare, threading.Event()

    def slow(*arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        if threading.current_thread() is not threading.main_thread():
            assert ended.wait(20)
        return prepare(*arguments, **options)

    monkeypatch.setattr(fit, "prepare", slow)
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(webs.ask, web=1)
        eventually(lambda: webs.apps[1].extensions["inference"]._submitting != {})
        assert _source(webs.ask()) == "miss"
        ended.set()
        assert _source(late.result(15)) == "shared"
    assert webs.runs() == 1


@pytest.mark.parametrize("query", ["&top=1", "&top=3"])
def test_another_top_is_another_question(webs: Webs, query: str) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    assert _source(webs.ask(query=query)) == "miss"
    assert _source(webs.ask(query="&top=2")) == "hit"  # what the model gives by itself
    assert len(webs.ask(query=query).get_json()["predictions"]) == int(query[-1])


def test_other_bytes_are_another_question(webs: Webs) -> None:
    webs.start()
    assert [_source(webs.ask(png(shade))) for shade in (0, 255, 0)] == ["miss", "miss", "hit"]


def test_a_drawn_answer_is_that_of_the_same_result(webs: Webs) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    drawn = webs.ask(Accept="image/png")
    assert (_source(drawn), drawn.mimetype) == ("hit", "image/png")


def _counted() -> dict[str, float]:
    """Pictures by where their answers came from, as metrics have it."""
    name = "batchwire_cached_pictures_total"
    return {
        source: REGISTRY.get_sample_value(name, {"model": MODEL, "source": source}) or 0.0
        for source in ("hit", "shared", "miss")
    }


def test_a_list_has_a_word_for_each_picture(webs: Webs) -> None:
    webs.start()
    before = _counted()
    assert _source(webs.ask(png(0))) == "miss"
    answer = webs.ask(png(255), png(0), b"broken", png(255))
    assert _source(answer) == "miss, hit, miss, shared"
    assert {source: count - before[source] for source, count in _counted().items()} == {
        "hit": 1,
        "shared": 1,
        "miss": 3,
    }
    labels = [each.get("predictions", [{}])[0].get("label") for each in answer.get_json()["results"]]
    assert labels == ["bright", "dark", None, "bright"]
    assert webs.runs() == 2


def test_pixels_of_another_protocol_are_kept_with_their_scores(webs: Webs) -> None:
    webs.start()
    http = webs.apps[0].test_client()
    bodies = [
        {"instances": [{"b64": base64.b64encode(png(255)).decode()}]},
        {"instances": [[[255, 255], [255, 255]]]},
        {"instances": [[[0, 0], [0, 0]]]},
    ]
    said = [[_source(http.post(f"/v1/models/{MODEL}:predict", json=body)) for body in bodies] for _ in "12"]
    assert said == [["miss"] * 3, ["hit"] * 3]
    # Its results have scores, which those of /predict have not.
    assert _source(webs.ask()) == "miss"


def test_a_new_version_gives_no_old_answer(webs: Webs) -> None:
    webs.start()
    before = webs.ask().get_json()
    webs.stop()
    (webs.folder / "labels.txt").write_text("other\n")
    webs.start()
    eventually(lambda: _card(webs).model_version != before["model_version"])
    after = webs.ask()
    assert _source(after) == "miss"
    assert after.get_json()["model_version"] == _card(webs).model_version


def _card(webs: Webs) -> Card:
    jobs: JobClient = webs.apps[0].extensions["jobs"]
    return jobs.registry.models(fresh=True)[MODEL].card


@pytest.mark.parametrize("field_", ["model_version", "engine", "precision"])
def test_what_an_older_worker_ran_under_the_new_card_is_not_used(webs: Webs, field_: str) -> None:
    worker = webs.announce(card=replace(webs.spec().card(), **{field_: "new"}))  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(webs.ask, web=web) for web in (0, 1)]
        eventually(lambda: webs.waiting() == 2)
        assert webs.client.llen(webs.keys.queue) == 1
        # The worker announces its true card once it is ready; until then the new one is known here.
        jobs: list[JobClient] = [app.extensions["jobs"] for app in webs.apps]
        views = [each.registry.models() for each in jobs]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("broker.registry.Registry.models", lambda *_, **__: views[0])
            webs.start(worker)
            assert [_source(each.result(15)) for each in answers] == ["miss", "miss"]
            assert webs.runs() == 2
            assert webs.entries() == 0
            assert _source(webs.ask()) == "miss"


def test_a_stored_result_of_another_version_is_not_used(webs: Webs) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    (key,) = webs.client.keys(webs.keys.cached("*"))
    stored = codec.decode(webs.client.get(key) or b"", Result)  # type: ignore[arg-type]
    webs.client.set(key, codec.encode(replace(stored, model_version="other")))
    webs.client.delete(*webs.client.keys(webs.keys.request("*")))  # or its job's own result answers
    assert [_source(webs.ask()) for _ in range(2)] == ["miss", "hit"]


def _digest(
    picture: bytes | NDArray[np.uint8] = b"picture",
    *,
    top: int = 2,
    scores: bool = False,
    notice: str = "",
    **card: Any,  # noqa: ANN401 - any field
) -> str:
    view = ModelView(replace(fakes.CARD, **card), {}, queue_length=0, last_alive=0.0)
    choice = ModelChoice(view, view, notice)
    return digest_of(choice, picture, JobOptions(0.0, math.inf, scores=scores), top=top)


def test_whatever_changes_an_answer_changes_the_digest() -> None:
    pixels = np.zeros((2, 3, 1), np.uint8)
    digests = [
        _digest(),
        _digest(b"Picture"),
        _digest(b""),
        _digest(pixels),
        _digest(pixels.reshape(3, 2, 1)),
        _digest(pixels.tobytes()),
        _digest(pixels + 1),
        _digest(top=3),
        _digest(scores=True),
        _digest(notice="a fallback answers"),
        _digest(model="other"),
        _digest(model_version="v2"),
        _digest(engine="other"),
        _digest(precision="int8"),
        _digest(weights="random"),
        _digest(input=replace(fakes.SPEC, fit=Fit.CROP)),
    ]
    assert len(set(digests)) == len(digests)
    assert _digest() == digests[0]


@pytest.mark.parametrize(
    ("line", "change"),
    [("threshold = 0.5", "threshold = 0.6"), ('activation = "none"', 'activation = "sigmoid"')],
)
def test_a_changed_threshold_is_another_version(tmp_path: Path, line: str, change: str) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    (folder / "labels.txt").write_text("a\nb\n")
    text = (
        'task = "multi_label"\nlabels = "labels.txt"\n[source]\nkind = "onnx"\nfile = "scenes.onnx"\n'
        "[input]\nwidth = 8\nheight = 8\nchannels = 3\nfit = 'crop'\nnormalise = 'torch'\n"
        '[output]\nactivation = "none"\n[multi_label]\nthreshold = 0.5\n'
    )
    (folder / "scenes.onnx").write_bytes(b"network")
    (folder / "model.toml").write_text(text)
    versions = [read_model(tmp_path, "scenes").card().model_version]
    (folder / "model.toml").write_text(text.replace(line, change))
    versions += [read_model(tmp_path, "scenes").card().model_version]
    (folder / "labels.txt").write_text("a\nc\n")
    versions += [read_model(tmp_path, "scenes").card().model_version]
    assert len(set(versions)) == 3


def test_a_failure_is_not_kept_and_frees_its_name(webs: Webs) -> None:
    webs.start()
    webs.engine.on_batch = _raise
    assert webs.ask().status_code == 500
    assert (webs.entries(), webs.client.keys(webs.keys.request("*"))) == (0, [])
    webs.engine.on_batch = len
    assert [_source(webs.ask()) for _ in range(2)] == ["miss", "hit"]


def test_where_the_shared_run_fails_each_has_one_of_its_own(webs: Webs) -> None:
    worker = webs.announce()
    webs.engine.on_batch = _raise
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(webs.ask, web=number % 2) for number in range(6)]
        eventually(lambda: webs.waiting() == 6)
        webs.start(worker)
        responses = [each.result(15) for each in answers]
    assert [each.get_json()["error"]["code"] for each in responses] == ["inference_failed"] * 6
    assert {each.headers["X-Cache"] for each in responses} == {"miss"}
    # A dead letter for each: none was tried twice, and none was left out.
    assert webs.client.llen(webs.keys.dead) == 6


def test_after_one_failure_the_others_have_their_answers(webs: Webs) -> None:
    worker = webs.announce()
    failed: list[int] = []

    def first_fails(batch: np.ndarray[Any, Any]) -> None:
        failed.append(len(batch))
        if len(failed) == 1:
            raise RuntimeError("once")

    webs.engine.on_batch = first_fails
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(webs.ask, web=number % 2) for number in range(6)]
        eventually(lambda: webs.waiting() == 6)
        webs.start(worker)
        statuses = Counter(each.result(15).status_code for each in answers)
    assert statuses == {200: 5, 500: 1}
    assert _source(webs.ask()) == "hit"


def _raise(_: object) -> None:
    raise RuntimeError("it fails")


@pytest.mark.parametrize("reread_s", [0.2])
def test_a_flush_in_flight_costs_nobody_the_answer(webs: Webs) -> None:
    worker = webs.announce()
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(webs.ask, web=number % 2) for number in range(6)]
        eventually(lambda: webs.waiting() == 6)
        webs.client.flushall()
        worker.registration.ensure()
        eventually(lambda: webs.client.llen(webs.keys.queue) > 0)
        webs.start(worker)
        # Those that shared it may find the job that was put back, or have put in their own.
        assert {_source(each.result(15)) for each in answers} <= {"miss", "shared"}
    assert _source(webs.ask()) == "hit"


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "4"}])
def test_a_follower_with_more_time_outlives_the_run_that_it_shared(webs: Webs) -> None:
    worker = webs.announce()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(webs.ask)
        eventually(lambda: webs.waiting() == 1)
        threading.Event().wait(3.0)
        second = threads.submit(webs.ask, web=1)
        assert first.result(15).status_code == 504
        eventually(lambda: webs.client.llen(webs.keys.queue) == 2)
        webs.start(worker)
        assert _source(second.result(15)) == "miss"
    assert webs.runs() == 1


@pytest.mark.parametrize("scrap", [None, b"pending q 1.000 2.000", b"{"])
def test_a_run_that_will_have_no_result_is_not_waited_for(webs: Webs, scrap: bytes | None) -> None:
    """Its web process was killed, and so was its model server; or what is there can't be read."""
    worker = webs.announce()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(webs.ask)
        eventually(lambda: webs.waiting() == 1)
        (key,) = webs.client.keys(webs.keys.result("*"))
        if scrap is None:
            webs.client.delete(key)
        else:
            webs.client.set(key, scrap)
        second = threads.submit(webs.ask, web=1)
        eventually(lambda: webs.client.llen(webs.keys.queue) == 2)
        webs.client.set(key, "pending 1.000 9999999999.000")  # the first goes on
        webs.start(worker)
        assert [_source(each.result(15)) for each in (first, second)] == ["miss", "miss"]
    assert webs.runs() == 2


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "4"}])
def test_after_a_run_that_passed_its_deadline_the_next_is_shared_again(webs: Webs) -> None:
    worker = webs.announce()
    assert webs.ask().status_code == 504
    before = webs.client.llen(webs.keys.queue)
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(webs.ask, web=number % 2) for number in range(4)]
        eventually(lambda: webs.waiting() == 4)
        assert webs.client.llen(webs.keys.queue) == before + 1
        webs.start(worker)
        assert Counter(_source(each.result(15)) for each in answers) == {"miss": 1, "shared": 3}


@pytest.mark.parametrize("reread_s", [0.2])
def test_a_client_that_goes_does_not_take_the_run_with_it(
    webs: Webs, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, gone = webs.announce(), list[JobClient]()
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: current_app.extensions["jobs"] in gone)
    with ThreadPoolExecutor(2) as threads:
        leaving = threads.submit(webs.ask)
        eventually(lambda: webs.waiting() == 1)
        staying = threads.submit(webs.ask, web=1)
        eventually(lambda: webs.waiting() == 2)
        gone.append(webs.apps[0].extensions["jobs"])
        leaving.result(15)
        webs.start(worker)
        assert _source(staying.result(15)) == "shared"
    assert webs.runs() == 1


@pytest.mark.parametrize("environment", [{"RESULT_CACHE_S": "1", "RESULT_TTL_S": "60"}])
def test_an_entry_expires(webs: Webs) -> None:
    webs.start()
    first = webs.ask()
    (entry,) = webs.client.keys(webs.keys.cached("*"))
    assert 0 < webs.client.pttl(entry) <= 1000
    assert 0 < webs.client.pttl(webs.keys.cache) <= 1000
    eventually(lambda: webs.entries() == 0)
    # Its job's own result is there for a minute, and does not count either.
    again = webs.ask()
    assert _source(again) == "miss"
    assert again.get_json()["id"] != first.get_json()["id"]


def test_after_a_flush_it_is_a_miss_again(webs: Webs) -> None:
    webs.start()
    assert [_source(webs.ask()) for _ in range(2)] == ["miss", "hit"]
    for key in webs.client.keys(webs.keys.cached("*")) + webs.client.keys(webs.keys.request("*")):
        webs.client.delete(key)
    assert [_source(webs.ask()) for _ in range(2)] == ["miss", "hit"]


def test_an_answer_does_not_need_to_be_kept(webs: Webs) -> None:
    webs.start()
    webs.client.set(webs.keys.cache, "of another type")
    assert [_source(webs.ask()) for _ in range(2)] == ["miss", "shared"]  # its job's own result is there
    assert webs.entries() == 0


def test_a_redis_that_hangs_is_tried_once_and_not_for_each_picture(
    webs: Webs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve pictures, whose results had all come, had their answer 10.9 s later."""
    keep, began = ResultCache.keep, list[float]()

    def hang(cache: ResultCache, *arguments: Any, **options: Any) -> bool:  # noqa: ANN401
        if not began:
            eventually(lambda: webs.runs() == 12)
            threading.Event().wait(0.5)  # the results are passed on meanwhile
            webs.client.client_pause(30_000, all=False)
            began.append(time.monotonic())
        return keep(cache, *arguments, **options)

    monkeypatch.setattr(ResultCache, "keep", hang)
    webs.start()
    try:
        response = webs.ask(*map(png, range(12)))
        assert response.headers["X-Cache"] == ", ".join(["miss"] * 12)
        assert time.monotonic() - began[0] < 4
    finally:
        webs.client.client_unpause()


def test_a_full_redis_still_gives_what_is_kept(webs: Webs) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    webs.client.config_set("maxmemory", "1")
    try:
        assert _source(webs.ask(web=1)) == "hit"
        assert webs.ask(png(0)).status_code == 503
    finally:
        webs.client.config_set("maxmemory", "0")


def test_requests_that_are_not_http_have_no_header_to_give() -> None:
    cache_sources.note(["hit"])  # there is no app, and it says nothing


def test_a_large_result_is_not_kept_but_shared(webs: Webs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "MAX_RESULT_BYTES", 100)
    worker = webs.announce()
    with ThreadPoolExecutor(2) as threads:
        answers: list[Future[TestResponse]] = [threads.submit(webs.ask, web=web) for web in (0, 1)]
        eventually(lambda: webs.waiting() == 2)
        webs.start(worker)
        assert {_source(each.result(15)) for each in answers} == {"miss", "shared"}
    assert (webs.entries(), webs.client.exists(webs.keys.cache)) == (0, 0)
    assert _source(webs.ask()) == "miss"


def test_an_idempotency_key_counts_first(webs: Webs) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    keyed = [webs.ask(Idempotency_Key="mine") for _ in range(2)]
    assert len({each.get_json()["id"] for each in keyed}) == 1
    assert not any("X-Cache" in each.headers for each in keyed)
    assert webs.runs() == 2
    # A key that is spelled like a digest is another name.
    (entry,) = webs.client.keys(webs.keys.cached("*"))
    digest = str(entry).rpartition(":")[2].strip("'")
    assert webs.ask(png(0), Idempotency_Key=digest).status_code == 200
    assert _source(webs.ask()) == "hit"


def test_a_polled_job_is_one_of_its_own(webs: Webs) -> None:
    webs.start()
    assert _source(webs.ask()) == "miss"
    polled = webs.ask(Prefer="respond-async")
    assert polled.status_code == 202
    assert "X-Cache" not in polled.headers


@pytest.fixture
def cache(client: redis.Redis, keys: Keys) -> ResultCache:
    """A cache that holds ten thousand small results."""
    return ResultCache(client, keys, ttl_s=60, most_bytes=10_000_000)


def _result(**changes: Any) -> Result:  # noqa: ANN401
    return Result(id=fakes.job().id, model=MODEL, model_version="v1", **changes)


def test_the_oldest_give_way_to_the_newest(client: redis.Redis, keys: Keys) -> None:
    size = result_cache.OVERHEAD_BYTES + len(codec.encode(_result()))
    cache = ResultCache(client, keys, ttl_s=60, most_bytes=3 * size)
    digests = [f"d{number}" for number in range(10)]
    for digest in digests:
        assert cache.keep(MODEL, digest, _result(), is_answer=True)
    assert [bool(cache.find(MODEL, each, Result)) for each in digests] == [False] * 7 + [True] * 3
    assert client.zcard(keys.of(MODEL).cache) == 3
    # One that is written again is the newest.
    assert cache.keep(MODEL, "d7", _result(), is_answer=True)
    assert cache.keep(MODEL, "new", _result(), is_answer=True)
    assert [bool(cache.find(MODEL, each, Result)) for each in ("d7", "d8", "d9", "new")] == [
        *(True, False, True, True)
    ]


def test_an_entry_takes_no_more_than_it_counts_for(cache: ResultCache, client: redis.Redis) -> None:
    before = client.info("memory")["used_memory_dataset"]
    value = codec.encode(_result())
    for number in range(5000):
        assert cache.keep(MODEL, f"{number:064x}", _result(), is_answer=True)
    each = (client.info("memory")["used_memory_dataset"] - before) / 5000
    assert each < len(value) + result_cache.OVERHEAD_BYTES, each


def test_a_full_redis_keeps_nothing_and_passes_it_on(
    cache: ResultCache, client: redis.Redis, keys: Keys
) -> None:
    job, name = fakes.job(), shared_name("digest")
    assert fakes.producer(client, keys).enqueue(MODEL, job, name) == job.id
    result = replace(_result(), id=job.id)
    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(keys.results_channel(job.id))
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        client.config_set("maxmemory", "1")
        try:
            assert not cache.keep(MODEL, "digest", result, is_answer=True)
        finally:
            client.config_set("maxmemory", "0")
        assert codec.decode(pubsub.get_message(timeout=5)["data"], Result) == result
    assert cache.find(MODEL, "digest", Result) is None
    assert client.exists(keys.of(MODEL).cache) == 0


def test_a_name_of_another_job_stays(cache: ResultCache, client: redis.Redis, keys: Keys) -> None:
    job: Job = fakes.job()
    fakes.producer(client, keys).enqueue(MODEL, job, shared_name("digest"))
    cache.keep(MODEL, "digest", _result(), is_answer=False)
    assert cache.find(MODEL, "digest", Result) == job.id
    cache.keep(MODEL, "digest", replace(_result(), id=job.id), is_answer=False)
    assert cache.find(MODEL, "digest", Result) is None


def test_what_can_t_be_read_is_a_miss(cache: ResultCache, client: redis.Redis, keys: Keys) -> None:
    client.set(keys.of(MODEL).cached("digest"), b"{")
    assert cache.find(MODEL, "digest", Result) is None


def test_no_client_s_key_is_a_shared_name() -> None:
    assert ":" not in shared_name("ab12").name
    assert shared_name("ab12") != RequestName("ab12", "-")
