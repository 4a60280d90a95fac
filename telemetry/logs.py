"""The form of the log, in every process: lines of text for people, or one JSON object a line (LOG_FORMAT).

Owns how a record becomes a line, and the fields that a line has besides its message. Knows no request and no
job: whoever logs names them (`about`), and the web tier's filter adds the request that its thread answers.

The formatter is our own: python-json-logger would leave the time, the names of the fields, the fields of
`about` and the escapes to us, which is all there is to it.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

JSON: Final = "json"
TEXT: Final = "text"

NONE: Final = "-"
"""The request's id in lines of text that belong to no request."""

_FIELDS: Final = "fields"
"""The attribute of a record that has what `about` made."""

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0)) if code != ord("\n")}
_ESCAPES.update({ord("\t"): "\t", ord("\n"): "\n    ", 0x2028: "\\u2028", 0x2029: "\\u2029"})
"""What of a message could end a line, or move a terminal's cursor. A second line is indented: it can't pass
for one of its own."""

_LOG: Final = logging.getLogger("telemetry")

Field = str | int | float | Sequence[str]

SUBJECT: Final[ContextVar[Mapping[str, Field | None] | None]] = ContextVar("log_subject", default=None)
"""What this thread works on, as the fields of `about`: all lines of the thread have them, as JSON."""


def about(**fields: Field | None) -> dict[str, dict[str, Field]]:
    """The `extra` of a line that belongs to a request, a job or a batch: request_id, job_id and the like.

    Empty values are left out. A line about several jobs has lists (request_ids, job_ids).
    """
    return {_FIELDS: {name: value for name, value in fields.items() if value or value == 0}}


def set_up(level: str, form: str, text: str, *filters: logging.Filter) -> None:
    """Have this process log to stderr: as JSON, or as `text`, a format of logging's. Replaces what there was.

    As JSON also what would be written as it comes: warnings, and exceptions that nobody catches.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == JSON else TextFormatter(text))
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if form == JSON:
        logging.captureWarnings(True)
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread


def is_json() -> bool:
    """Whether this process was set up to log as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def gunicorn_config(level: str) -> dict[str, Any]:
    """Gunicorn's `logconfig_dict`: its own lines, and the master's, as JSON."""
    return {
        "formatters": {JSON: {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": JSON}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": ["stderr"], "propagate": False},
        },
    }


class JsonFormatter(logging.Formatter):
    """A record as one line of ASCII: every control character of it, and all that is not ASCII, is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        for name in ("request_id", "trace_id"):
            if (value := getattr(record, name, NONE)) not in (NONE, ""):
                line[name] = value
        line.update(about(**(SUBJECT.get() or {}))[_FIELDS])
        fields: Mapping[str, Field] = getattr(record, _FIELDS, {})
        line.update(fields)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A record as logging formats it, without control characters in its message or in what was raised.

    A line that says which request it belongs to has that one's id, as in JSON, and not that of its thread.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """See logging.Formatter."""
        record.message = record.message.translate(_ESCAPES)
        if own := getattr(record, _FIELDS, {}).get("request_id"):
            record.request_id = str(own).translate(_ESCAPES)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802, ANN401 - logging's
        """See logging.Formatter. What an error says may be a client's words."""
        return super().formatException(ei).translate(_ESCAPES)


def timestamp(at: float) -> str:
    """Seconds since 1970 in RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _LOG.critical("nobody caught this; the process ends", exc_info=(kind, error, traceback))


def _uncaught_in_thread(problem: threading.ExceptHookArgs) -> None:
    if problem.exc_value is not None and not isinstance(problem.exc_value, SystemExit):
        name = problem.thread.name if problem.thread else "?"
        _LOG.critical("nobody caught this; the thread %s ends", name, exc_info=problem.exc_value)
