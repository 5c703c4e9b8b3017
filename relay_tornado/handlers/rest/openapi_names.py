"""The names of types in the API's description, which generated clients have, and references to them."""

from __future__ import annotations

from typing import Any, Final

from relay_tornado.wire.fields import Document

_TYPES: Final = {
    "ActionBody": "ResendRequest",
    "AnswerBody": "AnswerRequest",
    "BucketFields": "BucketUpdate",
    "ClientAnswer": "ConnectedClient",
    "ClientsAnswer": "ConnectedClients",
    "DeadPage": "DeadLetterPage",
    "FoundPage": "SearchPage",
    "InputFields": "InputUpdate",
    "LettersBody": "DeadLettersRequest",
    "MadeAnswer": "CreatedEvent",
    "MadeBody": "NewEvent",
    "NewTokenAnswer": "TokenWithSecret",
    "OldestAnswer": "OldestEvent",
    "OutputFields": "OutputUpdate",
    "RangeBody": "ResendRangeRequest",
    "ReplayAnswer": "ReplayResult",
    "RulesBody": "Rules",
    "SampleMade": "CreatedSampleEvent",
    "ScopesBody": "ScopesFields",
    "SeekAnswer": "SeekResult",
    "SentAnswer": "SendResult",
    "SlowestAnswer": "SlowestConsumer",
    "StatusAnswer": "RelayStatus",
    "TokenBody": "TokenFields",
}
"""The names of forms that do not follow the rule: `BinAnswer` is `Bin`, `SeekBody` is `SeekRequest`."""


def type_name(form: str) -> str:
    """The name of a form's type in the description."""
    if form in _TYPES:
        return _TYPES[form]
    return f"{form.removesuffix('Body')}Request" if form.endswith("Body") else form.removesuffix("Answer")


def name_types(document: Document) -> Document:
    """The same description, in which the types have their names; before, they have those of the forms."""
    schemas = document["components"]["schemas"]
    names = {form: type_name(form) for form in schemas}
    assert len(set(names.values())) == len(names), "two forms have one name"
    components = {**document["components"], "schemas": {names[form]: schema for form, schema in schemas.items()}}
    named: Document = _named({**document, "components": components}, names)
    return named


def _named(part: Any, names: dict[str, str]) -> Any:
    if isinstance(part, list):
        return [_named(each, names) for each in part]
    if not isinstance(part, dict):
        return part
    if _refers(part):
        return {**part, **refer(names[referred(part)])}
    return {key: _named(value, names) for key, value in part.items()}


_SCHEMA: Final = "#/components/schemas/"


def references(part: Any) -> list[Document]:
    """All references to types in a part of a description."""
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    return [part] * _refers(part) + [found for each in part.values() for found in references(each)]


def _refers(part: Document) -> bool:
    reference = part.get("$ref")
    return isinstance(reference, str) and reference.startswith(_SCHEMA)


def referred(reference: Document) -> str:
    """The name of the type that is referred to."""
    return str(reference["$ref"]).removeprefix(_SCHEMA)


def refer(name: str) -> Document:
    """A reference to a type."""
    return {"$ref": _SCHEMA + name}
