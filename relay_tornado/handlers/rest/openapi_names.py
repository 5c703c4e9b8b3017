"""The names of types in the API's description, which generated clients have, and references to them."""

from __future__ import annotations

from typing import Any, Final

from relay_tornado.wire.fields import Document

_TYPES: Final = {
    "BucketFields": "BucketUpdate",
    "InputFields": "InputUpdate",
    "MadeBody": "NewEvent",
    "OutputFields": "OutputUpdate",
    "RulesBody": "Rules",
    "TokenBody": "TokenFields",
}
"""The names of forms that do not follow the rule: `BinAnswer` is `Bin`, `SeekBody` is `SeekRequest`."""


def type_name(form: str) -> str:
    """The name of a form's type in the description."""
    if form in _TYPES:
        return _TYPES[form]
    return f"{form.removesuffix('Body')}Request" if form.endswith("Body") else form.removesuffix("Answer")


_SCHEMA: Final = "#/components/schemas/"


def references(part: Any) -> list[Document]:
    """All references to types in a part of a description."""
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part] if str(part.get("$ref")).startswith(_SCHEMA) else []
    return own + [found for each in part.values() for found in references(each)]


def referred(reference: Document) -> str:
    """The name of the type that is referred to."""
    return str(reference["$ref"]).removeprefix(_SCHEMA)


def refer(name: str) -> Document:
    """A reference to a type."""
    return {"$ref": _SCHEMA + name}
