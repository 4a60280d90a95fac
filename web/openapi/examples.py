"""Answers of a running service, for /docs to show: a digit, a list, a detection.

Owns the values, which have the types that the routes answer with. A test checks them against their schemas.
"""

from typing import Final

from msgspec import Struct

from broker.messages import Prediction, Timings
from pictures.decode import BROKEN
from web.responses import Answer, AnswerList, ErrorDetail, FailedAnswer, PendingAnswer

_DIGIT_ID: Final = "8bcad012-3f19-4157-b099-30f27f5ee3a7"
_REQUEST_ID: Final = "905c12b6-f45c-4527-94a2-3659eff9178c"

_DIGIT: Final = Answer(
    success=True,
    model="digits",
    id=_DIGIT_ID,
    predictions=(
        Prediction("7", "7", 0.9999964237213135),
        Prediction("9", "9", 2.3932107069413178e-06),
        Prediction("1", "1", 8.380474127989146e-07),
    ),
    model_version="68d1d3cb714f",
    engine="openvino",
    precision="bf16",
    batch_size=1,
    timings_ms=Timings(waiting=0.984, batch=2.973, model=1.54),
)

_DETECTION: Final = Answer(
    success=True,
    model="yolo-fastest",
    id="d24fbfec-1427-47a9-843c-f49f7636bec6",
    predictions=(
        Prediction("dog", "16", 0.9247370958328247, (115, 188, 265, 348)),
        Prediction("car", "2", 0.8568240404129028, (447, 78, 240, 84)),
        Prediction("bicycle", "1", 0.8429726958274841, (115, 125, 457, 370)),
    ),
    model_version="85d7aa1551bd",
    engine="openvino",
    precision="bf16",
    batch_size=1,
    timings_ms=Timings(waiting=18.776, batch=7.551, model=6.348),
)

_BROKEN: Final = FailedAnswer(
    success=False,
    error=ErrorDetail("invalid_image", BROKEN),
    request_id=_REQUEST_ID,
)


def _pending(job_id: str) -> PendingAnswer:
    return PendingAnswer(
        success=True,
        status="pending",
        model="digits",
        id=job_id,
        location=f"/predictions/{job_id}?model=digits",
    )


Examples = dict[str, Struct]
"""Examples by the name that /docs shows."""

RESULT: Final[Examples] = {"A digit": _DIGIT, "A detector's": _DETECTION}
"""Examples of the answer for one image."""

ANSWERED: Final[Examples] = {
    **RESULT,
    "For two pictures, one broken": AnswerList(
        success=False, results=(_DIGIT, _BROKEN), request_id=_REQUEST_ID
    ),
}

WAITING: Final[Examples] = {"One picture": _pending(_DIGIT_ID)}

ACCEPTED: Final[Examples] = {
    **WAITING,
    "Two pictures": AnswerList(
        success=True,
        results=(_pending(_DIGIT_ID), _pending("7b4a82fc-59fa-4d8d-b50c-7616a6b95796")),
    ),
}
