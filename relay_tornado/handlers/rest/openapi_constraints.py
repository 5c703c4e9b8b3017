"""Adds to the API's description what a field by itself can't say: which parts go together, and in which form.

The forms in wire/rest.py check each field; relay_tornado/admin checks the rest. This is the latter as JSON Schema.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from relay_tornado.admin.headers import OF_CONNECTION
from relay_tornado.admin.samples import SAMPLES
from relay_tornado.handlers.rest.schemas import NUMBERED
from relay_tornado.handlers.rest.tokens import ScopesBody, TokenBody
from relay_tornado.model import STATUSES
from relay_tornado.wire.answers import NOT_CONFIGURABLE
from relay_tornado.wire.fields import MAX_COUNT, Document, StockFields
from relay_tornado.wire.rest import MOST_AT_ONCE, AuthFields, BucketFields, InputFields, OutputFields

_UNPRINTABLE = r"\x00-\x1f/\x7f-\xa0\xad"
_BUCKET_NAME: Final = rf"^[^ {_UNPRINTABLE}]([^{_UNPRINTABLE}]*[^ {_UNPRINTABLE}])?$"
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE: Final = r"[^\x00-\x1f\x7f-\x9f]*"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URL: Final = "^https?://[^/?#]"
_PATH_PART: Final = r"/(?!\.{1,2}(/|$))[!$%&'()*+,.0-9:;=@A-Z_a-z~-]+"

_EMPTY: Final[Document] = {"maxLength": 0}
_AUTH: Final[list[Document]] = [
    {"properties": {"type": {"enum": ["", "none"]}, "username": _EMPTY, "password": _EMPTY, "token": _EMPTY}},
    {
        "properties": {
            "type": {"const": "basic"},
            "username": {"minLength": 1, "pattern": r"^[^:\x00-\x1f\x7f-\x9f]+$"},
            "password": {"minLength": 1},
            "token": _EMPTY,
        },
        "required": ["type", "username", "password"],
    },
    {
        "properties": {
            "type": {"const": "token"},
            "token": {"minLength": 1, "pattern": r"^[!-~]+$"},
            "username": _EMPTY,
            "password": _EMPTY,
        },
        "required": ["type", "token"],
    },
]
_OFF: Final[Document] = {"properties": {"enabled": {"const": False}}}
_THROTTLE: Final[list[Document]] = [
    _OFF,
    {
        "properties": {"mode": {"const": "rate"}, "rate": {"minimum": 1}, "max_concurrent": {"maximum": MOST_AT_ONCE}},
        "required": ["mode", "rate"],
    },
    {
        "properties": {"mode": {"const": "concurrency"}, "max_concurrent": {"minimum": 1, "maximum": MOST_AT_ONCE}},
        "required": ["mode", "max_concurrent"],
    },
]
_DURABILITY: Final[list[Document]] = [
    _OFF,
    {"properties": {"schedule": {"not": {"const": "custom"}}}},
    {"properties": {"custom_delays": {"type": "array", "minItems": 1}}, "required": ["custom_delays"]},
]
_IGNORED: Final[Document] = {"description": "Ignored: it can't be set."}
_VALUE: Final[Document] = {"type": "string", "pattern": r"^[^\x00-\x08\x0a-\x1f\x7f]*$"}


def _headers(refused: frozenset[str]) -> Document:
    return {
        "type": ["object", "null"],
        "propertyNames": {"pattern": f"^{_HEADER_NAME}$", "not": {"enum": sorted(refused)}},
        "additionalProperties": {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}]},
        "maxProperties": 100,
    }


_NAMED: Final[Document] = {"pattern": rf"^{_LINE}[^\s\x00-\x1f\x7f-\x9f]{_LINE}$"}
_INPUT: Final[Document] = {
    "status_code": {"minimum": 0, "anyOf": [{"const": 0}, {"minimum": 200}]},
    "headers": _headers(NOT_CONFIGURABLE),
    "custom_domain": {"pattern": rf"^({_LABEL}(\.{_LABEL})*)?$", "maxLength": 253},
    "path_prefix": {"pattern": rf"^(/|({_PATH_PART})*)$", "maxLength": 500},
}
_FILTER: Final[Document] = {
    "type": ["object", "null"],
    "examples": [{"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}}],
}
_RULES: Final[Document] = {**_FILTER, "type": ["object", "array", "null"], "maxItems": 0}


def _only(name: str, facts: Document) -> Document:
    return {"type": "object", "properties": {name: facts}, "required": [name], "additionalProperties": False}


_POSITION: Final[Document] = {
    "type": ["string", "object"],
    "anyOf": [
        {"type": "string", "pattern": "^(latest|earliest|[a-z0-9]{12}-(0|[1-9][0-9]{0,18})(-[1-9][0-9]{0,9})?)$"},
        _only("last", {"type": "integer", "minimum": 0}),
        _only("time", {"type": "number"}),
    ],
}
_NUMBERS: Final = range(len(NUMBERED))
"""The numbers of statuses."""

_DIGITS: Final = "^[0-9]{1,9}$"
_ROUNDED: Final[Document] = {
    "type": ["number", "string", "null"],
    "minimum": 0,
    "maximum": MAX_COUNT,
    "pattern": _DIGITS,
}
_DEFAULT_INPUT: Final[Document] = {
    "type": ["boolean", "null"],
    "description": "False creates it with no input. Default: true.",
}
_PLAIN: Final[list[Document]] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
_PROPERTIES: Final[Document] = {
    "BucketFields": {
        "name": {"pattern": _BUCKET_NAME, "minLength": 1, "maxLength": 100, "not": {"const": "*"}},
    },
    "DedupeFields": {"header": {"pattern": f"^{_HEADER_NAME}$", "minLength": 1}},
    "InputFields": _INPUT,
    "OutputFields": {
        "headers": _headers(OF_CONNECTION),
        "rules": _RULES,
        "destination": {"maxLength": 2048},
        "secret": {
            "pattern": "^(whsec_([A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2,4}=*)?$",
            "maxLength": 1024,
        },
    },
    "AnswerBody": {
        "status_code": {
            "type": ["integer", "string", "null"],
            "pattern": _DIGITS,
        },
        "duration_ms": _ROUNDED,
        "retries": _ROUNDED,
        "response_headers": {
            "type": ["object", "array", "null"],
            "maxItems": 0,
            "additionalProperties": {
                "anyOf": [*_PLAIN, {"type": "null"}, {"type": "array", "items": {"anyOf": _PLAIN}}]
            },
        },
        "response_body": {
            "type": ["string", "array", "null"],
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
        "status": {
            "type": ["string", "integer", "null"],
            "enum": ["", "preparing", *STATUSES, *_NUMBERS, None],
        },
    },
    "RangeBody": {"filter": _FILTER},
    "SeekBody": {"to": _POSITION},
    "SampleBody": {
        "provider": {"enum": sorted({each.provider for each in SAMPLES})},
        "event": {"enum": sorted({each.event for each in SAMPLES})},
    },
    "SendBody": {"url": {"pattern": _URL}},
    "ReplayBody": {"speed": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1_000_000}},
}
_REQUIRED: Final[dict[str, list[str]]] = {
    "DedupeFields": ["header"],
    "RateLimitFields": ["events"],
    "VerifyFields": ["provider", "secrets"],
}
"""By form, the fields that are required if the part was not set before; later the others may be set alone."""


def add_constraints(document: Document, max_body: int) -> None:
    """Adds the constraints to a description; `max_body` is the most bytes that a webhook may be allowed to have."""
    schemas = document["components"]["schemas"]
    for name, properties in _PROPERTIES.items():
        for field, facts in properties.items():
            _add(schemas[name]["properties"], field, facts)
    for name, required in _REQUIRED.items():
        schemas[name]["required"] = required
    schemas["RulesBody"] = {**_FILTER, "type": "object", "description": schemas["RulesBody"]["description"]}
    schemas["AuthFields"]["oneOf"] = _AUTH
    schemas["ThrottleFields"]["anyOf"] = _THROTTLE
    schemas["DurabilityFields"]["anyOf"] = _DURABILITY
    schemas["LettersBody"]["oneOf"] = [
        {"required": ["ids"], "not": {"required": ["all"]}},
        {"required": ["all"], "properties": {"all": {"const": True}}, "not": {"required": ["ids"]}},
    ]
    schemas["SampleBody"]["oneOf"] = [
        {"properties": {"provider": {"const": each.provider}, "event": {"const": each.event}}} for each in SAMPLES
    ]
    schemas["BucketFields"]["properties"]["max_body"]["maximum"] = max_body
    schemas["OutputFields"]["anyOf"] = [
        {"properties": {"internal": {"enum": [True, None]}}},
        {
            "properties": {"destination": {"type": "string", "pattern": _URL}},
            "required": ["destination"],
        },
    ]
    schemas["AnswerBody"]["anyOf"] = [
        {"required": ["status_code"]},
        {"required": ["status"], "properties": {"status": {"enum": [*STATUSES, *_NUMBERS[1:]]}}},
    ]
    schemas["AuthFields"]["properties"] |= dict.fromkeys(sorted(AuthFields.ECHOED), _IGNORED)
    for form in (BucketFields, InputFields, OutputFields, TokenBody, ScopesBody):
        _allow_null(schemas[form.__name__]["properties"], form)
    _allow_empty(document["paths"])
    for name in ("Bucket", "Input", "Output"):
        made = copy.deepcopy(schemas[f"{name}Fields"])
        schemas[f"New{name}"] = made
        if name == "Bucket":
            made["required"] = ["name"]
            named = made["properties"]["name"]
            made["properties"]["name"] = {**named.pop("anyOf")[0], **named}
            made["properties"]["default_input"] = _DEFAULT_INPUT
        else:
            _add(schemas[f"{name}Fields"]["properties"], "name", _NAMED)
    _add(schemas["NewInput"]["properties"], "id", {"pattern": "^[A-Za-z0-9_-]{0,64}$", "maxLength": 64})
    del schemas["InputFields"]["properties"]["id"]
    for path, name in (("", "Bucket"), ("/{bucket}/inputs", "Input"), ("/{bucket}/outputs", "Output")):
        body = document["paths"][f"/v1/buckets{path}"]["post"]["requestBody"]
        body["content"]["application/json"]["schema"] = {"$ref": f"#/components/schemas/New{name}"}


def _allow_null(properties: Document, form: type[StockFields]) -> None:
    """Allows null where it counts as absent."""
    for name, facts in properties.items():
        if name not in form.OURS and not any(
            "null" in each.get("type", ()) for each in (facts, *facts.get("anyOf", ()))
        ):
            about = {key: facts.pop(key) for key in ("description",) if key in facts}
            properties[name] = {**about, "anyOf": [facts, {"type": "null"}]}


def _allow_empty(paths: Document) -> None:
    """Allows an empty number, time or flag in a query, which counts as absent."""
    for item in paths.values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "query" and "string" not in parameter["schema"].get("type", ()):
                    parameter["schema"] = {"anyOf": [parameter["schema"], {"const": ""}]}


def _add(properties: Document, field: str, facts: Document) -> None:
    before: Any = properties[field]
    about = {"description": before["description"]} if "description" in before else {}
    properties[field] = {**about, **facts} if "type" in facts else {**before, **facts}
