"""The operations of the service, route by route: the table that /openapi.json is made from.

Owns which types, headers and errors belong to a route. The routes check requests and write answers with the
same types. A test asserts that no route is missing.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from web.dialects.failures import ProtocolFailure
from web.dialects.tf_serving import (
    ClassLists,
    OutputColumns,
    PredictionRows,
    RegressionValues,
    ServedNames,
    ServedVersions,
    SignatureMetadata,
)
from web.dialects.torchserve import Health, PredictionFailure
from web.dialects.tutorials import ClassifyQuery, InferAnswer, InferFailure
from web.errors import STATUS
from web.idempotency import HEADER, MAX_LETTERS
from web.openapi.examples import ACCEPTED, ANSWERED, RESULT, WAITING, Examples
from web.responses import (
    CACHE_FIELD,
    MODEL_FIELD,
    NOTICE_FIELD,
    VERSION_FIELD,
    Answer,
    AnswerList,
    FailedAnswer,
    JobId,
    JobList,
    LastHour,
    Liveness,
    ModelList,
    PendingAnswer,
    Readiness,
    Scaling,
    Similarity,
)
from web.uploads.json_bodies import PredictBody, SimilarityBody
from web.uploads.parameters import (
    MAX_PICTURES,
    CallbackQuery,
    JobsQuery,
    ModelQuery,
    PredictionQuery,
    PredictQuery,
    ScalingQuery,
    TopQuery,
)

JSON: Final = "application/json"

Content = dict[str, Any]
"""By media type: a type, a tuple of alternatives, or a JSON Schema."""

FILE: Final = {"type": "string", "format": "binary"}

RAW_TYPES: Final = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "application/octet-stream",
)

ANYWHERE: Final = (
    "bad_request",
    "upload_timeout",
    "too_large",
    "uri_too_long",
    "header_too_large",
    "internal",
    "overloaded",
)
"""Errors that every address may answer: for a request that can't be read, or that exceeds a limit."""


@dataclass(frozen=True, slots=True)
class HeaderSpec:
    """A header of a request or an answer."""

    name: str
    description: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_always: bool = True


REQUEST_ID: Final = HeaderSpec(
    "X-Request-ID",
    "Names the request in the answer, in errors and in the service's logs. An id of 1 to 128 letters, digits "
    "and ._:/+=@~- that begins with a letter or digit is kept; any other is replaced by a fresh one.",
)
RETRY_AFTER: Final = HeaderSpec("Retry-After", "Seconds.", {"type": "integer", "minimum": 1})
LOCATION: Final = HeaderSpec("Location", "The address at which to poll the result.", is_always=False)
DRAWN: Final = (
    HeaderSpec(MODEL_FIELD, "With an annotated picture: the model that answered.", is_always=False),
    HeaderSpec(VERSION_FIELD, "With an annotated picture: the model's version.", is_always=False),
    HeaderSpec(
        NOTICE_FIELD,
        "With an annotated picture: the `notice`, if there is one; percent-encoded where it is not ASCII.",
        is_always=False,
    ),
)
CACHE: Final = HeaderSpec(
    CACHE_FIELD,
    "While the response cache is on (`RESULT_CACHE_S`): where the answer comes from; of several pictures a "
    "word for each in their order. `hit`: a result that was kept; `shared`: the run of another request; "
    "`miss`: a run of its own. Not with `Prefer: respond-async` or an `Idempotency-Key`.",
    {"type": "string", "pattern": "^(hit|miss|shared)(, (hit|miss|shared))*$"},
    is_always=False,
)
APPLIED: Final = HeaderSpec("Preference-Applied", "What of `Prefer` the answer heeds.", is_always=False)
TRACEPARENT: Final = HeaderSpec(
    "traceparent", "The W3C trace that the request belongs to; its job carries it."
)
PREFER: Final = HeaderSpec(
    "Prefer",
    "`respond-async`: answer 202 at once; the result is polled. `respond-async, wait=N`: wait for the result "
    "for so many seconds first.",
)
IDEMPOTENCY_KEY: Final = HeaderSpec(
    HEADER,
    "Names the request: sent again, it is the same job as long as its result is kept. Another picture under "
    "the same key of a model is refused (422).",
    {"type": "string", "pattern": r"^[\x21-\x7e]+$", "minLength": 1, "maxLength": MAX_LETTERS},
)
PREFER_WAIT: Final = HeaderSpec("Prefer", "`wait=N`, as in the query, which counts first.")


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """One kind of answer."""

    description: str
    content: Content
    headers: tuple[HeaderSpec, ...] = ()
    links: dict[str, Any] = field(default_factory=dict)
    examples: Examples = field(default_factory=dict)
    """Examples of its JSON, by name."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route accepts and answers, besides the errors of `ANYWHERE`."""

    id: str
    tag: str
    summary: str
    answers: dict[int, ResponseSpec]
    errors: tuple[str, ...] = ()
    description: str = ""
    path: dict[str, Any] = field(default_factory=dict)
    query: type[Struct] | None = None
    headers: tuple[HeaderSpec, ...] = ()
    body: Content = field(default_factory=dict)
    example: Any = None
    """A JSON body to try out."""
    error_content: Content = field(default_factory=lambda: {JSON: FailedAnswer})
    """The types that an error's body may have."""

    @property
    def failures(self) -> dict[int, list[str]]:
        """The codes of its errors by their status."""
        codes: dict[int, list[str]] = {}
        for code in sorted({*ANYWHERE, *self.errors}, key=list(STATUS).index):
            codes.setdefault(STATUS[code], []).append(code)
        return codes


_TWO_FILES: Final = {
    "type": "object",
    "properties": {"image": {"type": "array", "items": FILE, "minItems": 2, "maxItems": 2}},
    "required": ["image"],
}

_FORM: Final = {
    "type": "object",
    "properties": {
        "image": {
            "type": "array",
            "items": FILE,
            "minItems": 1,
            "maxItems": MAX_PICTURES,
            "description": "Picture files. The names `file` and `img` mean the same. `model` and `top` may "
            "be fields as well; the query takes precedence.",
        },
    },
    "required": ["image"],
}


def _one_picture(field: str, others: str = "`image`, `file` and `img`") -> Content:
    """The body of a route that takes a single picture, and names its field so."""
    properties = {field: {**FILE, "description": f"The names {others} mean the same."}}
    form = {"type": "object", "properties": properties, "required": [field]}
    return {"multipart/form-data": form, **dict.fromkeys(RAW_TYPES, FILE)}


_STROKE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAJElEQVR42mP8z4AbMDEMMkkWVC4jA8P/QezaUUlC"
    "koxDKvUBAKDPAzcBInz0AAAAAElFTkSuQmCC"
)
"""A PNG of 28 x 28 pixels: a handwritten 1."""

_POLL: Final = {
    "operationId": "prediction",
    "parameters": {"path.job_id": "$response.body#/id", "query.model": "$response.body#/model"},
    "description": "Poll the result of one picture; each entry of a list has its own location.",
}

_MODEL_ERRORS: Final = ("unknown_model", "no_worker", "model_unavailable", "broker_unavailable")
_JOB_ERRORS: Final = ("inference_failed", "deadline_passed")
_GONE: Final = ("not_found", "job_lost", "result_expired")
"""Of a polled job that is no more, or never was."""
_PICTURE_ERRORS: Final = ("invalid_image", "unsupported_format", *_MODEL_ERRORS, *_JOB_ERRORS)

_EVENT: Final = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["pending", "done", "failed", "gone"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer", "description": "Milliseconds."},
    },
}
"""One of a stream, by its fields."""

_TWO_ARRAYS: Final = {
    "type": "array",
    "items": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}},
    "minItems": 2,
    "maxItems": 2,
}

_NAME: Final = {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$", "description": "The name of a model."}

_VERSIONED: Final = "`/versions/N` or `/labels/latest` may follow the name."

_B64: Final = {
    "type": "object",
    "properties": {"b64": {"type": "string", "format": "byte"}},
    "required": ["b64"],
    "additionalProperties": False,
}
_B64_LIST: Final = {
    "type": "array",
    "items": _B64,
    "minItems": 1,
    "maxItems": MAX_PICTURES,
    "description": "Pictures. An object with one input, and an array [height][width][channels] of pixel "
    "values from 0 to 255 in the model's own size, are pictures, too.",
}
_SIGNATURE: Final = {"type": "string", "enum": ["serving_default"]}


def _json_of_pictures(field: str, *, without: str) -> dict[str, Any]:
    """A JSON body with pictures in one field, and nothing in another."""
    return {
        "type": "object",
        "properties": {field: _B64_LIST, without: {"not": {}}, "signature_name": _SIGNATURE},
        "required": [field],
    }


_ROWS_OR_COLUMNS: Final = (
    _json_of_pictures("instances", without="inputs"),
    _json_of_pictures("inputs", without="instances"),
)
_EXAMPLES: Final = {
    "type": "object",
    "properties": {"examples": {**_B64_LIST, "description": "Pictures."}, "signature_name": _SIGNATURE},
    "required": ["examples"],
}


def _by_tf_serving(
    id_: str, summary: str, answer: type[Struct] | tuple[type[Struct], ...], said: str, body: object
) -> Operation:
    """A prediction of TensorFlow Serving's interface."""
    return Operation(
        id_,
        "protocols",
        summary,
        description=_VERSIONED,
        path={"model": _NAME},
        headers=(TRACEPARENT, REQUEST_ID),
        body={JSON: body},
        answers={200: ResponseSpec(said, {JSON: answer})},
        errors=("not_found", *_MODEL_ERRORS, *_JOB_ERRORS),
        error_content={JSON: ProtocolFailure},
    )


def _by_torchserve(id_: str, summary: str) -> Operation:
    """A prediction of TorchServe's interface."""
    return Operation(
        id_,
        "protocols",
        summary,
        description="The address names a model: `/predictions/NAME`. A version of it may follow: "
        "`/predictions/NAME/VERSION`. Here `job_id` is that name: OpenAPI has one for both.",
        path={"model": _NAME},
        query=TopQuery,
        headers=(TRACEPARENT, REQUEST_ID),
        body=_one_picture("data", "`image`, `file`, `img` and `body`"),
        answers={200: ResponseSpec("Labels and probabilities, or boxes.", {JSON: {}, "image/png": FILE})},
        errors=("not_found", *_PICTURE_ERRORS),
        error_content={JSON: PredictionFailure},
    )


WEBHOOK_HEADERS: Final = (
    HeaderSpec("webhook-id", "The job's id: the same in each attempt."),
    HeaderSpec("webhook-timestamp", "When it was sent, in seconds since 1970.", {"type": "integer"}),
    HeaderSpec("webhook-signature", "One or several, separated by spaces: `v1,` and the base64 of an HMAC."),
)
"""Of https://www.standardwebhooks.com."""

OPERATIONS: Final = {
    "predict.predict": Operation(
        "predict",
        "predictions",
        "Predictions for one picture or several",
        description="JPEG, PNG, WebP, GIF (first frame), BMP, TIFF, AVIF, HEIC and icons (ICO, CUR): files "
        "in a form, the file itself as the body, or base64 in JSON. Several files in a form, and a list in "
        "JSON, are answered by a list in the order sent, each failing alone; its status is 200 (202 if they "
        "are polled) if any succeeds, else the status of the first failure. With `Accept: image/png` the "
        "answer is the picture with the predictions drawn on it (one picture, not polled); failures stay "
        "JSON.",
        query=CallbackQuery,
        headers=(PREFER, IDEMPOTENCY_KEY, TRACEPARENT, REQUEST_ID),
        example={"image": _STROKE},
        body={"multipart/form-data": _FORM, JSON: PredictBody, **dict.fromkeys(RAW_TYPES, FILE)},
        answers={
            200: ResponseSpec(
                "The predictions.",
                {JSON: (Answer, AnswerList), "image/png": FILE},
                (*DRAWN, APPLIED, CACHE),
                examples=ANSWERED,
            ),
            202: ResponseSpec(
                "Accepted: the result is polled, or announced.",
                {JSON: (PendingAnswer, AnswerList)},
                (LOCATION, APPLIED),
                {"poll": _POLL},
                ACCEPTED,
            ),
        },
        errors=(*_PICTURE_ERRORS, "idempotency_key_reused"),
        error_content={JSON: (FailedAnswer, AnswerList)},
    ),
    "predictions.prediction": Operation(
        "prediction",
        "predictions",
        "The result of a job that is polled, at once or as soon as it is there",
        description="A failed job is answered with the status of its failure.",
        path={"job_id": JobId},
        query=PredictionQuery,
        headers=(PREFER_WAIT, REQUEST_ID),
        answers={
            200: ResponseSpec("The predictions.", {JSON: Answer}, (APPLIED,), examples=RESULT),
            202: ResponseSpec(
                "The job has no result yet.", {JSON: PendingAnswer}, (RETRY_AFTER, APPLIED), examples=WAITING
            ),
        },
        errors=(*_GONE, "unknown_model", "broker_unavailable", *_JOB_ERRORS),
    ),
    "predictions.cancel": Operation(
        "cancel",
        "predictions",
        "Cancel a job that is polled, or drop its result",
        description="A job that no batch has yet is not run.",
        path={"job_id": JobId},
        query=ModelQuery,
        headers=(REQUEST_ID,),
        answers={204: ResponseSpec("It is gone.", {})},
        errors=(*_GONE, "unknown_model", "broker_unavailable"),
    ),
    "key_jobs.jobs": Operation(
        "jobs",
        "predictions",
        "The polled jobs of the API key that asks, the newest first",
        description="Those that are pending or whose results are kept, of the newest 1,000.",
        query=JobsQuery,
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The jobs.", {JSON: JobList})},
        errors=("broker_unavailable",),
    ),
    "job_events.events": Operation(
        "events",
        "predictions",
        "The states of a job that is polled, as Server-Sent Events",
        description="`pending` with the JSON of a 202; then `done` with the predictions, or `failed` or "
        "`gone` (cancelled, expired or lost) with the error, and the end. Comments come in between. A stream "
        "ends after REQUEST_TIMEOUT_S at the latest, and an EventSource connects again.",
        path={"job_id": JobId},
        query=ModelQuery,
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The events.", {"text/event-stream": _EVENT})},
        errors=(*_GONE, "unknown_model", "broker_unavailable", "deadline_passed"),
    ),
    "similarity.similarity": Operation(
        "similarity",
        "predictions",
        "How alike two pictures are",
        description="By a model whose task is `embedding`: the one that is named, else the default, else the "
        "first by name. The two pictures come as for `/predict`: two files in a form, or a list in JSON.",
        query=ModelQuery,
        headers=(TRACEPARENT, REQUEST_ID),
        body={"multipart/form-data": _TWO_FILES, JSON: SimilarityBody},
        answers={200: ResponseSpec("The cosine of their vectors.", {JSON: Similarity})},
        errors=_PICTURE_ERRORS,
    ),
    "tutorials.infer": Operation(
        "infer",
        "tutorials",
        "The index of the class, as the PaddlePaddle tutorial has it",
        description="Without `?model=` the model `digits` answers, or else the default.",
        query=PredictQuery,
        headers=(REQUEST_ID,),
        body=_one_picture("img"),
        answers={200: ResponseSpec("The best class.", {JSON: InferAnswer})},
        errors=_PICTURE_ERRORS,
        error_content={JSON: (InferFailure, FailedAnswer)},
    ),
    "tutorials.run": Operation(
        "run",
        "tutorials",
        "The name of the class, as the Gunicorn tutorial has it",
        description="`result : Egyptian_cat`",
        query=PredictQuery,
        headers=(REQUEST_ID,),
        body=_one_picture("file"),
        answers={200: ResponseSpec("The best class.", {"text/plain": {"type": "string"}})},
        errors=_PICTURE_ERRORS,
    ),
    "tutorials.run_by_get": Operation(
        "runByGet",
        "tutorials",
        "How to send a picture; a form that is sent by GET is answered as well",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The command.", {"text/plain": {"type": "string"}})},
        errors=_PICTURE_ERRORS,
    ),
    "tutorials.classify": Operation(
        "classify",
        "tutorials",
        "The best classes in two arrays, as the TensorFlow tutorial has them",
        query=PredictQuery,
        headers=(REQUEST_ID,),
        body=_one_picture("file"),
        answers={200: ResponseSpec("Names and probabilities, the best first.", {JSON: _TWO_ARRAYS})},
        errors=_PICTURE_ERRORS,
    ),
    "tutorials.classify_file": Operation(
        "classifyFile",
        "tutorials",
        "The same for a file in the folder that FILES_DIR names",
        query=ClassifyQuery,
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("Names and probabilities, the best first.", {JSON: _TWO_ARRAYS})},
        errors=("not_found", *_PICTURE_ERRORS),
    ),
    "tf_serving.predict": _by_tf_serving(
        "tfPredict",
        "The outputs for pictures, as TensorFlow Serving and KServe's v1 protocol have them",
        (PredictionRows, OutputColumns),
        "By rows for `instances`, by columns for `inputs`.",
        _ROWS_OR_COLUMNS,
    ),
    "tf_serving.classify": _by_tf_serving(
        "tfClassify",
        "The best classes of pictures, as TensorFlow Serving has them",
        ClassLists,
        "The classes of each picture.",
        _EXAMPLES,
    ),
    "tf_serving.regress": _by_tf_serving(
        "tfRegress",
        "The number of each picture, as TensorFlow Serving has it",
        RegressionValues,
        "A number for each picture.",
        _EXAMPLES,
    ),
    "tf_serving.models": Operation(
        "tfModels",
        "protocols",
        "The models' names, as KServe's v1 protocol has them",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The names.", {JSON: ServedNames})},
        errors=("broker_unavailable",),
        error_content={JSON: ProtocolFailure},
    ),
    "tf_serving.status": Operation(
        "tfStatus",
        "protocols",
        "A model's versions and their states, as TensorFlow Serving and KServe's v1 protocol have them",
        description=_VERSIONED,
        path={"model": _NAME},
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The versions.", {JSON: ServedVersions})},
        errors=("not_found", "unknown_model", "broker_unavailable"),
        error_content={JSON: ProtocolFailure},
    ),
    "tf_serving.metadata": Operation(
        "tfMetadata",
        "protocols",
        "A model's input and outputs, as TensorFlow Serving has them",
        description=_VERSIONED,
        path={"model": _NAME},
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The signature.", {JSON: SignatureMetadata})},
        errors=("not_found", *_MODEL_ERRORS),
        error_content={JSON: ProtocolFailure},
    ),
    "torchserve.predictions": _by_torchserve(
        "torchPredict", "A prediction at TorchServe's /predictions/NAME"
    ),
    "torchserve.predictions_by_put": _by_torchserve(
        "torchPredictByPut", "The same by PUT, as curl -T sends it"
    ),
    "torchserve.ping": Operation(
        "ping",
        "protocols",
        "Whether some model can be asked, as TorchServe has it",
        headers=(REQUEST_ID,),
        answers={
            200: ResponseSpec("Healthy.", {JSON: Health}),
            500: ResponseSpec("Unhealthy.", {JSON: (Health, FailedAnswer)}),
        },
    ),
    "health.models": Operation(
        "models",
        "service",
        "Every model: its card, its state, its workers, its queue",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The models.", {JSON: ModelList})},
        errors=("broker_unavailable",),
    ),
    "history.history": Operation(
        "status_history",
        "service",
        "The last hour: queues, pictures, errors, latency and Redis' memory, every ten seconds",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("The samples, the oldest first.", {JSON: LastHour})},
        errors=("broker_unavailable",),
    ),
    "health.healthz": Operation(
        "healthz",
        "service",
        "Whether this process is alive, whatever the load",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("It is.", {JSON: Liveness})},
    ),
    "health.livez": Operation(
        "livez",
        "service",
        "The same as /healthz",
        headers=(REQUEST_ID,),
        answers={200: ResponseSpec("It is.", {JSON: Liveness})},
    ),
    "health.readyz": Operation(
        "readyz",
        "service",
        "Whether Redis accepts writes and a live worker serves some model, or the named one",
        query=ModelQuery,
        headers=(REQUEST_ID,),
        answers={
            200: ResponseSpec("Ready.", {JSON: Readiness}),
            503: ResponseSpec("Not ready.", {JSON: (Readiness, FailedAnswer)}),
        },
        errors=("unknown_model",),
    ),
    "metrics.scaling": Operation(
        "scaling",
        "service",
        "What the model servers have to do, for an autoscaler",
        query=ScalingQuery,
        headers=(REQUEST_ID,),
        answers={
            200: ResponseSpec("The queues of all models, or of the named ones, together.", {JSON: Scaling})
        },
        errors=("unknown_model", "broker_unavailable"),
    ),
}
"""By the endpoint's name in Flask."""
