"""/openapi.json: the API's description, made from the handlers, their schemas and the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

import relay_tornado
from relay_tornado.handlers.rest.base import Operation, RestHandler, operation, operations
from relay_tornado.handlers.rest.endpoints import ENDPOINTS, GROUPS, Need
from relay_tornado.handlers.rest.openapi_answers import open_answers
from relay_tornado.handlers.rest.openapi_constraints import add_constraints
from relay_tornado.handlers.rest.openapi_names import type_name
from relay_tornado.handlers.rest.schemas import Problem
from relay_tornado.settings import Settings
from relay_tornado.wire.fields import Document, Form, HeaderValues, Number, Text

_PARAMETERS: Final = {
    "bucket": "The bucket's id or name.",
    "input": "The input's id.",
    "output": "The output's id.",
    "consumer": "The name of a client's consumer; `token:<key>` or `output:<number, id or name>` for another one.",
    "log": "The id of an event (`<epoch>-<seq>`), or of its copy for an output (`<epoch>-<seq>-<number>`).",
    "token": "The token's key.",
}
_PROBLEMS: Final = {
    400: ("Invalid", "The request is wrong; `field` names the part."),
    401: ("Unauthorized", "The credentials are missing or unknown."),
    403: ("Forbidden", "The token may not do this."),
    404: ("NotFound", "There is no such thing in the token's buckets."),
    412: ("Conflict", "A name, an id or a route is taken, or something else is in the way."),
    413: ("TooLarge", "The body is too large."),
    415: ("WrongType", "The body does not begin like JSON, and its Content-Type or Content-Encoding says why."),
    502: ("NotSent", "The request that the relay was asked to send got no answer."),
    503: ("Unavailable", "Not now; Retry-After says when to retry. `code` `unknown`: it may have been done."),
    507: ("NoSpace", "The disk is full."),
}
"""By status, the name of the answer in the description, and what it says."""
_OPEN: Final = ("BucketUpdate", "InputUpdate", "OutputUpdate", "ThrottleFields", "DurabilityFields", "AnswerRequest")
"""The forms of requests that may hold more: fields that are stored and echoed, or sent and not read."""
_OTHERS: Final = (
    "Besides the answers that are described, a path answers 405 to a method that it does not have (`Allow` lists those "
    "that it has), and a request that can't be read as HTTP, or is too slow, gets 400, 408 or 431 in plain text. An "
    "unforeseen failure is a 500 in the form of `Problem`, and is in the relay's log."
)


class DescriptionHandler(RestHandler):
    PATH = "/openapi.json"

    @operation("Get this description", None)
    async def get(self) -> None:
        self.finish(self.rest.description())


def describe(handlers: Sequence[type[RestHandler]], settings: Settings) -> bytes:
    """The OpenAPI 3.1 document of these handlers, encoded."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="relay",
        version=relay_tornado.__version__,
        openapi_version="3.1.0",
        info={
            "description": f"A self-hosted webhook relay. See docs/rest.md for examples.\n\n{_OTHERS}",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        plugins=[plugin],
        servers=[{"url": "/"}],
        tags=[{"name": group} for group in GROUPS],
    )
    about = "The token's key as the user name, and its secret as the password."
    spec.components.security_scheme("basic", {"type": "http", "scheme": "basic", "description": about})
    about = "The token's secret."
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "description": about})
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_meaning)  # type: ignore[no-untyped-call]
    plugin.converter.add_attribute_function(_facts)  # type: ignore[no-untyped-call]
    for status, (name, about) in _PROBLEMS.items():
        spec.components.response(name, _problem(status, about))
    for handler in handlers:
        spec.path(
            path=handler.PATH,
            operations={
                method.lower(): _operation(handler.PATH, method, each, plugin)
                for method, each in operations(handler).items()
            },
        )
    document: Document = spec.to_dict()
    open_answers(document)
    _open(document)
    add_constraints(document, settings.ingest_buffer)
    return msgspec.json.encode(document) + b"\n"


def _operation(path: str, method: str, details: Operation, plugin: MarshmallowPlugin) -> Document:
    need, name, group = ENDPOINTS[method, path]
    parameters: list[Any] = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}, "description": _PARAMETERS[name]}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if details.query is not None:
        parameters.append({"in": "query", "schema": details.query})
    statuses = {503, *details.statuses}
    if need is not Need.NOTHING:
        statuses |= {401, 403}
    if "{" in path or details.query is not None:
        statuses |= {400, 404}
    if details.body is not None:
        statuses |= {400, 413, 415}
    if details.stores and method != "GET":
        statuses.add(507)
    answers: Document = {str(status): _PROBLEMS[status][0] for status in sorted(statuses)}
    answers[str(details.status)] = _answer("Success", details.answer, details.content)
    document: Document = {
        "summary": details.summary,
        "description": f"Needs {need.value}.",
        "operationId": name,
        "tags": [group],
        "parameters": parameters,
        "responses": dict(sorted(answers.items())),
        "security": [] if need is Need.NOTHING else [{"basic": []}, {"bearer": []}],
    }
    if details.body is not None:
        document["requestBody"] = {
            "required": not details.body_optional,
            "content": {"application/json": {"schema": details.body}},
        }
    return document


def _problem(status: int, about: str) -> Document:
    problem = _answer(about, Problem())
    if status == 401:
        problem["headers"]["WWW-Authenticate"] = _header("The schemes by which to authenticate.")
    if status in (503, 507):
        problem["headers"]["Retry-After"] = _header("After how many seconds to retry.", "integer")
    return problem


def _header(about: str, kind: str = "string") -> Document:
    return {"description": about, "required": True, "schema": {"type": kind}}


def _answer(about: str, schema: Schema | None, content: str = "application/json") -> Document:
    if content != "application/json":
        described: Any = {"type": "string", "format": "binary"}
    else:
        described = schema or {"type": "object"}
    return {
        "description": about,
        "headers": {"Request-Id": _header("Identifies the request.")},
        "content": {content: {"schema": described}},
    }


def _name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return type_name(kind.__name__)


def _meaning(_: Any, field: fields.Field[Any], **__: Any) -> Document:
    """What the request's form says of an answer's field that has no description of its own."""
    form = getattr(field.parent, "FORM", None)
    said = getattr(form, "_declared_fields", {}).get(field.name)
    return {} if said is None or "description" in field.metadata else {"description": said.metadata["description"]}


def _facts(converter: Any, field: fields.Field[Any], **__: Any) -> Document:
    """The facts about the relay's own kinds of fields, which apispec does not know."""
    if isinstance(field, Text):
        return {"pattern": field.pattern} if field.pattern else {}
    if isinstance(field, Number) and field.above is not None:
        return {"exclusiveMinimum": field.above}
    if isinstance(field, HeaderValues):
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
    if isinstance(field, Form):
        return {"anyOf": [converter.resolve_nested_schema(field.form), {"type": "null"}]}
    return {}


def _open(document: Document) -> None:
    for name in _OPEN:
        del document["components"]["schemas"][name]["additionalProperties"]
