"""What may be asked beside a picture: the types that requests are checked by and /openapi.json describes.

Owns the bounds that hold for every model; those of one model are its card's.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.errors import ClientError

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


TIMEOUT: Final = "timeout"
PRIORITY: Final = "priority"

_LEAST_TIMEOUT_S: Final = 0.001
_MOST_TIMEOUT_S: Final = 86_400

Timeout = Annotated[
    float,
    Meta(
        ge=_LEAST_TIMEOUT_S,
        le=_MOST_TIMEOUT_S,
        description="After so many seconds the answer is of no use: 504, and no model server begins to run "
        "it. It may shorten REQUEST_TIMEOUT_S (ASYNC_TIMEOUT_S of a job that is polled), and never lengthens "
        "it.",
    ),
]

Priority = Annotated[
    Literal["low", "normal", "high"],
    Meta(
        description="A quarter, once or four times the API key's share of the queue; as high as the key may "
        "go. Without API keys there are no shares, and all is `normal`."
    ),
]


def timeout_s(parameters: Mapping[str, str]) -> float:
    """The seconds that a request gives itself; infinite without. Raises ClientError."""
    text = parameters.get(TIMEOUT)
    if not text:
        return math.inf
    try:
        return msgspec.convert(text, Timeout, strict=False)
    except msgspec.ValidationError:
        raise ClientError(
            f"timeout={text[:20]!r} is not a number of seconds from {_LEAST_TIMEOUT_S:g} to "
            f"{_MOST_TIMEOUT_S}."
        ) from None


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


class ScalingQuery(Struct, frozen=True):
    """The query of `/scaling`."""

    models: (
        Annotated[str, Meta(description="Names with commas between them; all models where there are none.")]
        | UnsetType
    ) = UNSET
    window: (
        Annotated[int, Meta(ge=1, le=86_400, description="`asked` tells of so many seconds: 60 by default.")]
        | UnsetType
    ) = UNSET


class AskingQuery(Struct, frozen=True, kw_only=True):
    """What a prediction may be asked besides."""

    timeout: Timeout | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET


class TopQuery(AskingQuery, frozen=True, kw_only=True):
    """The query of a prediction by a model that the path names."""

    top: Top | UnsetType = UNSET


class PredictQuery(AskingQuery, frozen=True, kw_only=True):
    """The query of a prediction."""

    model: ModelName | UnsetType = UNSET
    top: Top | UnsetType = UNSET


class CallbackQuery(PredictQuery, frozen=True, kw_only=True):
    """The query of a prediction that may be announced."""

    callback_url: CallbackUrl | UnsetType = UNSET


MAX_LISTED: Final = 200

_LATEST: Final = 1e11
"""Seconds since 1970, in the year 5138. Redis takes no NaN, so none gets there."""


class JobsQuery(Struct, frozen=True, kw_only=True):
    """The query of a key's jobs."""

    before: (
        Annotated[float, Meta(ge=0, le=_LATEST, description="Only older ones, as `next` has it.")] | UnsetType
    ) = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED, description="Jobs in an answer; 50.")] | UnsetType = UNSET


class PredictionQuery(ModelQuery, frozen=True):
    """The query of a job that is polled."""

    wait: Wait | UnsetType = UNSET
