"""The errors that a call of the client can end in. Owns the classes, and which HTTP status is which.

    BatchwireError           code, message, status, request_id, retry_after_s
    |- RequestRefusal        4xx: the request is wrong; sending it again changes nothing
    |  `- LostJob            404: the service has lost a job that it accepted
    |- ServiceUnavailable    429, 502, 503: the request is right, the service can't take it now
    |- AnswerTimeout         504, or no answer within `timeout_s`, or no result within `wait_s`
    |- ServiceFault          500 and others: the model failed on this picture, or the service has a bug
    |- ConnectionFailure     no connection, or one that broke before the whole answer had come
    `- UnreadableAnswer      an answer, but not one of this service

A picture's file that can't be read is Python's own OSError.
"""

from typing import Final


class BatchwireError(Exception):
    """Base of all. `code` is stable and for programs; `message` says to people what is wrong."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
        job_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        """The HTTP status; None where there was no answer."""
        self.request_id = request_id
        """The id under which the service's logs have the request; empty where there was no answer."""
        self.retry_after_s = retry_after_s
        """The seconds of the answer's Retry-After; None where it had none."""
        self.job_id = job_id
        """The job that failed; empty where the request was refused before there was one."""

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.message}{request}"


class RequestRefusal(BatchwireError):
    """The request is wrong: sending it again changes nothing."""


class LostJob(RequestRefusal):
    """The service accepted the job and has lost it (`job_lost`): submit the picture again."""


class ServiceUnavailable(BatchwireError):
    """The request is right, the service can't take it now, and it was tried again for as long as allowed."""


class AnswerTimeout(BatchwireError):
    """The answer did not come in time."""


class ServiceFault(BatchwireError):
    """The model failed on this picture, or the service has a bug."""


class ConnectionFailure(BatchwireError):
    """There is no connection, or it broke before the whole answer had come."""


class UnreadableAnswer(BatchwireError):
    """There is an answer, but not one of this service."""


_BY_STATUS: Final[dict[int, type[BatchwireError]]] = {
    429: ServiceUnavailable,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: AnswerTimeout,
}


_BY_CODE: Final[dict[str, type[BatchwireError]]] = {"job_lost": LostJob}


def class_for(status: int, code: str = "") -> type[BatchwireError]:
    """The class of the error that a status of 400 or more stands for, or its code where that says more."""
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (RequestRefusal if status < 500 else ServiceFault)
