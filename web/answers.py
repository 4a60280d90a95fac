"""From a job's result to the answer that its client sees.

Owns which field of a result becomes which of an answer. responses.py owns the fields, errors.py the statuses.
"""

from datetime import datetime

from msgspec import UNSET, UnsetType

from broker.errors import ServiceError
from broker.messages import Failure, Result
from pictures import png
from web.responses import Answer, ErrorDetail, FailedAnswer


def of(
    result: Result,
    *,
    request_id: str | UnsetType = UNSET,
    expires_at: datetime | UnsetType = UNSET,
) -> Answer | FailedAnswer:
    """The answer of a job that has ended; a failed one names the request, one that is polled its end."""
    if result.error is not None:
        return FailedAnswer(
            success=False,
            model=result.model,
            id=result.id,
            error=ErrorDetail(result.error.code, result.error.message),
            request_id=request_id,
        )
    return Answer(
        success=True,
        model=result.model,
        id=result.id,
        predictions=png.of_masks(result.predictions),
        values=UNSET if result.values is None else result.values,
        embedding=UNSET if result.embedding is None else result.embedding,
        image=UNSET if result.image is None else png.of_pixels(result.image),
        outputs=UNSET if result.outputs is None else result.outputs,
        result=UNSET if result.result is None else result.result,
        skeleton=UNSET if result.skeleton is None else result.skeleton,
        steps=UNSET if result.steps is None else result.steps,
        notice=result.notice or UNSET,
        model_version=result.model_version,
        engine=result.engine,
        precision=result.precision,
        batch_size=result.batch_size,
        timings_ms=result.timings_ms,
        expires_at=expires_at,
    )


def error_of(failure: Failure) -> ServiceError:
    """The error in which a job ended, to be raised."""
    error = ServiceError(failure.message)
    error.code = failure.code
    return error
