"""The addresses of the tutorials that put a model behind Flask: `/infer`, `/upload`, `/run`, `/classify`.

Owns the shapes of their answers and of their failures (docs/tutorials.md). The pictures, the limits and the
errors are those of `/predict`.
"""

import base64
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import msgspec
from flask import Blueprint, Response, current_app, request
from msgspec import Meta, Struct

from broker.errors import ClientError, Overloaded, ServiceError, Unavailable
from broker.messages import Prediction, Result
from web import errors, pipelines, responses
from web.dialects import shared_folder
from web.errors import FailureShape, NotFound
from web.jobs import JobClient
from web.routes import pages, predict
from web.uploads import reader
from web.uploads.parameters import PredictQuery, can_be_model
from web.uploads.reader import Upload

blueprint = Blueprint("tutorials", __name__)

INFER_MODEL: Final = "digits"
"""Who answers `/infer` if the request names no model: its tutorial serves MNIST."""

UPLOAD_ERROR: Final = 1001
"""The `error` of an upload that can't be answered, whoever sends it again."""

_ADDRESS_LETTERS: Final = 200
"""Of an address that the client has named, in Host."""

DRAWN_MOST: Final = 4
"""Pictures that one page shows: each may have 12 MB."""


class InferAnswer(Struct, frozen=True, kw_only=True):
    """What `/infer` answers; `data` is JSON within a string, as the tutorial has it."""

    code: Annotated[int, Meta(extra_json_schema={"const": 0})] = 0
    data: Annotated[
        str,
        Meta(
            description='`{"result":3,"possibility":1.000000}`: the index of the class and its probability; '
            "-1 and 0 if a detector found nothing."
        ),
    ]
    message: str = "success"


class InferFailure(Struct, frozen=True, kw_only=True):
    """What `/infer` answers on a failure."""

    code: Annotated[int, Meta(extra_json_schema={"const": -1})] = -1
    message: str


class UploadFailure(Struct, frozen=True, kw_only=True):
    """What `/upload` answers on a failure."""

    error: Annotated[int, Meta(description="1001 if the request is at fault, else the status.")]
    msg: str


class ClassifyQuery(PredictQuery, frozen=True, kw_only=True):
    """The query of a prediction for a file of the service's own."""

    file: Annotated[str, Meta(description="The file, from the folder on: `dogs/poodle.jpg`.")]


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """One picture on the page that `/upload` answers."""

    png: str
    """In base64; empty if it is not shown."""
    result: Result | None
    failure: ServiceError | None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """What is listed."""
        return pipelines.drawable(self.result).predictions if self.result else ()

    @property
    def own(self) -> str:
        """What the model's own code says, as JSON."""
        return json.dumps(self.result.result, indent=2, ensure_ascii=False) if self.result else ""


@blueprint.post("/infer")
def infer() -> Response:
    """The class's index and its probability, as JSON within JSON."""
    result = _answered(lambda: _asking(reader.read(request), INFER_MODEL))
    index, probability = -1, 0.0  # of a detector that found nothing
    if result.predictions:
        index = -1 if result.best_index is None else result.best_index
        probability = result.predictions[0].probability
    return responses.respond(InferAnswer(data=f'{{"result":{index},"possibility":{probability:f}}}'))


@blueprint.post("/run")
def run() -> Response:
    """The name of the class, as text."""
    result = _answered()
    name = result.predictions[0].label if result.predictions else "nothing"
    return _text(f"result : {name}")


@blueprint.get("/run")
def run_by_get() -> Response:
    """The same for a client that sends the form by GET; without one, how to send it."""
    if not (request.content_type or request.content_length):
        return _text(f"Send a picture: curl -F file=@photo.jpg {request.base_url[:_ADDRESS_LETTERS]}\n")
    return run()


@blueprint.post("/classify")
def classify() -> Response:
    """The names of the best classes and their probabilities, as two arrays."""
    return _two_arrays(_answered())


@blueprint.get("/classify")
def classify_file() -> Response:
    """The same for a file in the folder that FILES_DIR names."""
    return _two_arrays(_answered(_named_file))


@blueprint.get("/upload")
def upload_form() -> Response:
    """The form, without a picture yet."""
    return pages.shown("upload.html", pictures=[], problem=None, model=_model_name(request.args))


@blueprint.post("/upload")
def upload() -> Response:
    """A page with the pictures and what was found drawn on them; `success` for one in the field `img`."""
    jobs: JobClient = current_app.extensions["jobs"]
    problem: ServiceError | None = None
    shown: list[ShownPicture] = []
    sent = Upload([], {}, [])
    try:
        with jobs.places.slot():
            started_at = time.monotonic()
            sent = reader.read(request)
            results = predict.outcomes(sent, started_at=started_at)
            failures = [result for result in results if isinstance(result, ServiceError)]
            if len(failures) == len(results):
                raise failures[0]
            if sent.field == "img" and not sent.is_list:
                return _text("success")
            shown = _shown(jobs, sent, results, started_at)
    except ServiceError as error:
        if not _is_browser():
            raise
        problem = error
    page = pages.shown("upload.html", pictures=shown, problem=problem, model=_model_name(sent.parameters))
    page.headers["Content-Security-Policy"] = pages.policy(**{"img-src": "'self' data:"})
    if problem is not None:
        page.status_code = errors.STATUS[problem.code]
        if isinstance(problem, Unavailable):
            page.headers["Retry-After"] = str(problem.retry_after_s)
    return page


FAILURES: Final[dict[str, FailureShape]] = {
    "/infer": lambda message, _: InferFailure(message=message),
    "/upload": lambda message, status: UploadFailure(
        error=UPLOAD_ERROR if status < 500 else status, msg=message
    ),
}
"""By address: how a failure looks there."""


def _answered(read: Callable[[], Upload] = lambda: reader.read(request)) -> Result:
    """The result of the one picture that `read` gives. Raises the ServiceError that it ended in."""
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.places.slot():
        started_at = time.monotonic()
        sent = read()
        if len(sent.pictures) > 1:
            raise ClientError(
                f"{request.path} takes one picture, and {len(sent.pictures)} came: POST /predict takes more."
            )
        asked = jobs.models.choose(sent.parameters.get("model")).view.card
        if asked.steps:
            raise ClientError(f"{asked.model} is a pipeline and has no best class: use POST /predict.")
        (result,) = predict.outcomes(sent, started_at=started_at)
    if isinstance(result, ServiceError):
        raise result
    if not result.predictions and not result.is_empty:
        raise ClientError(f"{result.model} gives no classes: POST /predict has its answer.")
    return result


def _asking(sent: Upload, model: str) -> Upload:
    """The upload for `model` if it names none and this service has that one."""
    jobs: JobClient = current_app.extensions["jobs"]
    if sent.parameters.get("model") or not (jobs.models.expects(model) or model in jobs.registry.models()):
        return sent
    return replace(sent, parameters={**sent.parameters, "model": model})


def _named_file() -> Upload:
    """The file that the query names. Raises NotFound, also while FILES_DIR is unset."""
    folder = current_app.config["FILES_DIR"]
    if not folder:
        raise NotFound("FILES_DIR names no folder, so no file is read: POST the picture to /classify.")
    given = {name: text for name, text in request.args.items() if text}
    if "file" not in given:
        raise ClientError("Name a picture: /classify?file=poodle.jpg")
    content = shared_folder.read(
        Path(folder), given["file"], max_bytes=current_app.config["MAX_CONTENT_LENGTH"]
    )
    return Upload([content], given, [given["top"]] if "top" in given else [])


def _two_arrays(result: Result) -> Response:
    names = [prediction.label for prediction in result.predictions]
    probabilities = [prediction.probability for prediction in result.predictions]
    return Response(msgspec.json.encode((names, probabilities)) + b"\n", mimetype=responses.MIMETYPE)


def _text(text: str) -> Response:
    return Response(text, mimetype="text/plain")


def _shown(
    jobs: JobClient, sent: Upload, results: list[Result | ServiceError], started_at: float
) -> list[ShownPicture]:
    """Each picture for the page: the first few drawn, all with what was found or why not."""
    shown = []
    for picture, result in zip(sent.pictures, results, strict=True):
        if isinstance(result, ServiceError) or not isinstance(picture, bytes):
            shown.append(ShownPicture("", None, result if isinstance(result, ServiceError) else None))
            continue
        png = b""
        if sum(bool(each.png) for each in shown) < DRAWN_MOST:
            with contextlib.suppress(Overloaded):  # what was found is there, and counts for more
                png = jobs.draw(picture, pipelines.drawable(result), started_at=started_at)
        shown.append(ShownPicture(base64.b64encode(png).decode(), result, None))
    return shown


def _model_name(parameters: Mapping[str, str]) -> str:
    """The model for the form's next picture; empty if none is named, or what no model can be called."""
    name = parameters.get("model", "")
    return name if can_be_model(name) else ""


def _is_browser() -> bool:
    """Whether the client names text/html among what it accepts; programs accept anything, or JSON."""
    return any(kind.lower() == "text/html" and quality for kind, quality in request.accept_mimetypes)
