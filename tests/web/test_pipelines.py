"""Pipelines over a real Redis: a finder of boxes, and a model that tells dark from bright."""

import base64
import io
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image

from broker.errors import BrokerUnavailable, Overloaded
from broker.keys import Keys
from broker.messages import AS_UPLOADED, Fit, InputSpec, Mask, Result, State, Step, WorkerState
from broker.producer import PendingJob
from model_server.catalogue.detection_layout import Detection
from model_server.catalogue.model_spec import Label, ModelSpec
from model_server.catalogue.pipeline_toml import StepModels
from model_server.engines.engine import Outputs
from model_server.engines.steps import StepsEngine
from model_server.serving.worker import Worker
from model_server.tasks import TASKS
from model_server.tasks.keypoints import Keypoints
from model_server.tasks.pipeline import PipelineTask
from model_server.tasks.segmentation import Segmentation
from pictures import fit, png
from pictures.fit import Part, PartCutter, PreparedPicture
from settings import Settings
from tests.support import fakes
from tests.support.collector import SAMPLED, TRACE, Collector, assert_in_order, collecting, exporting
from tests.support.fakes import FakeEngine
from tests.support.pictures import encoded, form
from tests.support.receivers import SECRET, receiving
from tests.support.service import disconnect
from tests.support.waiting import eventually
from web import pipelines
from web.app import create_app
from web.jobs import ClientGone, JobClient, JobOptions
from web.middleware import request_ids
from web.pipelines import run
from web.polled_pipelines import PolledPipelines
from web.webhooks.callback_hosts import CallbackHosts
from web.webhooks.deliverer import Deliverer
from web.webhooks.signing import Signer

FIND = Step("objects", "finder")
TELL = Step("shade", fakes.MODEL, crop="objects")


def _halves() -> Image.Image:
    """40 x 20: black on the left, white on the right."""
    photo = Image.new("L", (40, 20))
    photo.paste(255, (20, 0, 40, 20))
    return photo


PHOTO = encoded(_halves())


def _found(batch: NDArray[np.uint8]) -> Outputs:
    """A cat on the left half, and a dog, less probable, on the right; on an all dark picture nothing."""
    rows = np.array([[2, 4, 4, 8, 0.9, 0, 0], [6, 4, 4, 8, 0, 0.8, 0]], np.float32).T
    return (np.stack([rows if picture.max() else 0 * rows for picture in batch]),)


@dataclass
class City:
    """A web tier, and the workers that were started."""

    client: FlaskClient
    jobs: JobClient
    redis_client: redis.Redis
    keys: Keys
    folder: Path
    engines: dict[str, FakeEngine] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, spec: ModelSpec, engine: FakeEngine | StepsEngine) -> None:
        """Start a worker of `spec`."""
        worker = fakes.unregistered_worker(self.redis_client, self.keys, spec, lambda: engine)
        worker.registration.ensure()
        thread = threading.Thread(target=worker.run)
        thread.start()
        self.workers.append(worker)
        self.threads.append(thread)
        assert worker.ready.wait(20)

    def finder(self, name: str = "finder", **changes: Any) -> None:  # noqa: ANN401 - fields of a spec
        """Start a detector."""
        self.engines[name] = engine = FakeEngine()
        engine.network = _found
        labels = (Label("0", "cat"), Label("1", "dog"), Label("2", "car"))
        options = Detection(layout="ultralytics", confidence=0.25)
        spec = replace(
            fakes.spec(self.folder),
            name=name,
            task=TASKS["detection"],
            input=InputSpec(8, 8, 3, Fit.STRETCH),
            labels=labels,
            top=10,
            options=options,
        )
        self.serve(replace(spec, **changes), engine)

    def teller(self) -> None:
        """Start the model that tells dark from bright."""
        self.engines[fakes.MODEL] = engine = FakeEngine()
        self.serve(fakes.spec(self.folder), engine)

    def pipeline(self, *steps: Step) -> None:
        """Announce the pipeline `city`."""
        spec = replace(
            fakes.spec(self.folder),
            name="city",
            task=PipelineTask(),
            source=StepModels(steps),
            input=AS_UPLOADED,
            labels=(),
            top=0,
        )
        self.serve(spec, StepsEngine())

    def ask(self, *pictures: bytes, **headers: str) -> Any:  # noqa: ANN401 - Flask's response
        """Upload pictures to the pipeline."""
        data = form(*(pictures or (PHOTO,)))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/predict?model=city", data=data, headers=named)

    def length(self, model: str) -> int:
        """How many jobs wait for a model."""
        return int(self.redis_client.llen(self.keys.of(model).queue))


@pytest.fixture
def environment() -> dict[str, str]:
    """Variables of the service; a test may parametrise it."""
    return {}


@pytest.fixture
def city(
    redis_url: str, client: redis.Redis, keys: Keys, tmp_path: Path, environment: dict[str, str]
) -> Iterator[City]:
    """The web tier, with no worker yet."""
    settings = Settings.from_env(
        {"REDIS_URL": redis_url, "MODELS": "city", "REQUEST_TIMEOUT_S": "20", **environment}
    )
    app = create_app(settings)
    jobs: JobClient = app.extensions["jobs"]
    jobs.replies.start()
    assert jobs.replies.is_subscribed(20)
    with app.test_client() as http:
        made = City(http, jobs, client, keys, tmp_path)
        yield made
    app.extensions["polled_pipelines"].stop(within_s=0)
    for worker in made.workers:
        worker.stopping.set()
        client.rpush(keys.of(worker.spec.name).bell, "1")  # so that an idle worker looks at once
    for thread in made.threads:
        thread.join()
    jobs.replies.stop()
    disconnect(app)


def _label(answer: dict[str, Any]) -> str:
    return str(answer["predictions"][0]["label"])


def test_what_was_found_is_cut_out_and_asked_about(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    response = city.ask()
    assert response.status_code == 200
    answer = response.get_json()
    assert (answer["success"], answer["model"], answer["predictions"]) == (True, "city", [])
    objects = answer["steps"]["objects"]
    assert (objects["success"], objects["model"]) == (True, "finder")
    cat, dog = objects["predictions"]
    assert (cat["label"], cat["box"]) == ("cat", [0, 0, 20, 20])
    assert (dog["label"], dog["box"]) == ("dog", [20, 0, 20, 20])
    assert [_label(each["steps"]["shade"]) for each in (cat, dog)] == ["dark", "bright"]
    ids = [answer["id"], objects["id"], *(each["steps"]["shade"]["id"] for each in (cat, dog))]
    assert len(set(ids)) == 4
    assert "shade" not in answer["steps"]
    assert not city.redis_client.keys(city.keys.of("city").result("*"))


def test_each_step_has_a_queue_and_a_batch_of_its_own(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    answers = city.ask(PHOTO, PHOTO).get_json()["results"]
    assert [answer["success"] for answer in answers] == [True, True]
    assert sum(city.engines["finder"].batches) == 2
    assert sum(city.engines[fakes.MODEL].batches) == 4  # two of each photo


@pytest.mark.parametrize(
    ("step", "asked"),
    [
        (replace(TELL, labels=("dog",)), ["dog"]),
        (replace(TELL, labels=("car",)), []),
        (replace(TELL, least=0.85), ["cat"]),
        (replace(TELL, least=float(np.float32(0.8))), ["cat", "dog"]),
        (replace(TELL, most=1), ["cat"]),
        (replace(TELL, most=1, labels=("dog", "cat")), ["cat"]),
        (replace(TELL, most=1, labels=("dog",)), ["dog"]),
    ],
)
def test_only_the_boxes_that_a_step_wants(city: City, step: Step, asked: list[str]) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, step)
    predictions = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert [each["label"] for each in predictions if "steps" in each] == asked


def test_a_margin_takes_in_what_is_around_a_box(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, replace(TELL, margin=1.0, top=3))
    cat, _ = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert cat["box"] == [0, 0, 20, 20]
    # Of the whole photo: as much black as white.
    assert _label(cat["steps"]["shade"]) == "grey"
    assert len(cat["steps"]["shade"]["predictions"]) == 3


def test_a_step_s_failure_is_its_own(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)

    def fails_on_white(batch: NDArray[np.uint8]) -> None:
        if batch.max() == 255:
            raise RuntimeError("white")

    city.engines[fakes.MODEL].on_batch = fails_on_white
    response = city.ask()
    assert response.status_code == 200
    cat, dog = response.get_json()["steps"]["objects"]["predictions"]
    assert _label(cat["steps"]["shade"]) == "dark"
    failure = dog["steps"]["shade"]
    assert (failure["success"], failure["model"]) == (False, fakes.MODEL)
    assert failure["error"]["code"] == "inference_failed"


def test_where_no_step_answers_the_request_fails(city: City) -> None:
    city.finder()
    city.pipeline(FIND, TELL)
    city.engines["finder"].on_batch = lambda _: 1 / 0
    response = city.ask()
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "inference_failed")


def test_a_model_that_nobody_serves_fails_its_own_step(city: City) -> None:
    city.finder()
    city.pipeline(FIND, replace(TELL, model="nobody"), Step("all", "nobody"))
    steps = city.ask().get_json()["steps"]
    assert steps["all"]["error"]["code"] == "no_worker"
    assert steps["objects"]["predictions"][0]["steps"]["shade"]["error"]["code"] == "no_worker"
    assert "nobody" in steps["all"]["error"]["message"]


def test_a_pipeline_without_any_model_is_not_ready_and_says_why(city: City) -> None:
    city.pipeline(Step("all", "nobody"))
    response = city.ask()
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert int(response.headers["Retry-After"]) > 0
    ready = city.client.get("/readyz?model=city")
    assert (ready.status_code, ready.get_json()["models"]) == (503, {"city": "no worker"})
    assert ready.get_json()["reason"] == "No model server serves nobody, which its steps ask."


def test_a_pipeline_is_ready_with_its_steps(city: City) -> None:
    city.finder()
    city.pipeline(FIND, TELL)
    assert city.client.get("/readyz?model=city").status_code == 503
    city.teller()
    assert city.client.get("/readyz?model=city").status_code == 200
    (shown,) = (each for each in city.client.get("/models").get_json()["models"] if each["model"] == "city")
    assert (shown["task"], shown["state"]) == ("pipeline", "ready")
    assert [(step["name"], step["model"], step["crop"]) for step in shown["steps"]] == [
        ("objects", "finder", ""),
        ("shade", "tiny", "objects"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "1"}])
def test_all_steps_have_one_deadline(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    city.engines["finder"].on_batch = lambda _: time.sleep(0.5)
    city.engines[fakes.MODEL].on_batch = lambda _: time.sleep(3)
    began = time.monotonic()
    response = city.ask()
    assert time.monotonic() - began < 2.5
    cat, dog = response.get_json()["steps"]["objects"]["predictions"]
    for each in (cat, dog):
        assert each["steps"]["shade"]["error"]["code"] in ("deadline_passed", "overloaded")


def test_boxes_and_points_on_a_part_are_those_of_the_photo(city: City) -> None:
    city.finder()
    row = np.array([4, 4, 4, 4, 0.9, 0, 0, 2, 6, 1], np.float32)[:, None]
    city.finder("posing", task=TASKS["keypoints"], options=Keypoints(names=("nose",)))
    city.engines["posing"].network = lambda batch: (np.stack([row] * len(batch)),)
    city.pipeline(FIND, Step("pose", "posing", crop="objects", labels=("dog",)))
    _, dog = city.ask().get_json()["steps"]["objects"]["predictions"]
    pose = dog["steps"]["pose"]["predictions"][0]
    # The middle of the right half, of which a pixel of the input is 2.5.
    assert pose["box"] == [25, 5, 10, 10]
    assert pose["keypoints"] == [{"name": "nose", "x": 25.0, "y": 15.0, "probability": 1.0}]


def test_boxes_in_boxes(city: City) -> None:
    city.finder()
    city.teller()
    inner = Step("inner", "finder", crop="objects")
    city.pipeline(FIND, inner, replace(TELL, crop="inner", most=2))
    cat, dog = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert cat["steps"]["inner"]["predictions"] == []  # all dark
    left, right = dog["steps"]["inner"]["predictions"]
    assert (left["box"], right["box"]) == ([20, 0, 10, 20], [30, 0, 10, 20])
    assert [_label(each["steps"]["shade"]) for each in (left, right)] == ["bright", "bright"]


def test_a_step_whose_boxes_are_none_says_so(city: City) -> None:
    city.teller()
    city.pipeline(Step("all", fakes.MODEL), replace(TELL, crop="all"))
    steps = city.ask().get_json()["steps"]
    assert steps["all"]["success"]
    assert (steps["shade"]["success"], "gives no boxes" in steps["shade"]["error"]["message"]) == (
        False,
        True,
    )


def test_a_pipeline_asks_no_pipeline(city: City) -> None:
    city.pipeline(Step("all", "city"))
    response = city.ask()
    assert response.status_code == 503
    assert "is a pipeline itself" in response.get_json()["error"]["message"]


def test_a_broken_picture_disturbs_no_other(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    response = city.ask(b"no picture", PHOTO)
    broken, good = response.get_json()["results"]
    assert (response.status_code, broken["error"]["code"], good["success"]) == (200, "invalid_image", True)


def test_top_is_the_steps_own(city: City) -> None:
    city.pipeline(FIND)
    response = city.client.post("/predict?model=city&top=2", data=form(PHOTO))
    assert response.status_code == 400
    assert "their own top" in response.get_json()["error"]["message"]


def test_a_drawn_answer_names_what_later_steps_found(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    drawn = [city.ask(Accept="image/png")]
    city.engines[fakes.MODEL].network = lambda batch: (np.eye(3, dtype=np.float32)[[1] * len(batch)],)
    drawn.append(city.ask(Accept="image/png"))
    assert [each.headers["X-Model"] for each in drawn] == ["city", "city"]
    pictures = [np.asarray(Image.open(io.BytesIO(each.data))) for each in drawn]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()


def test_a_client_that_has_gone_leaves_nothing_in_the_queues(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    options = _options(city)
    try:
        with pytest.raises(ClientGone):
            run(city.jobs, city.jobs.models.choose("city"), [PHOTO] * 3, options, is_client_gone=lambda: True)
        assert not city.redis_client.keys(city.keys.of("finder").result("*"))
    finally:
        held.set()


def test_a_pipeline_can_be_polled_for(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    accepted = city.ask(Prefer="respond-async")
    assert (accepted.status_code, accepted.headers["Preference-Applied"]) == (202, "respond-async")
    address = accepted.headers["Location"]
    assert city.client.get(address).status_code == 202
    held.set()
    eventually(lambda: city.client.get(address).status_code == 200)
    answer = city.client.get(address).get_json()
    assert answer["id"] == accepted.get_json()["id"]
    assert _label(answer["steps"]["objects"]["predictions"][1]["steps"]["shade"]) == "bright"


def test_a_polled_pipeline_is_its_owner_s_from_the_first_step_to_the_end(city: City) -> None:
    city.pipeline(FIND)
    city.finder()
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    polled: PolledPipelines = city.client.application.extensions["polled_pipelines"]
    options = _options(city, polled=True, lane="ann@100")
    job = polled.start(city.jobs.models.choose("city"), PHOTO, options)
    assert city.jobs.poll("city", job.id) is None
    assert isinstance(getattr(city.jobs.poll("city", job.id, owner="ann"), "state", None), PendingJob)
    held.set()
    eventually(lambda: not polled._running)
    assert city.jobs.poll("city", job.id) is None
    assert isinstance(getattr(city.jobs.poll("city", job.id, owner="ann"), "state", None), Result)


def test_a_polled_pipeline_that_fails_says_so(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    address = city.ask(b"no picture", Prefer="respond-async").headers["Location"]
    eventually(lambda: city.client.get(address).status_code == 400)
    assert city.client.get(address).get_json()["error"]["code"] == "invalid_image"


@pytest.mark.slow
def test_a_polled_pipeline_may_be_waited_for(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    accepted = city.ask(Prefer="respond-async, wait=1")
    assert accepted.status_code == 202
    assert datetime.fromisoformat(accepted.get_json()["expires_at"]).timestamp() > time.time()
    held.set()
    assert city.client.get(f"{accepted.headers['Location']}&wait=15").status_code == 200
    assert city.ask(Prefer="respond-async, wait=15").status_code == 200


@pytest.mark.slow
def test_a_pipeline_is_announced_once_and_its_steps_are_not(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    with receiving() as receiver:
        hosts = CallbackHosts((f"http://127.0.0.1:{receiver.port}",))
        city.client.application.extensions["callback_hosts"] = hosts
        deliverer = Deliverer(city.jobs.producer.webhooks, hosts, Signer(SECRET), result_ttl_s=60)
        deliverer.start()
        accepted = city.client.post(
            "/predict?model=city", data={**form(PHOTO, b"no picture"), "callback_url": receiver.url}
        )
        assert accepted.status_code == 202
        ids = [each["id"] for each in accepted.get_json()["results"]]
        eventually(lambda: len(receiver.calls) == 2)
        eventually(lambda: not city.redis_client.exists(city.keys.of("city").webhooks))
        deliverer.stop(within_s=5)
    announced: dict[str, Any] = {call.headers["webhook-id"]: call.verified() for call in receiver.calls}
    assert sorted(announced) == sorted(ids)
    assert _label(announced[ids[0]]["steps"]["objects"]["predictions"][1]["steps"]["shade"]) == "bright"
    assert announced[ids[1]]["error"]["code"] == "invalid_image"
    for model in ("finder", fakes.MODEL):
        assert not city.redis_client.exists(city.keys.of(model).webhooks)


def test_a_polled_pipeline_that_is_cancelled_begins_no_step(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    begun, held = threading.Event(), threading.Event()

    def hold(_: object) -> bool:
        begun.set()
        return held.wait(20)

    city.engines["finder"].on_batch = hold
    address = city.ask(Prefer="respond-async").headers["Location"]
    assert begun.wait(20)
    assert city.client.delete(address).status_code == 204
    polled: PolledPipelines = city.client.application.extensions["polled_pipelines"]
    eventually(lambda: not polled._running)
    held.set()
    assert city.client.get(address).status_code == 404
    assert city.engines[fakes.MODEL].batches == []


def test_a_pipeline_asked_twice_under_one_key_runs_once(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    headers = {"Idempotency_Key": "4711"}
    first, again = city.ask(**headers), city.ask(**headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_json()["id"] == again.get_json()["id"]
    assert first.get_json()["steps"] == again.get_json()["steps"]
    assert city.ask(Prefer="respond-async", **headers).get_json()["id"] == first.get_json()["id"]
    assert sum(city.engines["finder"].batches) == 1
    assert city.ask(b"another", **headers).status_code == 422


def test_at_its_end_a_process_tells_those_who_poll(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    address = city.ask(Prefer="respond-async").headers["Location"]
    began = time.monotonic()
    city.client.application.extensions["polled_pipelines"].stop(within_s=2)
    held.set()
    assert 0.9 < time.monotonic() - began < 2.5
    answer = city.client.get(address)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unavailable")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"WEB_THREADS": "9", "WEB_WORKERS": "1"}])
def test_a_process_has_so_many_pipelines_at_once(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    responses = [city.ask(Prefer="respond-async") for _ in range(40)]
    held.set()
    refused = [each for each in responses if each.status_code != 202]
    assert refused
    assert {each.get_json()["error"]["code"] for each in refused} == {"overloaded"}
    for each in responses:
        if each.status_code == 202:
            eventually(lambda at=each.headers["Location"]: city.client.get(at).status_code == 200)  # type: ignore[misc]


def test_one_owner_s_polled_pipelines_leave_places_to_others(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    held = threading.Event()
    city.engines["finder"].on_batch = lambda _: held.wait(20)
    polled: PolledPipelines = city.client.application.extensions["polled_pipelines"]
    polled._at_once = 4
    choice = city.jobs.models.choose("city")

    def start(owner: str) -> None:
        polled.start(choice, PHOTO, _options(city, polled=True, lane=f"{owner}@100"))

    start("ann")
    start("ann")
    with pytest.raises(Overloaded, match="2 pipelines of this API key are polled here already"):
        start("ann")
    start("bob")
    held.set()
    eventually(lambda: not polled._running)
    start("ann")


def test_a_job_in_a_pipeline_s_own_queue_is_refused_and_disturbs_nothing(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    job = fakes.job()
    fakes.producer(city.redis_client, city.keys).enqueue("city", job)
    eventually(lambda: city.length("city") == 0)
    eventually(lambda: city.client.get(f"/predictions/{job.id}?model=city").status_code == 500)
    assert city.ask().status_code == 200


def _mirrored(batch: NDArray[np.uint8]) -> Outputs:
    """On a part that is bright a probable car, on a dark one an improbable one."""
    rows = [np.array([[4, 4, 8, 8, 0, 0, 0.9 if part.max() else 0.3]], np.float32).T for part in batch]
    return (np.stack(rows),)


def test_of_several_answers_boxes_the_most_probable_are_asked_about(city: City) -> None:
    city.finder()
    city.finder("cars")
    city.engines["cars"].network = _mirrored
    city.teller()
    city.pipeline(FIND, Step("car", "cars", crop="objects"), replace(TELL, crop="car", most=1))
    cat, dog = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert "steps" not in cat["steps"]["car"]["predictions"][0]
    assert _label(dog["steps"]["car"]["predictions"][0]["steps"]["shade"]) == "bright"


def test_steps_that_wait_for_the_same_are_asked_together(city: City) -> None:
    city.finder()
    for name in ("one", "other"):
        city.finder(name)
        city.engines[name].network = _mirrored
    both = threading.Barrier(2)
    for name in ("one", "other"):
        city.engines[name].on_batch = lambda _: both.wait(20)
    city.pipeline(FIND, *(Step(name, name, crop="objects", most=1) for name in ("one", "other")))
    cat, _ = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert [cat["steps"][name]["success"] for name in ("one", "other")] == [True, True]


def test_its_timings_add_up_the_slowest_of_each_round(city: City) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    for name in ("finder", fakes.MODEL):
        city.engines[name].on_batch = lambda _: time.sleep(0.05)
    answer = city.ask().get_json()
    objects = answer["steps"]["objects"]
    shades = [each["steps"]["shade"]["timings_ms"]["model"] for each in objects["predictions"]]
    # The slowest in all need not be the one whose call took longest.
    whole = objects["timings_ms"]["model"] + max(shades)
    assert answer["timings_ms"]["model"] == pytest.approx(whole, abs=20)


@pytest.mark.parametrize("form_", ["rle", "png"])
def test_masks_of_parts_are_the_photo_s_and_are_drawn(city: City, form_: str) -> None:
    city.finder()
    table = Segmentation(masks=form_, background=0)  # type: ignore[arg-type]
    city.finder("parts", task=TASKS["segmentation"], options=table)
    city.engines["parts"].network = lambda batch: (np.stack([_BOTTOM] * len(batch)),)
    city.pipeline(FIND, Step("part", "parts", crop="objects", labels=("dog",)))
    _, dog = city.ask().get_json()["steps"]["objects"]["predictions"]
    part = dog["steps"]["part"]["predictions"][0]
    assert (part["label"], part["box"], part["mask"]["size"]) == ("dog", [20, 10, 20, 10], [20, 40])
    mask = msgspec.convert(part["mask"], Mask)
    expected = np.zeros((20, 40), np.bool_)
    expected[10:, 20:] = True
    assert np.array_equal(png.mask_pixels(mask), expected)
    drawn = city.ask(Accept="image/png")
    assert drawn.status_code == 200
    pixels = np.asarray(Image.open(io.BytesIO(drawn.data)).convert("RGB")).astype(int)
    quarter = pixels[-60:-20, -100:-20]
    assert (np.ptp(quarter, axis=2) > 30).all()  # white no more


_BOTTOM = np.zeros((3, 8, 8), np.float32).transpose(1, 2, 0).copy()
"""Class 1 (dog) in the lower half, class 0 above."""
_BOTTOM[:4, :, 0] = _BOTTOM[4:, :, 1] = 1
_BOTTOM = _BOTTOM.transpose(2, 0, 1).copy()


def test_points_of_a_step_are_drawn_with_its_lines(city: City) -> None:
    row = np.array([4, 4, 8, 8, 0.9, 0, 0, 1, 1, 1, 7, 7, 1], np.float32)[:, None]
    city.finder("posing", task=TASKS["keypoints"], options=Keypoints(names=("a", "b"), skeleton=((0, 1),)))
    city.engines["posing"].network = lambda batch: (np.stack([row] * len(batch)),)
    city.pipeline(Step("pose", "posing"))
    result = _result(city)
    drawable = pipelines.drawable(result)
    assert drawable.skeleton is not None
    assert drawable.skeleton.lines == ((0, 1),)


def _options(city: City, *, within_s: float = math.inf, **fields: Any) -> JobOptions:  # noqa: ANN401
    now, limits = time.monotonic(), city.jobs.limits
    most_s = limits.async_timeout_s if fields.get("polled") else limits.request_timeout_s
    return JobOptions(now, now + min(most_s, within_s), **fields)


def _result(city: City, picture: bytes = PHOTO, **fields: Any) -> Result:  # noqa: ANN401 - of JobOptions
    options = _options(city, **fields)
    choice = city.jobs.models.choose("city")
    (result,) = run(city.jobs, choice, [picture], options, is_client_gone=lambda: False)
    assert isinstance(result, Result)
    return result


def test_what_a_choice_says_stands_in_the_answer(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    choice = replace(city.jobs.models.choose("city"), notice="Another answers.")
    options = _options(city)
    (result,) = run(city.jobs, choice, [PHOTO], options, is_client_gone=lambda: False)
    assert isinstance(result, Result)
    assert result.notice == "Another answers."


def test_past_the_deadline_nothing_is_cut_or_asked(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    cut = PartCutter.cut

    def slowly(*arguments: Any) -> PreparedPicture:  # noqa: ANN401
        time.sleep(1.2)
        return cut(*arguments)

    monkeypatch.setattr(PartCutter, "cut", slowly)
    began = time.monotonic()
    options = _options(city, within_s=1)
    (result,) = run(
        city.jobs, city.jobs.models.choose("city"), [PHOTO], options, is_client_gone=lambda: False
    )
    assert time.monotonic() - began < 2  # the second is not cut
    assert isinstance(result, Result)
    assert result.steps is not None
    failures = [each["steps"]["shade"]["error"] for each in result.steps["objects"]["predictions"]]
    assert [failure["code"] for failure in failures] == ["deadline_passed"] * 2
    assert "took all the time" in failures[1]["message"]


def test_what_is_refused_is_not_cut(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    monkeypatch.setattr(PartCutter, "cut", lambda *_: pytest.fail("it was cut"))
    admit = city.jobs.producer.admit

    def refusing(model: str, **options: Any) -> None:  # noqa: ANN401
        if model == fakes.MODEL:
            raise Overloaded("Full.")
        admit(model, **options)

    monkeypatch.setattr(city.jobs.producer, "admit", refusing)
    objects = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert {each["steps"]["shade"]["error"]["code"] for each in objects} == {"overloaded"}


@pytest.mark.slow
def test_a_picture_has_so_many_parts_at_most(city: City) -> None:
    rows = np.zeros((7, 80), np.float32)
    rows[:4] = np.array([[4, 4, 1, 1]], np.float32).T
    rows[0], rows[1] = np.arange(80) % 8, np.arange(80) // 8  # apart from each other
    rows[4] = 0.9
    city.finder(options=Detection(layout="ultralytics", confidence=0.25, nms_iou=1.0), top=80)
    city.engines["finder"].network = lambda batch: (np.stack([rows] * len(batch)),)
    city.teller()
    city.pipeline(FIND, replace(TELL, most=40), Step("again", fakes.MODEL, crop="objects", most=40))
    found = city.ask().get_json()["steps"]["objects"]["predictions"]
    asked = [name for each in found for name in each.get("steps", {})]
    assert (asked.count("shade"), asked.count("again")) == (40, 24)


def test_while_redis_is_away_only_the_first_finds_out(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    tried: list[str] = []
    enqueue = city.jobs.producer.enqueue

    def away(model: str, *arguments: Any, **options: Any) -> str:  # noqa: ANN401
        if model == fakes.MODEL:
            tried.append(model)
            raise BrokerUnavailable("Redis does not answer.")
        return enqueue(model, *arguments, **options)

    monkeypatch.setattr(city.jobs.producer, "enqueue", away)
    objects = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert {each["steps"]["shade"]["error"]["code"] for each in objects} == {"broker_unavailable"}
    assert len(tried) == 1


@pytest.mark.slow
def test_at_the_deadline_only_the_first_asks_a_redis_that_is_away(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def away(_: str, job_id: str) -> None:
        tried.append(job_id)
        raise BrokerUnavailable("Redis does not answer.")

    monkeypatch.setattr(city.jobs.producer, "take_or_cancel", away)
    monkeypatch.setattr(city.jobs.producer, "cancel", away)
    city.finder()
    city.engines["finder"].on_batch = lambda _: time.sleep(2)
    choice = city.jobs.models.choose("finder")
    options = _options(city, within_s=0.5)
    submitted = [city.jobs.submit(choice, PHOTO, options, top=1) for _ in range(4)]
    for each in submitted[:3]:
        with pytest.raises(BrokerUnavailable):
            city.jobs.wait(each, is_client_gone=lambda: False)
    city.jobs.cancel(submitted[3])
    assert len(tried) == 1


def test_one_part_that_can_t_be_fitted_costs_no_other(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    cut = PartCutter.cut

    def fails_on_the_left(cutter: PartCutter, part: Part) -> PreparedPicture:
        if part.box[0] == 0:
            raise ZeroDivisionError
        return cut(cutter, part)

    monkeypatch.setattr(PartCutter, "cut", fails_on_the_left)
    cat, dog = city.ask().get_json()["steps"]["objects"]["predictions"]
    assert cat["steps"]["shade"]["error"]["code"] == "internal"
    assert _label(dog["steps"]["shade"]) == "bright"


def test_whole_pictures_for_one_input_are_decoded_once(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.finder("other")
    city.pipeline(FIND, Step("again", "other"), Step("twice", "finder"))
    prepare, prepared = fit.prepare, []

    def counting(*arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        prepared.append(1)
        return prepare(*arguments, **options)

    monkeypatch.setattr("pictures.fit.prepare", counting)
    steps = city.ask().get_json()["steps"]
    assert [step["success"] for step in steps.values()] == [True] * 3
    assert len(prepared) == 1


def test_a_client_that_goes_while_it_is_asked_ends_it(city: City) -> None:
    city.finder()
    city.pipeline(FIND, *(Step(f"s{number}", "finder") for number in range(5)))
    looks: list[bool] = []

    def gone() -> bool:
        looks.append(len(looks) >= 2)
        return looks[-1]

    options = _options(city)
    with pytest.raises(ClientGone):
        run(city.jobs, city.jobs.models.choose("city"), [PHOTO], options, is_client_gone=gone)
    assert len(looks) == 3
    assert not city.redis_client.keys(city.keys.of("finder").result("*"))


def test_the_state_is_that_of_the_worst_step_and_the_reason_its_own(city: City, tmp_path: Path) -> None:
    city.pipeline(FIND, TELL, Step("none", "nobody"))
    city.finder()
    city.workers[-1].status.set_reason("its changed folder was not taken up")
    failed = fakes.unregistered_worker(
        city.redis_client, city.keys, fakes.spec(tmp_path), lambda: pytest.fail("loaded")
    )
    failed.registration.ensure()
    failed.status.publish(State(WorkerState.FAILED, "v1", reason="no weights"))
    view = city.jobs.registry.models(fresh=True)["city"]
    assert (view.own_state, view.state, view.reason) == (WorkerState.READY, WorkerState.FAILED, "no weights")
    # A step whose model failed is its own matter.
    response = city.ask()
    assert response.status_code == 200
    cat, _ = response.get_json()["steps"]["objects"]["predictions"]
    assert cat["steps"]["shade"]["error"]["code"] == "model_unavailable"
    failed.leave()


def test_a_pipeline_that_loads_does_not_show_its_steps_state(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    city.workers[-1].status.publish(State(WorkerState.LOADING, "v1"))
    view = city.jobs.registry.models(fresh=True)["city"]
    assert view.state is WorkerState.LOADING


@pytest.mark.slow
def test_polled_pipelines_give_their_places_back(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.pipeline(FIND)
    polled: PolledPipelines = city.client.application.extensions["polled_pipelines"]
    polled._at_once = 1
    for _ in range(3):
        address = city.ask(Prefer="respond-async").headers["Location"]
        eventually(lambda at=address: city.client.get(at).status_code == 200)  # type: ignore[misc]
        eventually(lambda: not polled._running)
    away = BrokerUnavailable("Redis does not answer.")

    def refuse(*_: object, **__: object) -> None:
        raise away

    with monkeypatch.context() as patched:
        patched.setattr(city.jobs.producer, "begin", refuse)
        assert city.ask(Prefer="respond-async").status_code == 503
    assert city.ask(Prefer="respond-async").status_code == 202


@pytest.mark.slow
def test_a_polled_result_is_written_once_redis_is_back(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    city.finder()
    city.pipeline(FIND)
    finish, tries = city.jobs.producer.finish, []

    def at_the_second_try(result: Result) -> None:
        tries.append(result.id)
        if len(tries) == 1:
            raise BrokerUnavailable("Redis does not answer.")
        finish(result)

    monkeypatch.setattr(city.jobs.producer, "finish", at_the_second_try)
    address = city.ask(Prefer="respond-async").headers["Location"]
    eventually(lambda: city.client.get(address).status_code == 200)
    assert len(tries) == 2


def test_a_bug_in_a_polled_pipeline_is_told_its_client(
    city: City, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    city.finder()
    city.pipeline(FIND)
    seen: list[str] = []

    def broken(_: object) -> None:
        seen.append(request_ids.CURRENT.get())
        raise ZeroDivisionError

    monkeypatch.setattr("web.pipelines._levels", broken)
    address = city.ask(Prefer="respond-async", X_Request_ID="its-own").headers["Location"]
    eventually(lambda: city.client.get(address).status_code == 500)
    assert city.client.get(address).get_json()["error"]["code"] == "internal"
    assert "this is a bug" in caplog.text
    assert seen == ["its-own"]


def test_a_process_that_stops_takes_no_more_and_waits_for_no_decoder(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    city.finder()
    city.pipeline(FIND)
    held, prepare = threading.Event(), fit.prepare

    def hangs(*arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        held.wait(20)
        return prepare(*arguments, **options)

    monkeypatch.setattr("pictures.fit.prepare", hangs)
    address = city.ask(Prefer="respond-async").headers["Location"]
    began = time.monotonic()
    city.client.application.extensions["polled_pipelines"].stop(within_s=1)
    assert time.monotonic() - began < 3
    assert city.client.get(address).get_json()["error"]["code"] == "unavailable"
    assert city.ask(Prefer="respond-async").get_json()["error"]["code"] == "unavailable"
    held.set()


@pytest.mark.parametrize(("path", "field"), [("/run", "file"), ("/classify", "image"), ("/infer", "img")])
def test_addresses_of_tutorials_refuse_a_pipeline(
    city: City, path: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    city.finder()
    city.pipeline(FIND)
    city.jobs.models.default = "city"
    monkeypatch.setattr("web.dialects.tutorials.INFER_MODEL", "city")
    response = city.client.post(path, data=form(PHOTO, field=field))
    assert response.status_code == 400
    assert "is a pipeline" in response.get_data(as_text=True)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this process exports."""
    with collecting() as collector, exporting(collector.url, monkeypatch):
        yield collector


@pytest.mark.parametrize("prefer", ["wait", "respond-async"])
def test_the_steps_of_a_picture_are_of_its_trace(collector: Collector, city: City, prefer: str) -> None:
    city.finder()
    city.teller()
    city.pipeline(FIND, TELL)
    assert city.ask(traceparent=SAMPLED, Prefer=prefer).status_code in (200, 202)
    server, pipeline, found = collector.each(TRACE, "POST /predict", "pipeline", "step objects")
    assert_in_order([server, pipeline, found])
    shades = collector.named(TRACE, "step shade")
    assert {span.parent for span in shades} == {pipeline.id}
    sent = {span.parent: span.id for span in collector.named(TRACE, f"send {fakes.MODEL}")}
    assert sent.keys() == {span.id for span in shades}
    assert all(found.times[1] <= span.times[0] and span.times[1] <= pipeline.times[1] for span in shades)


def test_a_pipeline_s_input_is_encoded_pictures_in_each_protocol(city: City) -> None:
    city.finder()
    city.pipeline(FIND)
    about = "/v2/models/city"
    told = city.client.get(about).get_json()
    assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    config = city.client.get(f"{about}/config").get_json()["input"][0]
    assert (config["data_type"], config["format"], config["dims"]) == ("TYPE_STRING", "FORMAT_NONE", [1])
    pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 0, 0, 3], "data": []}
    encoded_photo = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1, 1],
        "data": [base64.b64encode(PHOTO).decode()],
    }
    assert city.client.post(f"{about}/infer", json={"inputs": [encoded_photo]}).status_code == 200
    for path, body in (
        (f"{about}/infer", {"inputs": [pixels]}),
        ("/v1/models/city:predict", {"instances": [[[[0, 0, 0]]]]}),
    ):
        refused = city.client.post(path, json=body)
        assert refused.status_code == 400
        assert "takes encoded pictures" in refused.get_json()["error"]
