"""The spans of a request of HTTP, from the client's trace to the reply."""

import io
import logging
from collections.abc import Iterator

import pytest
import redis

from broker.keys import Keys
from telemetry import tracing
from tests.support.collector import CLIENT, SAMPLED, TRACE, Collector, assert_in_order, collecting, exporting
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.middleware import request_ids

HEAD = {"traceparent": SAMPLED, "X-Request-ID": "r-1"}


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this process exports."""
    with collecting() as collector, exporting(collector.url, monkeypatch):
        yield collector


@pytest.mark.slow
def test_one_trace_from_the_client_to_the_reply(running: Service, collector: Collector) -> None:
    answer = running.client.post(
        "/predict?model=tiny&token=hidden", data=png(0), content_type="image/png", headers=HEAD
    )
    job_id = answer.get_json()["id"]
    names = ("POST /predict", "picture", "decode", f"send {MODEL}", f"queue {MODEL}", f"process {MODEL}")
    more = (f"batch {MODEL}", f"model {MODEL}", "complete", "reply")
    server, picture, decode, send, queue, process, batch, model, complete, reply = collector.each(
        TRACE, *names, *more
    )
    assert len(collector.of(TRACE)) == len(names) + len(more)
    assert server.parent == CLIENT
    assert_in_order([server, picture, decode])
    assert_in_order([server, picture, send, queue])
    assert_in_order([server, picture, send, process, batch, model])
    assert_in_order([batch, complete])
    assert_in_order([picture, reply])
    assert send.times[0] == queue.times[0]
    assert queue.times[1] == process.times[0] <= model.times[0] <= model.times[1] <= complete.times[1]
    assert reply.times[1] <= picture.times[1] <= server.times[1]
    assert batch.links == {process.id}
    assert process.links == {batch.id}
    told = {each.key: each.value.string_value for each in server.proto.attributes}
    assert (told["http.route"], told["url.path"], told["batchwire.request_id"]) == (
        "/predict",
        "/predict",
        "r-1",
    )
    assert server.attribute("http.response.status_code") == 200
    assert send.attribute("messaging.message.id") == process.attribute("messaging.message.id") == job_id
    assert process.attribute("batchwire.request_id") == "r-1"
    assert "hidden" not in str(collector.spans)
    assert collector.headers[0]["x-key"] == "hidden"


@pytest.mark.slow
def test_each_picture_of_a_request_has_its_child_and_a_bad_one_says_so(
    running: Service, collector: Collector
) -> None:
    files = [
        ("image", ("a.png", png(0))),
        ("image", ("b.png", b"no picture")),
        ("image", ("c.png", png(255))),
    ]
    data = {"image": [(io.BytesIO(content), name) for _, (name, content) in files]}
    assert running.client.post("/predict", data=data, headers=HEAD).status_code == 200
    (server,) = collector.each(TRACE, "POST /predict")
    eventually(lambda: len(collector.named(TRACE, f"process {MODEL}")) == 2)
    pictures = collector.named(TRACE, "picture")
    assert {picture.parent for picture in pictures} == {server.id}
    assert sorted(str(picture.attribute("error.type")) for picture in pictures) == [
        "None",
        "None",
        "invalid_image",
    ]
    assert sum(picture.failed for picture in pictures) == 1
    linked = set().union(*(batch.links for batch in collector.named(TRACE, f"batch {MODEL}")))
    assert linked == {process.id for process in collector.named(TRACE, f"process {MODEL}")}


def test_a_dead_letter_is_a_failed_span(
    running: Service, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    running.client.post("/predict", data=png(0), content_type="image/png", headers=HEAD)
    server, picture, process = collector.each(TRACE, "POST /predict", "picture", f"process {MODEL}")
    assert server.failed
    assert (picture.attribute("error.type"), process.attribute("error.type")) == ("inference_failed",) * 2
    assert process.events == ["dead letter"]
    letter = next(record for record in caplog.records if "dead letter" in record.message)
    assert letter.__dict__["fields"]["trace_id"] == TRACE


def test_a_job_that_is_cancelled_unrun_says_that_it_was_dropped(
    service: Service, collector: Collector, client: redis.Redis, keys: Keys
) -> None:
    head = {**HEAD, "Prefer": "respond-async"}
    accepted = service.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    service.client.delete(accepted.headers["Location"])
    assert client.llen(keys.of(MODEL).polled) == 1
    service.start_worker()
    send, queue, process = collector.each(TRACE, f"send {MODEL}", f"queue {MODEL}", f"process {MODEL}")
    assert queue.parent == process.parent == send.id
    assert process.events == ["dropped: its client has gone"]


def test_what_the_client_does_not_sample_nobody_records(running: Service, collector: Collector) -> None:
    unsampled = f"00-{'1' * 32}-{'2' * 16}-00"
    for traceparent in (unsampled, SAMPLED):
        answer = running.client.post(
            "/predict", data=png(0), content_type="image/png", headers={"traceparent": traceparent}
        )
        assert answer.status_code == 200
    collector.each(TRACE, "POST /predict", f"process {MODEL}")
    assert collector.of("1" * 32) == []


def test_without_a_parent_there_is_a_new_trace_and_health_checks_have_none(
    running: Service, collector: Collector
) -> None:
    assert running.client.get("/healthz").status_code == 200
    assert running.client.get("/nothing%0a", headers={"traceparent": "00-wrong"}).status_code == 404
    eventually(lambda: bool(collector.spans))
    (span,) = collector.spans
    assert (span.name, span.parent, span.attribute("url.path"), span.failed) == (
        "GET",
        "",
        "/nothing%0A",
        False,
    )


@pytest.mark.parametrize("head", [{"traceparent": "00-" + "0" * 600}, {"tracestate": "no member"}])
def test_what_a_client_writes_wrongly_is_no_line_of_the_log(
    service: Service, caplog: pytest.LogCaptureFixture, head: dict[str, str]
) -> None:
    assert service.client.get("/nothing", headers=HEAD | head).status_code == 404
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_lines_of_a_request_name_its_trace(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "web")
    caplog.handler.addFilter(request_ids.Stamp())
    service.client.get("/nothing", headers=HEAD)
    logging.getLogger("web.other").warning("of no request")
    assert [record.__dict__["trace_id"] for record in caplog.records if record.name.startswith("web.")] == [
        TRACE,
        "",
    ]


def test_a_collector_that_is_away_costs_a_line_and_no_request(
    running: Service, collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert collector
    with exporting("http://127.0.0.1:9", monkeypatch):
        for _ in range(3):
            answer = running.client.post("/predict", data=png(0), content_type="image/png", headers=HEAD)
            assert answer.status_code == 200
            tracing._process["recorder"]._provider.force_flush()
    lines = [
        record.getMessage() for record in caplog.records if record.name.startswith(("telemetry", "opentel"))
    ]
    assert len(lines) == 1
    assert "traces can't be exported" in lines[0]
