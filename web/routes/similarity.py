"""`POST /similarity`: how alike two pictures are, by a model that gives embeddings.

Owns the choice of that model, and the measure. The pictures, the limits and the errors are those of
`/predict`.
"""

import time
from dataclasses import replace
from typing import Final

import numpy as np
from flask import Blueprint, Response, current_app, request
from msgspec import UNSET

from broker.errors import ClientError, ServiceError, Unavailable, UnknownModel
from broker.messages import Result, WorkerState
from web import responses
from web.jobs import JobClient
from web.keys import access
from web.responses import Similarity
from web.routes import predict
from web.uploads import reader

blueprint = Blueprint("similarity", __name__)

_TASK: Final = "embedding"

_TWO: Final = "curl -F image=@one.jpg -F image=@other.jpg http://HOST/similarity"


@blueprint.post("/similarity")
def similarity() -> Response:
    """The cosine of the two pictures' vectors."""
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.places.slot():
        started_at = time.monotonic()
        upload = reader.read(request)
        if len(upload.pictures) != 2:
            raise ClientError(f"Two pictures are compared, and {len(upload.pictures)} came: {_TWO}")
        model = _model(jobs, upload.parameters.get("model", ""))
        upload = replace(upload, parameters={**upload.parameters, "model": model}, tops=[])
        one, other = map(_vector, ("first", "second"), predict.outcomes(upload, started_at=started_at))
    if one.model_version != other.model_version:
        # Vectors of two versions have nothing to do with each other.
        raise Unavailable("The model was replaced between the two pictures: send them again.")
    notice = one.notice or other.notice
    return responses.respond(
        Similarity(
            success=True,
            model=one.model,
            ids=(one.id, other.id),
            similarity=cosine(one.embedding or (), other.embedding or ()),
            notice=notice or UNSET,
            model_version=one.model_version,
        )
    )


def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The cosine of the angle between two vectors, from -1 to 1; 0 if one of them has no direction."""
    vectors = np.array([one, other], np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        return 0.0
    return float(np.clip(vectors[0] @ vectors[1] / lengths.prod(), -1, 1))


def _vector(which: str, result: Result | ServiceError) -> Result:
    """The picture's result, which has a vector. Raises the error that it ended in, which says whose it is."""
    if isinstance(result, ServiceError):
        raise result.about(f"The {which} picture")
    if result.embedding is None:  # another model came by this name meanwhile
        raise ClientError(f"{result.model} gives no embeddings.")
    return result


def _model(jobs: JobClient, name: str) -> str:
    """The model of this name; without one the default if it gives embeddings, else the first that is ready.

    Raises UnknownModel, and as ModelChooser.named does.
    """
    views = {known: view for known, view in jobs.registry.models().items() if view.card.task == _TASK}
    if name:
        access.require_model(name)
    views = {known: view for known, view in views.items() if access.may_ask(known)}
    able = sorted(views, key=lambda known: (views[known].state is not WorkerState.READY, known))
    if name in able or (not name and jobs.models.default in able):
        return name or jobs.models.default
    if name:
        jobs.models.named(name)
    elif able:
        return able[0]
    refused = f"{name} gives no embeddings" if name else "No model here gives embeddings"
    raise UnknownModel(f"{refused}. Models that do: {', '.join(able) or 'none'} (docs/tasks.md).")
