"""Makes the types of answers in the API's description open, so that a client accepts the fields of a later version.

A form that is part of requests and of answers becomes two types: the one of requests stays closed.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from relay_tornado.handlers.rest.openapi_names import refer, references, referred
from relay_tornado.wire.fields import Document

_WHOLE: Final = ("Retention", "Dedupe", "RateLimit", "Verify")
"""Parts that an answer has with all of their fields."""


def open_answers(document: Document) -> None:
    """Opens the types of answers. Call it before the constraints of requests are added."""
    schemas = document["components"]["schemas"]
    asked = _reached(
        schemas, [each.get("requestBody") for path in document["paths"].values() for each in path.values()]
    )
    answers: list[Any] = [each["responses"] for path in document["paths"].values() for each in path.values()]
    answers.append(document["components"]["responses"])
    given = _reached(schemas, answers)
    own = {form: form.removesuffix("Fields") for form in sorted(asked & given)}
    for form, name in own.items():
        schemas[name] = copy.deepcopy(schemas[form])
    for name in (given - asked) | set(own.values()):
        # Absent, and not true: generators would add a map of further fields to each type.
        schemas[name].pop("additionalProperties", None)
        for reference in references(schemas[name]):
            reference.update(refer(own.get(referred(reference), referred(reference))))
    for name in _WHOLE:
        schemas[name]["required"] = sorted(schemas[name]["properties"])


def _reached(schemas: Document, part: Any) -> set[str]:
    """The names of the types that a part of a description is made of."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        new = {referred(each) for each in references(waiting.pop())} - found
        found |= new
        waiting += [schemas[name] for name in new]
    return found
