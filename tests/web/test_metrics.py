"""What the web tier counts, by what a client does: each number moves by what was done, and by no more."""

import io
import re
from collections.abc import Callable

import pytest
import redis
from msgspec import structs
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from broker.keys import Keys
from broker.messages import State, WorkerState
from settings import Settings
from tests.support import ROOT, fakes
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.app import create_app, refusal_renderer
from web.server.refusals import RequestHead, UploadTimeout

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"\\]*)"(?:,|$)')  # no label here has what would be escaped


def _read(service: Service) -> dict[Sample, float]:
    """Every sample. Prometheus' own parser takes seconds: a process of tests has thousands of them."""
    response = service.client.get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain")
    text = response.get_data(as_text=True)
    samples = _SAMPLE.findall(text)
    assert len(samples) == sum(not line.startswith("#") for line in text.splitlines())
    return {(name, frozenset(_LABEL.findall(labels))): float(value) for name, labels, value in samples}


def _moved(service: Service, act: Callable[[], object]) -> dict[Sample, float]:
    before = _read(service)
    act()
    after = _read(service)
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _of(name: str, **labels: str) -> Sample:
    return f"batchwire_{name}", frozenset(labels.items())


def _post(service: Service, *pictures: bytes, **options: object) -> None:
    files = [(io.BytesIO(picture), "x.png") for picture in pictures]
    service.client.post("/predict", data={"image": files}, **options)


@pytest.mark.slow
def test_a_request_is_counted_by_its_route_its_model_and_its_status(running: Service) -> None:
    moved = _moved(running, lambda: _post(running, png(1), png(2), b"no picture"))
    request = {"route": "/predict", "dialect": "batchwire"}
    assert moved[_of("http_requests_total", **request, model=MODEL, code="200")] == 1
    assert moved[_of("http_request_duration_seconds_count", **request)] == 1
    assert moved[_of("pictures_total", model=MODEL, outcome="ok")] == 2
    assert moved[_of("pictures_total", model=MODEL, outcome="invalid_image")] == 1


@pytest.mark.slow
def test_the_stages_of_both_tiers_are_measured(running: Service) -> None:
    stages = ("decode", "queue", "batch", "model", "reply")

    def counts() -> list[float]:
        told = _read(running)
        return [
            told.get(_of("stage_duration_seconds_count", model=MODEL, stage=each), 0.0) for each in stages
        ]

    before = counts()
    _post(running, png(1), png(2))
    # A batch's are counted once its results are written, when its client may have its answer already.
    eventually(lambda: counts() == [count + 2 for count in before])


def test_one_that_is_polled_is_accepted(running: Service) -> None:
    moved = _moved(running, lambda: _post(running, png(1), headers={"Prefer": "respond-async"}))
    assert moved[_of("pictures_total", model=MODEL, outcome="accepted")] == 1
    labels = {"route": "/predict", "dialect": "batchwire", "model": MODEL, "code": "202"}
    assert moved[_of("http_requests_total", **labels)] == 1


@pytest.mark.parametrize(
    ("asked", "model", "code"),
    [(MODEL, MODEL, "model_unavailable"), ("", MODEL, "model_unavailable"), ("never", "never", "no_worker")],
)
def test_a_model_that_failed_or_never_came_is_named(
    service: Service, asked: str, model: str, code: str
) -> None:
    # Its worker does not run: it would say again that it is ready.
    service.worker.lease.announce(State(WorkerState.FAILED, "v1", reason="no weights"))
    eventually(lambda: service.client.get(f"/readyz?model={MODEL}").status_code == 503)
    moved = _moved(service, lambda: _post(service, png(1), query_string={"model": asked}))
    assert moved[_of("pictures_total", model=model, outcome=code)] == 1
    labels = {"route": "/predict", "dialect": "batchwire", "model": model, "code": "503"}
    assert moved[_of("http_requests_total", **labels)] == 1


@pytest.mark.slow
def test_pictures_of_a_request_that_fails_as_a_whole_count_too(running: Service) -> None:
    _post(running, png(1))
    moved = _moved(running, lambda: _post(running, png(1), png(2), query_string={"model": "never-heard-of"}))
    assert moved[_of("pictures_total", model="", outcome="unknown_model")] == 2


@pytest.mark.slow
def test_dialects_are_told_apart(running: Service) -> None:
    moved = _moved(running, lambda: running.client.put(f"/predictions/{MODEL}", data=png(1)))
    (request,) = [
        labels
        for (name, pairs), value in moved.items()
        if "http_requests_total" in name and value and (labels := dict(pairs))["route"] != "/metrics"
    ]
    assert (request["dialect"], request["model"], request["code"]) == ("torchserve", MODEL, "200")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/nothing/here", "/predict?model=no-such-model"])
def test_no_client_can_make_up_a_label(running: Service, path: str) -> None:
    before = _read(running)
    running.client.post(path, data={"image": (io.BytesIO(png(1)), "x.png")})
    new = {label for sample in _read(running).keys() - before.keys() for label in sample[1]}
    assert not [label for label in new if "nothing" in label[1] or "no-such" in label[1]]


@pytest.mark.slow
def test_a_request_after_another_has_not_its_model(running: Service) -> None:
    _post(running, png(1))
    moved = _moved(running, lambda: running.client.get("/healthz"))
    labels = {"route": "/healthz", "dialect": "batchwire", "model": "", "code": "200"}
    assert moved[_of("http_requests_total", **labels)] == 1


@pytest.mark.slow
def test_the_queue_is_told_as_it_is(service: Service, client: redis.Redis, keys: Keys) -> None:
    service.start_worker()
    eventually(service.worker.ready.is_set)
    service.worker.stop()
    eventually(lambda: _read(service).get(_of("workers", model=MODEL, state="ready")) == 0)
    for number in range(3):
        _post(service, png(number), headers={"Prefer": "respond-async"})
    told = _read(service)
    assert told[_of("queue_jobs", model=MODEL, kind="polled")] == 3
    assert told[_of("queue_jobs", model=MODEL, kind="waiting")] == 0
    assert told[_of("queue_bytes", model=MODEL)] >= 3 * 100
    assert 0 < told[_of("queue_oldest_job_seconds", model=MODEL)] < 60
    assert told[_of("redis_up")] == 1
    assert told[_of("redis_memory_bytes")] > told[_of("redis_memory_limit_bytes")] == 0
    client.lpush(keys.of(MODEL).dead, b"letter")
    assert _read(service)[_of("dead_letters_kept", model=MODEL)] == 1
    client.delete(keys.of(MODEL).dead)
    client.set(keys.of(MODEL).dead, "a key of another type")
    assert _read(service)[_of("queue_jobs", model=MODEL, kind="polled")] == 3
    client.lpush(keys.of(MODEL).queue, b"no job")
    told = _read(service)
    assert told[_of("queue_jobs", model=MODEL, kind="waiting")] == 1
    assert told[_of("lanes_active", model=MODEL)] == 0
    fakes.enqueue(client, keys, structs.replace(fakes.job(), lane="ann@100"))
    told = _read(service)
    assert told[_of("queue_jobs", model=MODEL, kind="waiting")] == 2
    assert told[_of("lanes_active", model=MODEL)] == 1


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.1", "SCALE_TO_ZERO": "on"}])
def test_scaled_to_zero_a_picture_waits_in_the_queue_and_an_autoscaler_sees_it(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    def told(query: str = "") -> dict[str, float]:
        numbers: dict[str, float] = service.client.get(f"/scaling{query}").get_json()
        return numbers

    service.worker.lease.announce(State(WorkerState.FAILED, "v1", reason="no weights"))
    assert service.client.get(f"/readyz?model={MODEL}").status_code == 503
    assert service.client.get("/readyz").status_code == 200  # of the others one may be asked
    service.worker.lease.leave()
    view = service.app.extensions["jobs"].registry.models(fresh=True)[MODEL]
    eventually(lambda: service.app.extensions["jobs"].registry.now() - view.last_alive > 0.1)
    assert told() == {"jobs": 0, "oldest_job_s": 0.0, "asked": 0}
    assert service.client.get("/readyz").status_code == 200  # else nobody would send what starts a worker
    assert service.client.get(f"/readyz?model={MODEL}").status_code == 200
    assert service.client.get("/v2/health/ready").status_code == 200  # and so says grpc.health.v1
    assert service.client.get(f"/v2/models/{MODEL}/ready").status_code == 200
    assert service.client.post("/predict", data=png(0), content_type="image/png").status_code == 504
    seen = told(f"?models={MODEL}")
    assert (seen["jobs"], seen["asked"]) == (1, 1)
    assert seen["oldest_job_s"] >= 0.1
    assert told("?models=never") == {"jobs": 0, "oldest_job_s": 0.0, "asked": 0}
    assert service.client.get("/scaling?models=tiny,other").status_code == 404
    for window in ("0", "x", "86401", "9" * 5000, "000001" + "9" * 5000, "٣", "1&window=2", "&window=x"):
        assert service.client.get(f"/scaling?window={window}").status_code == 400
    client.set(keys.of(MODEL).asked, service.app.extensions["jobs"].registry.now() - 90)
    assert (told()["asked"], told("?window=100")["asked"]) == (0, 1)
    client.delete(keys.of(MODEL).queue)


def test_a_picture_for_a_model_without_a_card_is_refused_and_an_autoscaler_knows(service: Service) -> None:
    assert service.client.get("/models").status_code == 200  # which asks no model
    assert service.client.get("/scaling?models=never").get_json()["asked"] == 0
    response = service.client.post("/predict?model=never", data=png(0), content_type="image/png")
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert service.client.get("/scaling?models=never").get_json()["asked"] == 1
    assert service.client.get(f"/scaling?models={MODEL}").get_json()["asked"] == 0


def test_without_redis_it_says_so_and_tells_the_rest() -> None:
    app = create_app(Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0", "MODELS": MODEL}))
    with app.test_client() as client:
        text = client.get("/metrics").get_data(as_text=True)
    assert "\nbatchwire_redis_up 0.0\n" in text
    assert "batchwire_redis_operation_duration_seconds_count" in text
    assert "batchwire_queue_jobs" not in text


@pytest.mark.slow
def test_the_page_on_metrics_has_all_of_both_tiers_with_their_labels(running: Service) -> None:
    _post(running, png(1))
    text = running.client.get("/metrics").get_data(as_text=True)
    told = {
        family.name + "_total" * (family.type == "counter"): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in text_string_to_metric_families(text)
        if family.name.startswith("batchwire_")
    }
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(batchwire_\w+)` \| (.*?) \|", page, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert listed.keys() == told.keys()
    # One that never happened has no labels yet.
    assert {name: labels for name, labels in told.items() if labels and labels != listed[name]} == {}


def test_what_the_loop_refuses_is_counted_by_its_code() -> None:
    def count() -> float:
        labels = {"code": "upload_timeout"}
        return REGISTRY.get_sample_value("batchwire_http_requests_refused_unread_total", labels) or 0.0

    before = count()
    refusal_renderer(Settings.from_env({"MODELS": MODEL}))(UploadTimeout("too slow"), RequestHead())
    assert count() == before + 1
