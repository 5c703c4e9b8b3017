"""An input's domain and path prefix: as requests are compared with them, and as they were given.

A record's fields have the first form. The second, where it differs, is among the record's unknown fields, under the
same name: there, older versions keep it and do not show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay_tornado.model import Input

PLACE: Final = ("custom_domain", "path_prefix")
"""The names of both fields."""


def compared(name: str, text: str) -> str:
    """The form of this field that requests are compared with: the domain in lower case and without a dot at its end,
    the prefix without a slash at its end."""
    return text.strip().removesuffix(".").lower() if name == "custom_domain" else text.strip().removesuffix("/")


def with_spelling(extra: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """An input's unknown fields once this one of its place is given so."""
    others = {key: value for key, value in extra.items() if key != name}
    return others if text == compared(name, text) else {**others, name: text}


def as_given(value: Input) -> dict[str, str]:
    """Both fields of the input's place, as they were given."""
    found = {}
    for name in PLACE:
        form, given = getattr(value, name), value.extra.get(name)
        # An older version may have changed the field, and not what was given.
        found[name] = given if isinstance(given, str) and compared(name, given) == form else form
    return found
