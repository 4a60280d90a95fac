"""The errors that cross this project's parts. Owns names and codes; knows no HTTP and no Redis.

    ServiceError                  code, message: both may be shown to a client
    |- ClientError                the request is wrong; sending it again changes nothing
    |  |- UnknownModel            no such model
    |  `- IdempotencyKeyReused    the key belongs to another request
    |- Unavailable                the request is right; later it may work (retry_after_s)
    |  |- Overloaded              the queue is full
    |  |- NoWorker                no model server has lived for a while
    |  |- ModelUnavailable        the model failed to load; the message has the reason
    |  `- BrokerUnavailable       Redis does not answer
    |- DeadlinePassed             the answer did not come in time
    |- InferenceFailed            the model failed on this picture
    |- MalformedMessage           bytes in Redis that are not ours
    `- LeaseLost                  this worker's lease is gone: its batch belongs to others now

Only `code` and `message` cross Redis. web/errors.py alone maps a code to an HTTP status.
"""

import copy
from typing import Self


class ServiceError(Exception):
    """Base of all. `code` is stable and for programs, `message` says to people what to do."""

    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_outcome(self) -> Self:
        """This error as what something came to, to be kept and shown: without its traceback.

        That has the frames of its callers, one of which keeps it: a cycle, which would hold their pictures
        until it is collected.
        """
        return self.with_traceback(None)

    def about(self, what: str) -> Self:
        """The same error, which says what it is about; this one may be another request's, too."""
        told = copy.copy(self)
        told.message = f"{what}: {self.message}"
        return told


class ClientError(ServiceError):
    """The request itself is wrong."""

    code = "bad_request"


class UnknownModel(ClientError):
    """No model of this name was ever announced."""

    code = "unknown_model"


class IdempotencyKeyReused(ClientError):
    """The Idempotency-Key belongs to a request with another picture or other parameters."""

    code = "idempotency_key_reused"


class Unavailable(ServiceError):
    """The request was right, the service can't take it now. `retry_after_s`: seconds, at least 1."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
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
    """Redis does not answer; or it does and `is_refusal`, for want of memory or a password, say."""

    code = "broker_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1, is_refusal: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.is_refusal = is_refusal


class DeadlinePassed(ServiceError):
    """The job's deadline came before its result."""

    code = "deadline_passed"


class InferenceFailed(ServiceError):
    """The network failed on this picture, or on every attempt to run it."""

    code = "inference_failed"


class MalformedMessage(ServiceError):
    """A message in Redis can't be read. Never shown to a client: the job gets `inference_failed`."""

    code = "malformed_message"


class LeaseLost(ServiceError):
    """Redis refused because this worker's lease lapsed or was reaped. Internal to a worker."""

    code = "lease_lost"


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for a message of ours; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
