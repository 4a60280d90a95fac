"""What a request failed of: a kind, to be counted, and a message, to be shown for the first of its kind.

Owns the names of everything that goes wrong before an answer can be judged; answers.py has the others.
"""

import errno

import aiohttp

from loadtest.measuring.answers import WrongAnswer
from loadtest.sending.messages import Record


def failure(error: Exception, record: Record, timeout_s: float) -> tuple[str, str]:
    """Return the kind and the message of what ended a request. No message holds its headers."""
    # Never the repr: aiohttp's hold the request's headers, which may be secret.
    detail = f"{type(error).__name__}: {getattr(error, 'message', '') or error}"
    match error:
        case WrongAnswer():
            return error.kind, error.message
        case TimeoutError() if record.sent is None:
            return "not sent in time", f"the request was not sent within {timeout_s:g} s"
        case TimeoutError():
            return "timeout", f"no answer within {timeout_s:g} s"
        case aiohttp.ClientConnectorCertificateError():
            return "bad certificate", detail
        case aiohttp.ClientConnectorError() if error.errno in {errno.EMFILE, errno.ENFILE}:
            return "too many open files here", detail
        case aiohttp.ClientConnectorError():
            return "connection refused", detail
        case aiohttp.ClientError() | OSError():
            return "connection lost", detail
    return "error in the load tester", detail
