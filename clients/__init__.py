"""A client of the service, synchronous and asynchronous, and a command for folders of pictures.

Owns the names that callers import. Must not import anything of the service: it knows HTTP, nothing else.

    from clients import Client

    with Client("http://localhost:5000") as client:
        print(client.predict("photo.jpg", model="digits").predictions[0].label)
"""

from clients.answers import (
    Answer,
    ErrorDetail,
    Keypoint,
    Mask,
    ModelList,
    ModelSummary,
    Prediction,
    RawOutput,
    Skeleton,
    Timings,
)
from clients.client import AsyncClient, AsyncJob, Client, Job, PictureReply
from clients.errors import (
    AnswerTimeout,
    BatchwireError,
    ConnectionFailure,
    LostJob,
    RequestRefusal,
    ServiceFault,
    ServiceUnavailable,
    UnreadableAnswer,
)
from clients.exchanges import Picture

__all__ = [
    "Answer",
    "AnswerTimeout",
    "AsyncClient",
    "AsyncJob",
    "BatchwireError",
    "Client",
    "ConnectionFailure",
    "ErrorDetail",
    "Job",
    "Keypoint",
    "LostJob",
    "Mask",
    "ModelList",
    "ModelSummary",
    "Picture",
    "PictureReply",
    "Prediction",
    "RawOutput",
    "RequestRefusal",
    "ServiceFault",
    "ServiceUnavailable",
    "Skeleton",
    "Timings",
    "UnreadableAnswer",
]
