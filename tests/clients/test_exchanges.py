"""The logic of both clients, driven step by step by hand: no network and no clock but the test's."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from clients.errors import (
    AnswerTimeout,
    BatchwireError,
    ConnectionFailure,
    LostJob,
    RequestRefusal,
    ServiceFault,
    ServiceUnavailable,
    UnreadableAnswer,
)
from clients.exchanges import Exchange, Exchanges, Pause, ReadPicture, SendRequest
from clients.retrying import Retrying

REQUEST = httpx.Request("GET", "http://name:secret@service:5000/predict")
GOOD = {"success": True, "model": "m", "id": "i", "predictions": [], "later": [1]}
PENDING = {"success": True, "status": "pending", "model": "m", "id": "i", "location": "/predictions/i"}
ERROR = {"success": False, "error": {"code": "overloaded", "message": "Full."}, "request_id": "r"}


def response(status: int, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=content, headers=fields, request=REQUEST)


class Driver:
    """What an exchange did, with a reply for each of its requests.

    Time passes in its pauses, and if the service `holds`, in its requests that may be held.
    """

    def __init__(
        self,
        replies: Sequence[httpx.Response | httpx.RequestError],
        total_s: float = 60,
        *,
        holds: bool = False,
    ) -> None:
        self.now = 0.0
        self._holds = holds
        self.requests: list[SendRequest] = []
        self.pauses: list[float] = []
        self._replies = iter(replies)
        retrying = Retrying(total_s=total_s, jitter=lambda: 0.0)
        self.exchanges = Exchanges(retrying, clock=lambda: self.now)

    def result(self, exchange: Exchange[Any]) -> Any:  # noqa: ANN401 - each exchange has its own
        reply: object = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                return end.value
            match step:
                case ReadPicture(picture):
                    reply = picture
                case Pause(seconds):
                    self.pauses.append(seconds)
                    self.now += seconds
                    reply = None
                case SendRequest():
                    self.requests.append(step)
                    self.now += int(step.query.get("wait", 0)) if self._holds else 0
                    reply = next(self._replies)


def test_a_picture_is_sent_as_it_is() -> None:
    driver = Driver([response(200, GOOD, X_Request_ID="r1")])
    answer = driver.result(driver.exchanges.predict(b"picture", "digits", 2))
    assert driver.requests == [
        SendRequest("POST", "/predict", {"model": "digits", "top": "2"}, content=b"picture")
    ]
    assert (answer.model, answer.request_id, answer.raw) == ("m", "r1", GOOD)


def test_without_a_model_and_a_number_the_service_chooses() -> None:
    driver = Driver([response(200, GOOD)])
    driver.result(driver.exchanges.predict(b"picture", None, None))
    assert driver.requests[0].query == {}


def test_retry_after_is_honoured_in_seconds_and_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    replies = [
        response(503, ERROR, Retry_After="7"),
        response(503, ERROR, Retry_After=date),
        response(200, GOOD),
    ]
    driver = Driver(replies)
    driver.result(driver.exchanges.predict(b"", None, None))
    assert driver.pauses[0] == 7
    assert 15 < driver.pauses[1] <= 20


@pytest.mark.parametrize("nonsense", ["soon", "-1", "1.5", "9" * 400, "Mon, 99 Foo 9999"])
def test_a_retry_after_that_says_nothing_useful_ends_in_the_service_s_error(nonsense: str) -> None:
    driver = Driver([response(503, ERROR, Retry_After=nonsense)] * 20)
    with pytest.raises(ServiceUnavailable, match="Full"):
        driver.result(driver.exchanges.predict(b"", None, None))
    assert driver.now <= 60


def test_a_broken_connection_is_tried_again_and_a_silent_service_is_not() -> None:
    driver = Driver([httpx.ReadError("reset", request=REQUEST), response(200, GOOD)])
    assert driver.result(driver.exchanges.predict(b"", None, None)).model == "m"
    silent = Driver([httpx.ReadTimeout("", request=REQUEST)])
    with pytest.raises(AnswerTimeout, match="service did not answer"):
        silent.result(silent.exchanges.predict(b"", None, None))


def test_the_last_failure_is_raised_and_names_no_password() -> None:
    driver = Driver([httpx.ConnectError("refused", request=REQUEST)] * 40)
    with pytest.raises(ConnectionFailure) as raised:
        driver.result(driver.exchanges.predict(b"", None, None))
    assert str(raised.value) == "no_connection: No connection to http://service:5000: refused."
    assert 50 < driver.now <= 60


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RequestRefusal), (404, RequestRefusal), (500, ServiceFault), (504, AnswerTimeout)],
)
def test_what_the_service_has_decided_is_raised_at_once(status: int, kind: type[BatchwireError]) -> None:
    driver = Driver([response(status, ERROR, Retry_After="1")])
    with pytest.raises(kind) as raised:
        driver.result(driver.exchanges.predict(b"", None, None))
    error = raised.value
    assert (error.code, error.message, error.status) == ("overloaded", "Full.", status)
    assert (error.request_id, error.retry_after_s, driver.pauses) == ("r", 1.0, [])


def test_a_proxy_s_page_is_an_error_with_its_status() -> None:
    driver = Driver([response(502, b"<html>Bad \xff gateway", Content_Type="text/html")], total_s=0)
    with pytest.raises(ServiceUnavailable, match="http_502: <html>Bad"):
        driver.result(driver.exchanges.predict(b"", None, None))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"\xff"', b"{}", b'{"success":', b'{"success": false}'])
def test_a_good_status_with_anything_else_is_no_answer(body: bytes) -> None:
    driver = Driver([response(200, body, Content_Type="text/html")])
    with pytest.raises(UnreadableAnswer, match="http://service:5000 gives no answer of this service"):
        driver.result(driver.exchanges.predict(b"", None, None))


def test_a_redirection_is_named() -> None:
    driver = Driver([response(308, b"", Location="https://service/predict")])
    with pytest.raises(UnreadableAnswer, match="redirects to https://service/predict"):
        driver.result(driver.exchanges.predict(b"", None, None))


def test_no_message_has_a_password() -> None:
    reply = response(308, b"", Location="https://u:secret@service/predict")
    driver = Driver([reply])
    with pytest.raises(UnreadableAnswer) as caught:
        driver.result(driver.exchanges.predict(b"", None, None))
    assert "secret" not in caught.value.message
    assert "https://service/predict" in caught.value.message


def test_an_answer_that_is_nested_too_deep_is_none() -> None:
    deep = b'{"success":true,"result":' + b'{"a":' * 5000 + b"1" + b"}" * 5001
    for status, kind in ((200, UnreadableAnswer), (400, BatchwireError)):
        driver = Driver([response(status, deep)])
        with pytest.raises(kind):
            driver.result(driver.exchanges.predict(b"", None, None))


def test_a_job_is_polled_as_often_as_the_service_says() -> None:
    driver = Driver([response(202, PENDING, Retry_After="3"), response(202, PENDING), response(200, GOOD)])
    assert driver.result(driver.exchanges.result("i", "m", 60)).raw == GOOD
    assert driver.pauses == [3, 1]
    assert driver.requests == [SendRequest("GET", "/predictions/i", {"model": "m", "wait": "8"})] * 3


def test_a_service_that_holds_the_request_is_asked_again_without_a_pause() -> None:
    driver = Driver([response(202, PENDING, Retry_After="1")] * 2 + [response(200, GOOD)], holds=True)
    assert driver.result(driver.exchanges.result("i", "m", 60)).raw == GOOD
    assert (driver.pauses, driver.now) == ([], 24)


def test_the_last_request_is_held_no_longer_than_the_caller_waits() -> None:
    driver = Driver([response(202, PENDING, Retry_After="1")] * 9, holds=True)
    with pytest.raises(AnswerTimeout, match="job_pending"):
        driver.result(driver.exchanges.result("i", "m", 11.5))
    assert [request.query.get("wait") for request in driver.requests] == ["8", "3", None]


def test_a_service_that_has_no_place_to_hold_a_request_is_asked_at_once() -> None:
    driver = Driver([response(503, ERROR, Retry_After="1"), response(200, GOOD)])
    assert driver.result(driver.exchanges.result("i", "m", 60)).raw == GOOD
    assert [request.query.get("wait") for request in driver.requests] == ["8", None]


def test_a_job_is_cancelled_once() -> None:
    gone = response(404, {**ERROR, "error": {"code": "not_found", "message": "Gone."}})
    driver = Driver([httpx.Response(204, request=REQUEST), gone])
    assert [driver.result(driver.exchanges.cancel("i", "m")) for _ in range(2)] == [True, False]
    assert driver.requests == [SendRequest("DELETE", "/predictions/i", {"model": "m"})] * 2
    for code in ("job_lost", "result_expired"):
        driver = Driver([response(404, {**ERROR, "error": {"code": code, "message": "Gone."}})])
        assert driver.result(driver.exchanges.cancel("i", "m")) is False
    unknown = response(404, {**ERROR, "error": {"code": "unknown_model", "message": "Unknown."}})
    driver = Driver([unknown])
    with pytest.raises(RequestRefusal, match="unknown_model"):
        driver.result(driver.exchanges.cancel("i", "x"))


def test_a_job_that_takes_too_long_can_be_asked_about_again() -> None:
    driver = Driver([response(202, PENDING, Retry_After="3")] * 9)
    with pytest.raises(AnswerTimeout, match="job_pending") as raised:
        driver.result(driver.exchanges.result("i", "m", 10))
    assert (raised.value.job_id, driver.pauses) == ("i", [3, 3, 3])
    assert [request.query.get("wait") for request in driver.requests] == ["8", "7", "4", "1"]


def test_a_job_that_the_service_has_lost_has_an_error_of_its_own() -> None:
    lost = response(404, {**ERROR, "error": {"code": "job_lost", "message": "Lost."}})
    driver = Driver([response(202, PENDING, Retry_After="1"), lost])
    with pytest.raises(LostJob, match="job_lost: Lost") as raised:
        driver.result(driver.exchanges.result("i", "m", 60))
    assert raised.value.status == 404
    expired = response(404, {**ERROR, "error": {"code": "result_expired", "message": "Old."}})
    driver = Driver([expired])
    with pytest.raises(RequestRefusal, match="result_expired") as other:
        driver.result(driver.exchanges.result("i", "m", 60))
    assert type(other.value) is RequestRefusal


def test_a_job_that_failed_is_not_asked_about_again() -> None:
    for wait_s in (60, 0):  # held, or not
        driver = Driver([response(503, {**ERROR, "model": "m", "id": "i"})])
        with pytest.raises(ServiceUnavailable):
            driver.result(driver.exchanges.result("i", "m", wait_s))
        assert (driver.pauses, len(driver.requests)) == ([], 1)


def test_ready_is_a_question_and_no_error() -> None:
    replies: list[tuple[httpx.Response | httpx.RequestError, bool]] = [
        (response(200, {"ready": True}), True),
        (response(503, {"ready": False}), False),
        (httpx.ConnectError("refused", request=REQUEST), False),
        (httpx.ReadTimeout("", request=REQUEST), False),
    ]
    for reply, expected in replies:
        driver = Driver([reply])
        assert driver.result(driver.exchanges.is_ready("m")) is expected
    driver = Driver([response(404, {**ERROR, "error": {"code": "unknown_model", "message": "Unknown."}})])
    with pytest.raises(RequestRefusal, match="unknown_model"):
        driver.result(driver.exchanges.is_ready("m"))
