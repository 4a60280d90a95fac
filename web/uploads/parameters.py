"""What may be asked beside a picture: the types that requests are checked by and /openapi.json describes.

Owns the bounds that hold for every model; those of one model are its card's.
"""

import re
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_PICTURES: Final = 64
"""Pictures in one request: they are decoded one after the other, and each is a job."""

_MODEL_NAME: Final = "^[a-z0-9_-]*$"

_FOLDER_LETTERS: Final = 255
"""A model's name is its folder's, and no file system has longer ones."""

ModelName = Annotated[
    str,
    Meta(
        pattern=_MODEL_NAME,
        description="A model of /models. Without one, or where it is empty, the default model answers.",
    ),
]

CALLBACK_URL: Final = "callback_url"

MAX_URL_LETTERS: Final = 2048

CallbackUrl = Annotated[
    str,
    Meta(
        max_length=MAX_URL_LETTERS,
        description="The job is polled, and its end is announced by a POST to this URL, signed as Standard "
        "Webhooks are. Its host must be one of WEBHOOK_HOSTS. Empty: as if absent.",
        extra_json_schema={"format": "uri"},
    ),
]

MAX_WAIT_S: Final = 86_400
"""As much as ASYNC_TIMEOUT_S may be."""

MOST: Final = 999_999_999

Top = Annotated[
    int,
    Meta(ge=1, le=MOST, description="Predictions in an answer: from 1 to the model's `top_max` of /models."),
]


def can_be_model(name: str) -> bool:
    """Whether a model may have this name; the empty one stands for the default."""
    return len(name) <= _FOLDER_LETTERS and re.fullmatch(_MODEL_NAME, name) is not None


Wait = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_WAIT_S,
        description="Seconds to wait for the result of a job that is pending, REQUEST_TIMEOUT_S at most; 0 "
        "without it.",
    ),
]


class ModelQuery(Struct, frozen=True):
    """The query of what is about one model."""

    model: ModelName | UnsetType = UNSET


class TopQuery(Struct, frozen=True):
    """The query of a prediction by a model that the path names."""

    top: Top | UnsetType = UNSET


class PredictQuery(ModelQuery, frozen=True):
    """The query of a prediction."""

    top: Top | UnsetType = UNSET


class CallbackQuery(PredictQuery, frozen=True):
    """The query of a prediction that may be announced."""

    callback_url: CallbackUrl | UnsetType = UNSET


class PredictionQuery(ModelQuery, frozen=True):
    """The query of a job that is polled."""

    wait: Wait | UnsetType = UNSET
