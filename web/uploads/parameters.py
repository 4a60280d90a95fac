"""What may be asked beside a picture: the types that requests are checked by and /openapi.json describes.

Owns the bounds that hold for every model; those of one model are its card's.
"""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_PICTURES: Final = 64
"""Pictures in one request: they are decoded one after the other, and each is a job."""

ModelName = Annotated[
    str,
    Meta(
        pattern="^[a-z0-9_-]*$",
        description="A model of /models. Without one, or where it is empty, the default model answers.",
    ),
]

MOST: Final = 999_999_999

Top = Annotated[
    int,
    Meta(ge=1, le=MOST, description="Predictions in an answer: from 1 to the model's `top_max` of /models."),
]


class ModelQuery(Struct, frozen=True):
    """The query of what is about one model."""

    model: ModelName | UnsetType = UNSET


class PredictQuery(ModelQuery, frozen=True):
    """The query of a prediction."""

    top: Top | UnsetType = UNSET
