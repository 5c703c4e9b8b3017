"""Adds to the API's description what a field by itself can't say: which parts go together, and in which form.

The forms in wire/rest.py check each field; relay_tornado/admin checks the rest. This is the latter as JSON Schema.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from relay_tornado.admin.headers import OF_CONNECTION
from relay_tornado.admin.samples import SAMPLES
from relay_tornado.handlers.rest.openapi_names import refer, type_name
from relay_tornado.handlers.rest.tokens import ScopesFields, TokenBody
from relay_tornado.model import STATUSES
from relay_tornado.wire.answers import NOT_CONFIGURABLE
from relay_tornado.wire.fields import Document, StockFields
from relay_tornado.wire.rest import MOST_AT_ONCE, AuthFields, BucketFields, InputFields, OutputFields

_UNPRINTABLE = r"\x00-\x1f/\x7f-\xa0\xad"
_BUCKET_NAME: Final = rf"^[^ {_UNPRINTABLE}]([^{_UNPRINTABLE}]*[^ {_UNPRINTABLE}])?$"
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE: Final = r"[^\x00-\x1f\x7f-\x9f]*"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URL: Final = "^https?://[^/?#]"
_PATH_PART: Final = r"/(?!\.{1,2}(/|$))[!$%&'()*+,.0-9:;=@A-Z_a-z~-]+"


def _any_of(first: Document, *others: Document) -> Document:
    """A schema that at least one of these must fit. It is not `anyOf`, of which generators of clients make types that
    replace the schema's own."""
    return {"if": first, "else": _any_of(*others)} if others else first


_EMPTY: Final[Document] = {"maxLength": 0}
_AUTH: Final = _any_of(
    {"properties": {"type": {"enum": ["", "none"]}, "username": _EMPTY, "password": _EMPTY, "token": _EMPTY}},
    {
        "properties": {
            "type": {"const": "basic"},
            "username": {"type": "string", "minLength": 1, "pattern": r"^[^:\x00-\x1f\x7f-\x9f]+$"},
            "password": {"type": "string", "minLength": 1},
            "token": _EMPTY,
        },
        "required": ["type", "username", "password"],
    },
    {
        "properties": {
            "type": {"const": "token"},
            "token": {"type": "string", "minLength": 1, "pattern": r"^[!-~]+$"},
            "username": _EMPTY,
            "password": _EMPTY,
        },
        "required": ["type", "token"],
    },
)
_OFF: Final[Document] = {"properties": {"enabled": {"const": False}}}
_THROTTLE: Final = _any_of(
    _OFF,
    {
        "properties": {"mode": {"const": "rate"}, "rate": {"minimum": 1}, "max_concurrent": {"maximum": MOST_AT_ONCE}},
        "required": ["mode", "rate"],
    },
    {
        "properties": {"mode": {"const": "concurrency"}, "max_concurrent": {"minimum": 1, "maximum": MOST_AT_ONCE}},
        "required": ["mode", "max_concurrent"],
    },
)
_DURABILITY: Final = _any_of(
    _OFF,
    {"properties": {"schedule": {"not": {"const": "custom"}}}},
    {"properties": {"custom_delays": {"type": "array", "minItems": 1}}, "required": ["custom_delays"]},
)
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
    "status_code": {"minimum": 0, "not": {"minimum": 1, "maximum": 199}},
    "headers": _headers(NOT_CONFIGURABLE),
    "custom_domain": {"pattern": rf"^({_LABEL}(\.{_LABEL})*\.?)?$", "maxLength": 254},
    "path_prefix": {"pattern": rf"^({_PATH_PART})*/?$", "maxLength": 501},
}
_MATCH: Final[Document] = {
    "type": "object",
    "description": "A condition about a part of the event: true if the part is what `type` says.",
    "properties": {
        "type": {
            "type": "string",
            "enum": [
                *("value", "contains", "substring", "does-not-contain", "regex"),
                *("payload-hash-sha1", "payload-hash-sha256", "ip-whitelist"),
            ],
            "description": "The kind of condition: it says which of the other fields are needed.",
        },
        "parameter": {
            "type": "object",
            "description": "The part of the event; `ip-whitelist` has none.",
            "properties": {
                "source": {
                    "type": "string",
                    "enum": ["header", "payload", "body", "query"],
                    "description": "Where the part is; `body` is the same as `payload`.",
                },
                "name": {
                    "type": "string",
                    "description": "A header, a parameter of the query, or a path in the JSON body, like "
                    "`commits.0.author.name`; empty is the whole body.",
                },
                "base64decode": {"type": "boolean", "description": "Whether the part is decoded first."},
            },
            "required": ["source"],
        },
        "value": {"type": "string", "description": "With `value`: the part is equal to this."},
        "substring": {"type": "string", "description": "With `contains` and `does-not-contain`: a part of it."},
        "regex": {"type": "string", "description": "With `regex`: a pattern of RE2 that is found in it."},
        "secret": {"type": "string", "description": "With `payload-hash-…`: the key of the HMAC that it is."},
        "ip-range": {"type": "string", "description": "With `ip-whitelist`: ranges, separated by blanks or commas."},
    },
    "required": ["type"],
}
_EXAMPLE: Final[Document] = {
    "match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}
}
_RULES: Final[Document] = {
    "type": "object",
    "description": "A tree of conditions. Each node has one of these fields.",
    "properties": {
        "and": {"type": "array", "items": refer("Rules"), "description": "All of these hold."},
        "or": {"type": "array", "items": refer("Rules"), "description": "At least one of these holds."},
        "not": {**refer("Rules"), "description": "This does not hold."},
        "match": {**refer("Match"), "description": "This condition holds."},
    },
    "examples": [_EXAMPLE],
}
_RULES_OR_NULL: Final[Document] = {"anyOf": [refer("Rules"), {"type": "null"}]}


def _only(name: str, facts: Document) -> Document:
    return {"type": "object", "properties": {name: facts}, "required": [name], "additionalProperties": False}


_LAST: Final = _only("last", {"type": "integer", "minimum": 0, "description": "How many events, of the newest."})
_SINCE: Final = _only("time", {"type": "number", "description": "The unix time in seconds from which on events count."})
_POSITION: Final[Document] = {
    "anyOf": [
        {"type": "string", "pattern": "^(latest|earliest|[a-z0-9]{12}-(0|[1-9][0-9]{0,18})(-[1-9][0-9]{0,9})?)$"},
        refer("LastEvents"),
        refer("SinceTime"),
    ],
}
_DEFAULT_INPUT: Final[Document] = {
    "type": ["boolean", "null"],
    "description": "False creates it with no input. Default: true.",
}
_STATIC_IP: Final[Document] = {"type": ["boolean", "null"], "description": "Only stored and returned. Default: false."}
_POLICY: Final[Document] = {"type": "string", "enum": ["skip", "force"]}
_VALUES: Final[Document] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_PROPERTIES: Final[Document] = {
    "BucketUpdate": {
        "name": {"pattern": _BUCKET_NAME, "minLength": 1, "maxLength": 100, "not": {"const": "*"}},
    },
    "DedupeFields": {"header": {"pattern": f"^{_HEADER_NAME}$", "minLength": 1}},
    "InputUpdate": _INPUT,
    "OutputUpdate": {
        "headers": _headers(OF_CONNECTION),
        "rules": _RULES_OR_NULL,
        "destination": {"maxLength": 2048},
        "secret": {
            "pattern": "^(whsec_([A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2,4}=*)?$",
            "maxLength": 1024,
        },
    },
    # What some stock clients send beside this is left out: numbers as texts, statuses as numbers, lists of bytes.
    "AnswerRequest": {
        "response_headers": {"type": ["object", "null"], "additionalProperties": _VALUES},
        "status": {"type": "string", "enum": list(STATUSES)},
    },
    "ResendRequest": {"process_policy": _POLICY},
    "ResendRangeRequest": {"filter": _RULES_OR_NULL, "process_policy": _POLICY},
    "SeekRequest": {"to": _POSITION},
    "SampleRequest": {
        "provider": {"enum": sorted({each.provider for each in SAMPLES})},
        "event": {"enum": sorted({each.event for each in SAMPLES})},
    },
    "SendRequest": {"url": {"pattern": _URL}},
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
    schemas |= {"Rules": _RULES, "Match": _MATCH, "LastEvents": _LAST, "SinceTime": _SINCE}
    schemas["AuthFields"] |= _AUTH
    schemas["ThrottleFields"] |= _THROTTLE
    schemas["DurabilityFields"] |= _DURABILITY
    schemas["DeadLettersRequest"] |= _any_of(
        {"required": ["ids"], "not": {"required": ["all"]}},
        {"required": ["all"], "properties": {"all": {"const": True}}, "not": {"required": ["ids"]}},
    )
    schemas["SampleRequest"] |= _any_of(*_samples())
    schemas["BucketUpdate"]["properties"]["max_body"]["maximum"] = max_body
    schemas["BucketUpdate"]["properties"]["static_ip"] = _STATIC_IP
    schemas["OutputUpdate"] |= _any_of(
        {"properties": {"internal": {"enum": [True, None]}}},
        {"properties": {"destination": {"type": "string", "pattern": _URL}}, "required": ["destination"]},
    )
    schemas["AnswerRequest"] |= _any_of({"required": ["status_code"]}, {"required": ["status"]})
    for form in (AuthFields, BucketFields, InputFields, OutputFields, TokenBody, ScopesFields):
        _allow_null(schemas[type_name(form.__name__)]["properties"], form)
    schemas["AuthFields"]["properties"] |= dict.fromkeys(sorted(AuthFields.ECHOED), _IGNORED)
    _leave_out_empty(document["paths"])
    _add_new(document)


def _add_new(document: Document) -> None:
    """Adds the types of new buckets, inputs and outputs, made from those of changes, which require less."""
    schemas = document["components"]["schemas"]
    for name in ("Bucket", "Input", "Output"):
        made = copy.deepcopy(schemas[f"{name}Update"])
        schemas[f"New{name}"] = made
        if name == "Bucket":
            made["required"] = ["name"]
            named = made["properties"]["name"]
            made["properties"]["name"] = {**named.pop("anyOf")[0], **named}
            made["properties"]["default_input"] = _DEFAULT_INPUT
        else:
            schemas[f"{name}Update"]["properties"]["name"]["anyOf"][0] |= _NAMED
    schemas["NewInput"]["properties"]["id"]["anyOf"][0] |= {"pattern": "^[A-Za-z0-9_-]{0,64}$", "maxLength": 64}
    del schemas["InputUpdate"]["properties"]["id"]
    for path, name in (("", "Bucket"), ("/{bucket}/inputs", "Input"), ("/{bucket}/outputs", "Output")):
        body = document["paths"][f"/v1/buckets{path}"]["post"]["requestBody"]
        body["content"]["application/json"]["schema"] = refer(f"New{name}")


def _samples() -> list[Document]:
    """By provider, the events that there are samples of."""
    events: dict[str, list[str]] = {}
    for each in SAMPLES:
        events.setdefault(each.provider, []).append(each.event)
    return [
        {"properties": {"provider": {"const": provider}, "event": {"enum": sorted(names)}}}
        for provider, names in events.items()
    ]


def _allow_null(properties: Document, form: type[StockFields]) -> None:
    """Allows null where it counts as absent."""
    for name, facts in properties.items():
        if name not in form.OURS and not any(
            "null" in each.get("type", ()) for each in (facts, *facts.get("anyOf", ()))
        ):
            about = {key: facts.pop(key) for key in ("description",) if key in facts}
            properties[name] = {**about, "anyOf": [facts, {"type": "null"}]}


def _leave_out_empty(paths: Document) -> None:
    """Leaves out that an empty parameter of a query counts as absent: a client leaves it out, which is simpler."""
    for item in paths.values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                schema = parameter["schema"]
                if schema.get("default", 0) in ("", None):
                    del schema["default"]
                if "enum" in schema:
                    schema["enum"] = [each for each in schema["enum"] if each]
                if isinstance(schema["type"], list):
                    (schema["type"],) = set(schema["type"]) - {"null"}


def _add(properties: Document, field: str, facts: Document) -> None:
    before: Any = properties[field]
    about = {key: before[key] for key in ("description", "examples") if key in before}
    properties[field] = {**about, **facts} if {"type", "anyOf"} & facts.keys() else {**before, **facts}
