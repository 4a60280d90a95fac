"""The errors that cross this project's parts. Owns names and codes; knows no HTTP and no Redis.

    ServiceError                  code, message: both are shown to clients. detail: for logs and operators
    |- ClientError                the request is wrong; sending it again changes nothing
    |  |- UnknownModel            no such model
    |  |- JobLost                 a job was accepted, and Redis has lost it
    |  |- ResultExpired           a job was accepted, and what it came to is not kept any more
    |  `- IdempotencyKeyReused    the key belongs to another request
    |- Unavailable                the request is right; later it may work (retry_after_s)
    |  |- Overloaded              the queue is full
    |  |- NoWorker                no model server has lived for a while
    |  |- ModelUnavailable        the model failed to load; the message has the reason
    |  `- BrokerUnavailable       Redis does not answer
    |- DeadlinePassed             the answer did not come in time
    |- InferenceFailed            the model failed on this picture; the detail says how
    |- MalformedMessage           bytes in Redis that are not ours
    `- LeaseLost                  this worker's lease is gone: its batch belongs to others now

Only `code` and `message` cross Redis. web/errors.py alone maps a code to an HTTP status.
"""

import copy
from typing import Self


class ServiceError(Exception):
    """Base of all. `code` is stable and for programs, `message` says to people what to do.

    `detail`, which is also str(error), may name what is no business of clients: addresses, keys, paths, other
    libraries' words. By default it is the message.
    """

    code = "internal"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(detail or message)
        self.message = message
        self.detail = detail or message

    def as_outcome(self) -> Self:
        """This error as what something came to, to be kept and shown: without its traceback.

        That has the frames of its callers, one of which keeps it: a cycle, which would hold their pictures
        until it is collected.
        """
        return self.with_traceback(None)

    def about(self, what: str) -> Self:
        """The same error, which says what it is about; this one may be another request's, too."""
        told = copy.copy(self)
        told.message, told.detail = f"{what}: {self.message}", f"{what}: {self.detail}"
        return told


class ClientError(ServiceError):
    """The request itself is wrong."""

    code = "bad_request"


class UnknownModel(ClientError):
    """No model of this name was ever announced."""

    code = "unknown_model"


class JobLost(ClientError):
    """Redis has lost a job that was accepted, before its result could have expired."""

    code = "job_lost"


class ResultExpired(ClientError):
    """A job was accepted so long ago that its result, if it had one, is not kept any more."""

    code = "result_expired"


class IdempotencyKeyReused(ClientError):
    """The Idempotency-Key belongs to a request with another picture or other parameters."""

    code = "idempotency_key_reused"


class Unavailable(ServiceError):
    """The request was right, the service can't take it now. `retry_after_s`: seconds, at least 1."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = max(1, retry_after_s)


class Overloaded(Unavailable):
    """The queue, or this frontend, holds as many jobs as it may. `valid_s`: for so long it surely does."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1, valid_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.valid_s = valid_s


class NoWorker(Unavailable):
    """No model server serves this model."""

    code = "no_worker"


class ModelUnavailable(Unavailable):
    """Every worker of this model failed to load it."""

    code = "model_unavailable"


class BrokerUnavailable(Unavailable):
    """Redis does not answer; or it does and `is_refusal`, for want of memory or a password, say.

    `detail` says to operators what is wrong. Clients can only come again: they are all told the same.
    """

    code = "broker_unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1, is_refusal: bool = False) -> None:
        again_s = max(1, retry_after_s)
        super().__init__(
            f"The service can't use its queue at the moment; come back in {again_s} s.",
            retry_after_s=again_s,
            detail=detail,
        )
        self.is_refusal = is_refusal


class DeadlinePassed(ServiceError):
    """The job's deadline came before its result."""

    code = "deadline_passed"


class InferenceFailed(ServiceError):
    """The network failed on this picture, or on every attempt to run it."""

    code = "inference_failed"


class MalformedMessage(ServiceError):
    """A message in Redis can't be read; `detail` says why. A job that can't be gets `inference_failed`."""

    code = "malformed_message"

    def __init__(self, detail: str) -> None:
        super().__init__("What the service kept of this can't be read; its log says why.", detail=detail)


class LeaseLost(ServiceError):
    """Redis refused because this worker's lease lapsed or was reaped. Internal to a worker."""

    code = "lease_lost"


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for a message of ours; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
