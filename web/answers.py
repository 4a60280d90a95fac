"""From a job's result to the answer that its client sees.

Owns which field of a result becomes which of an answer. responses.py owns the fields, errors.py the statuses.
"""

import logging
from datetime import datetime

from msgspec import UNSET, UnsetType

from broker.errors import InferenceFailed, ServiceError
from broker.messages import Failure, Result
from pictures import png
from web.responses import Answer, ErrorDetail, FailedAnswer

_LOG = logging.getLogger(__name__)


def of(
    result: Result,
    *,
    request_id: str | UnsetType = UNSET,
    expires_at: datetime | UnsetType = UNSET,
) -> Answer | FailedAnswer:
    """The answer of a job that has ended; a failed one names the request, one that is polled its end.

    One whose pixels or masks are none has failed, too.
    """
    failure, predictions = result.error, result.predictions
    if failure is None:
        try:
            if any(each.mask is not None for each in predictions):
                predictions = png.of_masks(predictions)
            return Answer(
                success=True,
                model=result.model,
                id=result.id,
                predictions=predictions,
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
        except ValueError as error:
            _LOG.error("%s: the pixels of job %s can't be read: %s", result.model, result.id, error)
            failure = Failure(
                InferenceFailed.code, "The model server's answer can't be read; this service's log says why."
            )
    return FailedAnswer(
        success=False,
        model=result.model,
        id=result.id,
        error=ErrorDetail(failure.code, failure.message),
        request_id=request_id,
    )


def error_of(failure: Failure) -> ServiceError:
    """The error in which a job ended, to be raised."""
    error = ServiceError(failure.message)
    error.code = failure.code
    return error
