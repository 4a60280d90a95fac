"""A line of the log: its form, its fields, and that nothing which a user sends can forge one."""

import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from telemetry import logs
from tests.support import ROOT

HOSTILE = 'a"b\n2026-01-01 ERROR forged\r\x1b[31m\x7f\x85\u2028é\ud800'


def record(message: str, **attributes: object) -> logging.LogRecord:
    made = logging.LogRecord("web.x", logging.WARNING, "x.py", 1, message, None, None)
    made.__dict__.update(attributes)
    return made


def test_json_has_the_fields_of_a_line_and_those_that_it_is_about() -> None:
    about = logs.about(job_id="j", request_ids=["r", "s"], model="", key=None, attempts=0)
    line = json.loads(
        logs.JsonFormatter().format(record("hello", request_id="q", trace_id=logs.NONE, **about))
    )
    at = datetime.fromisoformat(line.pop("time"))
    assert at.utcoffset() is not None
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "level": "WARNING",
        "logger": "web.x",
        "message": "hello",
        "request_id": "q",
        "job_id": "j",
        "request_ids": ["r", "s"],
        "attempts": 0,
    }


def test_an_exception_is_a_field_of_its_line() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        text = logs.JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "ValueError" in json.loads(text)["exception"]
    assert len(text.splitlines()) == 1


def test_nothing_forges_a_line_of_json() -> None:
    text = logs.JsonFormatter().format(record(HOSTILE, **logs.about(request=HOSTILE)))
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["message"] == json.loads(text)["request"] == HOSTILE


def test_nothing_forges_a_line_of_text() -> None:
    text = logs.TextFormatter("%(levelname)s %(message)s").format(record(HOSTILE[:-1]))
    first, second = text.split("\n")
    assert first == 'WARNING a"b'
    assert second == "    2026-01-01 ERROR forged\\x0d\\x1b[31m\\x7f\\x85\\u2028é"


def test_text_has_the_id_of_the_request_that_a_line_is_about() -> None:
    text = logs.TextFormatter("%(request_id)s %(message)s")
    assert text.format(record("hello", request_id=logs.NONE, **logs.about(request_id="r"))) == "r hello"
    assert text.format(record("hello", request_id="q", **logs.about(job_id="j"))) == "q hello"


def test_an_exception_forges_no_line_of_text_either() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        text = logs.TextFormatter("%(levelname)s %(message)s").format(record("x", exc_info=sys.exc_info()))
    first, second, *others = text.splitlines()
    assert (first, second) == ("WARNING x", "Traceback (most recent call last):")
    assert others[-1] == "    2026-01-01 ERROR forged\\x0d\\x1b[31m\\x7f\\x85\\u2028é\ud800"
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize(
    ("code", "logger", "words"),
    [
        ("import warnings; warnings.warn('old')", "py.warnings", "UserWarning: old"),
        ("1 / 0", "telemetry", "ZeroDivisionError"),
        (
            "import threading; t = threading.Thread(target=lambda: 1 / 0, name='n'); t.start(); t.join()",
            "telemetry",
            "ZeroDivisionError",
        ),
    ],
)
def test_what_would_be_written_as_it_comes_is_json_too(code: str, logger: str, words: str) -> None:
    program = f"from telemetry import logs; logs.set_up('info', 'json', '')\n{code}"
    ran = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ran.stderr.splitlines()
    told = json.loads(line)
    assert told["logger"] == logger
    assert words in told["message"] + told.get("exception", "")
