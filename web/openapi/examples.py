"""Answers of a running service, for /docs to show: a digit, a list, a detection, masks, keypoints.

Owns the values, which have the types that the routes answer with. A test checks them against their schemas.
"""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from broker.messages import Keypoint, Mask, Prediction, Skeleton, Timings
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

_SEGMENTATION: Final = Answer(
    success=True,
    model="street",
    id="0c2a53a2-6b3f-4f0e-b0c5-8f1f54f0ad3e",
    predictions=(
        Prediction("road", "1", 0.9731, (0, 2, 6, 2), 0.5, Mask((4, 6), "222000000000")),
        Prediction("sky", "0", 0.8812, (0, 0, 6, 1), 0.25, Mask((4, 6), "0130000000000")),
    ),
    model_version="3f7b1c20a9de",
    engine="openvino",
    precision="bf16",
    batch_size=1,
    timings_ms=Timings(waiting=1.2, batch=4.1, model=31.7),
)

_POSE: Final = Answer(
    success=True,
    model="yolov8n-pose",
    id="5d1f6f0e-7f43-4c55-9f5c-2b0a6f6d0b57",
    predictions=(
        Prediction(
            "person",
            "0",
            0.9124,
            (40, 22, 180, 410),
            keypoints=(Keypoint("left_knee", 96.2, 310.8, 0.94), Keypoint("left_ankle", 91.0, 398.5, 0.88)),
        ),
    ),
    skeleton=Skeleton(((0, 1),), 0.5),
    model_version="9b6e0d11c7f2",
    engine="openvino",
    precision="bf16",
    batch_size=1,
    timings_ms=Timings(waiting=0.8, batch=2.2, model=12.4),
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
        expires_at=datetime(2026, 11, 29, 20, 6, 1, 250_000, tzinfo=UTC),
    )


Examples = dict[str, Struct]
"""Examples by the name that /docs shows."""

RESULT: Final[Examples] = {
    "A digit": _DIGIT,
    "A detector's": _DETECTION,
    "Masks": _SEGMENTATION,
    "Keypoints": _POSE,
}
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
