"""What was just refused is refused again without a thread: for which requests, and for how long."""

import pytest
import redis
from msgspec.structs import replace

from broker.errors import Overloaded
from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from web.jobs import JobClient
from web.overload import RecentRefusals
from web.request_places import RequestPlaces
from web.routes.predict import turned_away
from web.server.refusals import RequestHead

REFUSED = RequestHead(method="POST", path="/predict", query=f"model={MODEL}")


class _Arrival:
    """A whole request."""

    def __init__(self, head: RequestHead, body: bytes = b"") -> None:
        self.head = head
        self._body = body

    def mentions(self, word: bytes) -> bool:
        return word in self._body


@pytest.fixture
def jobs(service: Service) -> JobClient:
    """The queue's client, after it has refused a request for MODEL."""
    made: JobClient = service.app.extensions["jobs"]
    made.refusals.note(Overloaded("Full.", valid_s=60), MODEL)
    return made


@pytest.mark.parametrize(
    ("head", "body", "is_refused"),
    [
        (REFUSED, b"", True),
        (replace(REFUSED, query=""), b"", True),  # MODEL is the default
        (replace(REFUSED, query="top=1"), b'name="top"', True),
        (replace(REFUSED, query=f"model={MODEL}"), b'name="model"', True),
        (replace(REFUSED, query=""), b'name="model"\r\n\r\nnever', False),
        (replace(REFUSED, query="model=never"), b"", False),
        (REFUSED, b'name="callback_url"', False),  # polled, too
        (replace(REFUSED, query=f"model={MODEL}&callback_url=x"), b"", False),
        (replace(REFUSED, method="GET"), b"", False),
        (replace(REFUSED, path="/upload"), b"", False),
        (replace(REFUSED, has_preference=True), b"", False),  # polled jobs may wait longer
    ],
)
def test_only_what_would_surely_be_refused(
    jobs: JobClient, head: RequestHead, body: bytes, is_refused: bool
) -> None:
    assert (turned_away(jobs, _Arrival(head, body)) is not None) is is_refused  # type: ignore[arg-type]


def test_a_refusal_is_believed_as_long_as_it_says() -> None:
    now = 5.0
    refusals = RecentRefusals(monotonic=lambda: now)
    assert not refusals
    refusals.note(Overloaded("never", valid_s=0), "a")
    assert refusals.of("a") is None
    refusals.note(Overloaded("a's", valid_s=0.2), "a")
    now = 5.1
    refusals.note(Overloaded("all", valid_s=0.2))
    assert [getattr(refusals.of(model), "message", "") for model in ("a", "b")] == ["all", "all"]
    now = 5.21
    assert getattr(refusals.of("b"), "message", "") == "all"
    now = 5.31
    assert refusals.of("b") is None
    assert refusals.of("a") is None


def test_before_its_end_one_request_asks_again_for_all() -> None:
    now = 5.0
    refusals = RecentRefusals(monotonic=lambda: now)

    def refused(count: int) -> list[bool]:
        return [refusals.of("a", lane="ann@100") is not None for _ in range(count)]

    refusals.note(Overloaded("first", valid_s=0.2), "a", lane="ann@100")
    now = 5.15
    assert refused(3) == [False, True, True]
    refusals.note(Overloaded("again", valid_s=0.2), "a", lane="ann@100")
    now = 5.26
    assert refused(1) == [True]
    now = 5.36
    assert refused(2) == [False, False]


def test_a_key_s_limits_are_asked_again_at_their_end() -> None:
    now = 5.0
    refusals = RecentRefusals(monotonic=lambda: now)
    refusals.note(Overloaded("ann's", valid_s=0.2), lane="ann")
    now = 5.19
    assert refusals.of_owner("ann") is not None
    now = 5.21
    assert refusals.of_owner("ann") is None


@pytest.mark.parametrize("lane", ["", "ann@100"])
def test_that_all_places_are_taken_is_remembered_in_every_lane(service: Service, lane: str) -> None:
    refusals = RecentRefusals(monotonic=lambda: 0.0)
    places = RequestPlaces(1, service.app.extensions["jobs"].registry, refusals)
    with places.slot(), pytest.raises(Overloaded, match="1 requests are in flight"), places.slot():
        pass
    assert refusals.of("whatever", lane=lane) is not None


def test_that_a_model_s_places_are_taken_is_remembered_of_it_alone(service: Service) -> None:
    refusals = RecentRefusals(monotonic=lambda: 0.0)
    places = RequestPlaces(1, service.app.extensions["jobs"].registry, refusals)
    with places.share(MODEL), pytest.raises(Overloaded, match=f"1 requests for {MODEL}"), places.share(MODEL):
        pass
    assert [refusals.of(model, lane="ann@100") is None for model in (MODEL, "other")] == [False, True]


def test_a_refusal_of_one_lane_is_no_other_s() -> None:
    refusals = RecentRefusals(monotonic=lambda: 5.0)
    refusals.note(Overloaded("ann's", valid_s=1), "a", lane="ann@100")
    assert refusals.of("a", lane="ann@100") is not None
    assert [refusals.of("a", lane=lane) for lane in ("", "ann@400", "bob@100")] == [None] * 3
    refusals.note(Overloaded("all", valid_s=1), "a")
    assert getattr(refusals.of("a", lane="bob@100"), "message", "") == "all"


@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "1"}])
def test_a_full_queue_is_remembered(service: Service, client: redis.Redis, keys: Keys) -> None:
    jobs: JobClient = service.app.extensions["jobs"]
    jobs.refusals = RecentRefusals(monotonic=lambda: 0.0)
    arrival = _Arrival(REFUSED)
    assert turned_away(jobs, arrival) is None  # type: ignore[arg-type]
    client.rpush(keys.of(MODEL).queue, "a job")
    # One that is polled may wait longer: its refusal says nothing of others.
    polled = service.client.post(
        f"/predict?model={MODEL}", data=form(png(0)), headers={"Prefer": "respond-async"}
    )
    assert polled.status_code == 503
    assert turned_away(jobs, arrival) is None  # type: ignore[arg-type]
    assert service.client.post(f"/predict?model={MODEL}", data=form(png(0))).status_code == 503
    refusal = turned_away(jobs, arrival)  # type: ignore[arg-type]
    assert refusal is not None
    assert "1 pictures wait" in refusal.message
