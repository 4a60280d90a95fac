"""/openapi.json: OpenAPI 3.1, made from the table of operations, its types and the app's own routes.

Owns how those become a document; msgspec turns the types into JSON Schema. Knows no route by name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import msgspec
from werkzeug.routing import Map

from broker.errors import ServiceError
from web.keys.http_guard import OPEN
from web.openapi.operations import (
    OPERATIONS,
    REQUEST_ID,
    RETRY_AFTER,
    WEBHOOK_HEADERS,
    Content,
    HeaderSpec,
    Operation,
    ResponseSpec,
)
from web.responses import MIMETYPE, VERSION, Answer, FailedAnswer
from web.uploads.parameters import CALLBACK_URL, MOST, PRIORITY

TITLE: Final = "Batchwire"

Json = dict[str, Any]

_ABOUT: Final = (
    "An image model behind HTTP. Every answer has the header X-Request-ID; every failure is "
    '`{"success": false, "error": {"code": "...", "message": "..."}, "request_id": "..."}`, including that '
    "of an unknown address (404 `not_found`) and of a method that an address does not accept (405 "
    "`method_not_allowed`). Every address that accepts GET accepts HEAD, and every address accepts OPTIONS."
)
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_OF_KEYS: Final = ("unauthorized", "forbidden")
_OF_LIMITS: Final = ("rate_limited", "too_many_jobs")

_PARAMETER: Final = r"\{(\w+)\}"

_WORDS: Final = {"internal": "The service failed on this request; its log says why."}


def document(
    routes: Map, *, root: str, top_max: int | None, has_webhooks: bool = False, has_keys: bool = False
) -> Json:
    """The description of the app that has these routes, under the path `root`.

    `top_max` is the most predictions that any model gives; None while no model is known. Without webhooks no
    `callback_url` is accepted, and none is described; nor are API keys where none are asked for.
    """
    # Of several addresses of an operation the shortest; its description has the others.
    rules = {
        rule.endpoint: rule
        for rule in sorted(routes.iter_rules(), key=lambda rule: len(rule.arguments), reverse=True)
    }
    paths: Json = {}
    known: dict[str, str] = {}
    for endpoint, operation in OPERATIONS.items():
        if endpoint not in rules:  # an address that only some settings have
            continue
        is_closed = has_keys and endpoint not in OPEN
        own = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rules[endpoint].rule)
        # To OpenAPI paths that differ in the names of their parameters alone are the same.
        path = known.setdefault(re.sub(_PARAMETER, "{}", own), own)
        names = dict(zip(re.findall(_PARAMETER, own), re.findall(_PARAMETER, path), strict=True))
        (method,) = (rules[endpoint].methods or set()) - {"HEAD", "OPTIONS"}
        described = _operation(_closed_by_keys(operation) if is_closed else operation, names)
        if has_keys and not is_closed:
            described["security"] = []
        paths.setdefault(path, {})[method.lower()] = described
    whole: Json = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": _ABOUT},
        **({"servers": [{"url": root}]} if root else {}),
        "paths": paths,
        **({"webhooks": {"jobEnded": {"post": _webhook()}}} if has_webhooks else {}),
        "components": {"schemas": _schemas()},
    }
    if has_keys:
        whole["security"] = [{name: []} for name in _SCHEMES]
        whole["components"]["securitySchemes"] = _SCHEMES
    absent = [name for name, has in ((CALLBACK_URL, has_webhooks), (PRIORITY, has_keys)) if not has]
    for operations in paths.values():
        for each in operations.values():
            each["parameters"] = [one for one in each["parameters"] if one["name"] not in absent]
    for name in absent:
        del whole["components"]["schemas"]["PredictBody"]["properties"][name]
    return dict(_bounded(whole, top_max or MOST))


def _closed_by_keys(operation: Operation) -> Operation:
    """The operation where it needs an API key."""
    return replace(operation, errors=(*operation.errors, *_OF_KEYS, *(_OF_LIMITS if operation.body else ())))


def _webhook() -> Json:
    """What a receiver is sent when a job with a `callback_url` ends."""
    headers = [
        {"name": header.name, "in": "header", "required": True, **_field(header)}
        for header in WEBHOOK_HEADERS
    ]
    return {
        "operationId": "jobEnded",
        "tags": ["predictions"],
        "summary": "A job with a callback_url has ended",
        "description": "What `GET /predictions/{job_id}` answers. It may come more than once.",
        "parameters": headers,
        "requestBody": {"required": True, "content": {MIMETYPE: {"schema": _schema((Answer, FailedAnswer))}}},
        "responses": {
            "2XX": {"description": "It has arrived."},
            "410": {"description": "It is not wanted, and is not sent again."},
            "default": {"description": "It is sent again later; not where a redirect leads."},
        },
    }


def _schemas() -> dict[str, Json]:
    """Every type of the table, and every type within it, by name."""
    types: list[type] = []
    for operation in OPERATIONS.values():
        for content in (operation.body, operation.error_content, *_contents(operation.answers.values())):
            for kind in content.values():
                types += [part for part in _alternatives(kind) if isinstance(part, type)]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    # The broker's type can't name the web tier's.
    components["Prediction"]["properties"]["steps"] = components["Answer"]["properties"]["steps"]
    return {name: _closed(_tidy(schema)) for name, schema in components.items()}


def _contents(answers: Iterable[ResponseSpec]) -> list[Content]:
    return [answer.content for answer in answers]


def _alternatives(kind: object) -> tuple[object, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _tidy(schema: Json) -> Json:
    """Keep only the first paragraph of a docstring: the rest is for readers of the code."""
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split("\n\n")[0].split())
    return schema


def _closed(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Drop `"items": false` from tuples: `maxItems` says the same, and many tools read no boolean schema.

    A number that is a multiple of 1 becomes an integer.
    """
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items() if (name, value) != ("items", False)}
    if closed.get("multipleOf") == 1:
        closed |= {"type": "integer"}
        del closed["multipleOf"]
    return closed


def _operation(operation: Operation, names: Mapping[str, str]) -> Json:
    """An operation, whose path has these names for its own."""
    made: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, names),
        "responses": _responses(operation),
    }
    if operation.description:
        made["description"] = operation.description
    if operation.body:
        made["requestBody"] = {"required": True, "content": _content(operation.body)}
        if operation.example is not None:
            made["requestBody"]["content"][MIMETYPE]["example"] = operation.example
    return made


def _parameters(operation: Operation, names: Mapping[str, str]) -> list[Json]:
    path = [
        {**_parameter(names[name], "path", kind), "required": True} for name, kind in operation.path.items()
    ]
    query: list[Json] = []
    if operation.query is not None:
        _, components = msgspec.json.schema_components([operation.query])
        schema = components[operation.query.__name__]
        required = schema.get("required", ())
        query = [
            {**_parameter(name, "query", kind), **({"required": True} if name in required else {})}
            for name, kind in schema["properties"].items()
        ]
    headers = [{"name": header.name, "in": "header", **_field(header)} for header in operation.headers]
    return [*path, *query, *headers]


def _parameter(name: str, place: str, kind: object) -> Json:
    schema = _schema(kind)
    description = {"description": schema.pop("description")} if "description" in schema else {}
    return {"name": name, "in": place, **description, "schema": schema}


def _field(header: HeaderSpec) -> Json:
    return {"description": header.description, "schema": dict(header.schema)}


def _responses(operation: Operation) -> dict[str, Json]:
    made: dict[int, Json] = {}
    for status, answer in operation.answers.items():
        made[status] = _response(answer.description, answer.content, answer.headers)
        if answer.examples:
            made[status]["content"][MIMETYPE]["examples"] = {
                name: {"value": msgspec.to_builtins(example)} for name, example in answer.examples.items()
            }
        if answer.links:
            made[status]["links"] = answer.links
    for status, codes in operation.failures.items():
        meanings = "\n".join(f"- `{code}`: {_meaning(code)}" for code in codes)
        if status in made:
            made[status]["description"] += f"\n{meanings}"
            continue
        is_for_now = status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
        fields = (RETRY_AFTER,) if is_for_now else ()
        content = {
            media_type: _with_codes(kind, codes) for media_type, kind in operation.error_content.items()
        }
        made[status] = _response(meanings, content, fields)
    return {str(status): made[status] for status in sorted(made)}


def _with_codes(kind: object, codes: list[str]) -> Json:
    """The schema of a failure with one of these codes."""
    code = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    first, *others = _alternatives(kind)
    failure = {"allOf": [_schema(first), code]}
    return {"anyOf": [failure, *(_schema(other) for other in others)]} if others else failure


def _response(description: str, content: Content, fields: tuple[HeaderSpec, ...]) -> Json:
    headers = {
        header.name: {**_field(header), **({"required": True} if header.is_always else {})}
        for header in (REQUEST_ID, *fields)
    }
    return {"description": description, "headers": headers, "content": _content(content)}


def _content(content: Content) -> Json:
    return {media_type: {"schema": _schema(kind)} for media_type, kind in content.items()}


def _schema(kind: object) -> Json:
    """The JSON Schema of a type, of a tuple of alternatives, or of a schema that has types in it."""
    if isinstance(kind, tuple):
        return {"anyOf": [_schema(alternative) for alternative in kind]}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if isinstance(kind, Mapping):
        return {name: _schema(value) if _has_types(value) else value for name, value in kind.items()}
    return msgspec.json.schema(kind)


def _has_types(value: object) -> bool:
    return isinstance(value, Mapping) or not isinstance(value, str | int | float | list | bool)


def _meaning(code: str) -> str:
    """The meaning of a code, from the docstrings of its error classes."""
    if code in _WORDS:
        return _WORDS[code]
    return " ".join(dict.fromkeys(_first_lines(ServiceError, code)))


def _first_lines(base: type[ServiceError], code: str) -> list[str]:
    own = [(base.__doc__ or "").split("\n")[0]] if base.code == code else []
    return own + [line for subclass in base.__subclasses__() for line in _first_lines(subclass, code)]


def _bounded(value: Any, top_max: int) -> Any:  # noqa: ANN401 - JSON
    """Replace the types' bound of `top` by that of the known models."""
    if isinstance(value, dict):
        return {
            name: top_max if name == "maximum" and member == MOST else _bounded(member, top_max)
            for name, member in value.items()
        }
    return [_bounded(item, top_max) for item in value] if isinstance(value, list) else value
