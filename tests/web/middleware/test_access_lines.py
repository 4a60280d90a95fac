"""ACCESS_LOG: a line for each request, and few for refusals by the thousand."""

import logging
from collections.abc import Iterator

import grpc
import pytest

from broker.errors import Overloaded
from tests.support.pictures import png
from tests.support.service import Service
from tests.web.server.serving import Serving
from web import access_log, errors
from web.access_log import Exchange
from web.question import NOTHING
from web.server.refusals import RequestHead


@pytest.fixture(autouse=True)
def _lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caplog.set_level(logging.INFO, "web.access_log")
    monkeypatch.setattr(access_log, "_ration", access_log._Ration())
    access_log.set_up(is_on=True)
    yield
    access_log.set_up(is_on=False)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The fields of each line."""
    return [each.__dict__["fields"] for each in caplog.records if each.name == "web.access_log"]


def test_a_request_s_line_has_what_was_asked_and_nothing_else_of_its_query(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    sent = png(0)
    answer = running.client.post(
        "/predict?model=tiny&token=hidden%0aforged",
        data=sent,
        content_type="image/png",
        headers={"X-Request-ID": "r-1"},
    )
    assert answer.status_code == 200
    (line,) = told(caplog)
    assert isinstance(line.pop("seconds"), float)
    assert line == {
        "method": "POST",
        "path": "/predict?model=tiny",
        "status": 200,
        "bytes_in": len(sent),
        "bytes_out": len(answer.data),
        "client": "127.0.0.1",
        "model": "tiny",
        "pictures": 1,
        "dialect": "batchwire",
        "request_id": "r-1",
    }
    assert "hidden" not in caplog.text
    assert "POST /predict?model=tiny: 200 bytes_in=" in caplog.text


def test_a_stream_s_line_comes_at_its_end(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    accepted = service.client.post(
        "/predict", data=png(0), content_type="image/png", headers={"Prefer": "respond-async"}
    )
    address = accepted.headers["Location"].replace("?", "/events?")
    stream = service.client.get(address, buffered=False)
    first = next(stream.response)  # type: ignore[call-overload]
    assert len(told(caplog)) == 1
    stream.close()
    assert [line["bytes_out"] for line in told(caplog)][1:] == [len(first)]


def test_a_refusal_of_the_loop_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    head = RequestHead(
        method="POST",
        path="/x\n",
        query="model=m%0a",
        request_id="r-2",
        client="10.1.2.3",
        bytes_in=7,
        seconds=0.5,
    )
    answer, _ = errors.refusal_renderer(())(errors.UnsupportedUpload("no"), head)
    (line,) = told(caplog)
    assert line == {
        "method": "POST",
        "path": "/x%0A?model=m%0A",
        "status": 415,
        "bytes_in": 7,
        "bytes_out": len(answer.split(b"\r\n\r\n", 1)[1]),
        "seconds": 0.5,
        "client": "10.1.2.3",
        "request_id": "r-2",
    }


def test_what_the_loop_refuses_is_written_with_its_client(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    client = serving.client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
    status, body, _ = client.answer()
    (line,) = told(caplog)
    assert line["status"] == status == 413
    assert (line["method"], line["path"], line["client"]) == ("POST", "/echo", "127.0.0.1")
    assert line["request_id"] == body["request_id"]


def test_refusals_by_the_thousand_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(access_log, "_ration", access_log._Ration(lambda: now[0]))
    render = errors.refusal_renderer(())
    for _ in range(1000):
        render(Overloaded("full"), RequestHead(method="POST", path="/predict"))
    assert len(told(caplog)) == 10
    now[0] += 1
    access_log.answered(Exchange("ModelInfer", "OK", 1, 2, 0.1, "r", "::1", "grpc"), NOTHING)
    assert told(caplog)[-1]["refusals_left_out"] == 990
    refused = Exchange("ModelInfer", grpc.StatusCode.UNAVAILABLE.name, 1, 2, 0.1, "r", "::1")
    access_log.answered(refused, NOTHING)
    assert "refusals_left_out" not in told(caplog)[-1]
