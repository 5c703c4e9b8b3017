"""Field types for the JSON forms, and reading a document by a form.

A schema checks the shape, type and range of each field; how fields relate is checked elsewhere.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, pre_load, validate

from relay_tornado.errors import Invalid
from relay_tornado.model import MAX_COUNT, MAX_SECONDS

Document: TypeAlias = dict[str, Any]
"""A JSON object."""

MAX_HEADERS = 1_000
"""Maximum number of header values in a form: nothing else runs while they are read."""
MAX_EXTRA = 64 * 1024
"""Maximum size, in bytes of JSON, of a document that is only stored and echoed."""


def described(text: str, **more: Any) -> dict[str, Any]:
    """A field's `metadata`: what the API's description says of it, with other keywords of JSON Schema; nothing if there
    is nothing to say."""
    return {**more, "description": text} if text else more


class Flag(fields.Boolean):
    """true or false, and no other value that resembles one."""

    default_error_messages = {"invalid": "must be true or false."}  # noqa: RUF012  # marshmallow's own form

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Whole(fields.Integer):
    """A JSON integer from `least` to `most`; `said` is the error message."""

    def __init__(self, least: int, most: int = MAX_COUNT, *, said: str = "", **kwargs: Any) -> None:
        message = said or f"must be a whole number from {least} to {most}."
        limits = validate.Range(min=least, max=most, error=message)
        super().__init__(strict=True, validate=limits, error_messages={"invalid": message, "null": message}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        # Some clients have only one kind of number; to JSON Schema, too, 5.0 is an integer.
        exact = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(exact, attr, data, **kwargs)


class Number(fields.Float):
    """A JSON number within limits; `message` says what it must be."""

    def __init__(self, message: str, least: float, most: float, *, above: bool = False, **kwargs: Any) -> None:
        """With `above`, `least` itself is excluded."""
        self.above = least if above else None
        """The bound that is excluded, if there is one."""
        limits = validate.Range(least, most, min_inclusive=not above, error=message)
        super().__init__(validate=limits, error_messages=dict.fromkeys(("invalid", "special"), message), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Seconds(Number):
    """A JSON number of seconds, above 0 and at most `most`."""

    def __init__(self, most: float = MAX_SECONDS, **kwargs: Any) -> None:
        super().__init__(f"must be a number of seconds above 0 and at most {most:.0f}.", 0, most, above=True, **kwargs)


_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_CONTROLS_BUT_LINES = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"


class Text(fields.String):
    """A string of at most `most` characters that can be stored and shown: no control characters.

    `lines` allows line ends and tabs, `raw` any character except half a surrogate pair.
    """

    default_error_messages = {"invalid": "must be a string."}  # noqa: RUF012  # marshmallow's own form

    def __init__(self, most: int, *, lines: bool = False, raw: bool = False, **kwargs: Any) -> None:
        refused = "" if raw else _CONTROLS_BUT_LINES if lines else _CONTROLS
        self._refused = re.compile(rf"[{refused}\ud800-\udfff]")
        self.pattern = refused and f"^[^{refused}]*$"
        """The same rule as a regular expression of JSON Schema; "" allows anything."""
        too_long = validate.Length(max=most, error=f"must have at most {most} characters.")
        super().__init__(validate=[too_long, self._check], **kwargs)

    def _check(self, value: str) -> None:
        found = self._refused.search(value)
        if found is not None:
            raise ValidationError(f"must not hold the character U+{ord(found[0]):04X}.")


class TextOrBytes(Text):
    """A text, or a list of its bytes in UTF-8."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, list):
            try:
                value = read_bytes(value).decode()
            except UnicodeDecodeError:
                raise ValidationError("has bytes that are not UTF-8.") from None
        return str(super()._deserialize(value, attr, data, **kwargs))


class Few(fields.List[Any]):
    """A list of at most `most` entries; their number is checked before any of them is read."""

    def __init__(self, entry: fields.Field[Any], most: int, *, least: int = 0, said: str = "", **kwargs: Any) -> None:
        limits = validate.Length(least or None, most, error=said or f"must have at most {most} entries.")
        self._check_number = limits
        super().__init__(entry, validate=limits, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            self._check_number(value)
        return super()._deserialize(value, attr, data, **kwargs)


def read_bytes(numbers: list[Any]) -> bytes:
    """The bytes that a list names by their numbers, which in Java are -128 to 127. Raises ValidationError."""
    # As one call each: there may be a million.
    try:
        # Some clients have only one kind of number; to JSON Schema, too, 5.0 is an integer.
        if set(map(type, numbers)) <= {int, float} and (whole := list(map(int, numbers))) == numbers:
            return array("b", whole).tobytes() if min(whole, default=0) < 0 else bytes(whole)
    except (ValueError, OverflowError):
        pass
    raise ValidationError("must be a string, or a list of bytes.")


class Choice(fields.String):
    """One of these words."""

    def __init__(self, *words: str, **kwargs: Any) -> None:
        *others, last = [word for word in words if word]
        message = f"must be {', '.join(others)} or {last}."
        super().__init__(validate=validate.OneOf(words, error=message), error_messages={"invalid": message}, **kwargs)


class HeaderValues(fields.Field[list[str]]):
    """One value, or a list of values; null, as programs in Go write it, is none."""

    def __init__(self) -> None:
        super().__init__(allow_none=True)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ValidationError("must be a string or a list of strings.")
        return list(values)


def header_texts(values: Any) -> Any:
    """The values of a header of a client's answer, as texts where they are numbers, true or false: some clients send
    those."""
    return [_text(each) for each in values] if isinstance(values, list) else _text(values)


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


class Headers(fields.Dict):
    """A JSON object from header names to values as `values` reads them, or null. Some clients, such as those in PHP,
    write an empty object as an empty list."""

    def __init__(self, values: HeaderValues | None = None, **kwargs: Any) -> None:
        super().__init__(keys=fields.String(), values=values or HeaderValues(), allow_none=True, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if value == []:
            value = {}
        if isinstance(value, dict):
            held = sum(len(each) if isinstance(each, list) else 1 for each in value.values())
            if held > MAX_HEADERS:
                raise ValidationError(f"holds {held} values; {MAX_HEADERS} are allowed.")
        loaded = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        return {name: values or [] for name, values in loaded.items()}


class Form(fields.Field[Document | None]):
    """A JSON object, read by a form; null is None. Fields that the form does not know are kept."""

    def __init__(self, form: Schema, **kwargs: Any) -> None:
        self.form = form
        super().__init__(allow_none=True, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Document:
        if not isinstance(value, Mapping):
            raise ValidationError("must be a JSON object, or null.")
        loaded = self.form.load(value, unknown=INCLUDE)
        check_kept(value)
        return {name: loaded[name] for name in value}


class Anything(fields.Field[Any]):
    """A JSON value that is checked elsewhere, or only stored and echoed."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        check_kept(value)
        return value


class StockFields(Schema):
    """A form that stock clients send. As for programs in Go, null counts as left out in a field that can't be null,
    except in those of `OURS`, where null has a meaning. `ECHOED` names fields that clients send back but can't set."""

    OURS: ClassVar[frozenset[str]] = frozenset()
    ECHOED: ClassVar[frozenset[str]] = frozenset()

    @pre_load
    def _stock(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in self.given(data).items() if name not in self.ECHOED}

    def given(self, data: Mapping[str, Any]) -> Document:
        """The data without the nulls that count as left out."""
        return {name: value for name, value in data.items() if not self._left_out(name, value)}

    def _left_out(self, name: str, value: Any) -> bool:
        return value is None and name in self.fields and name not in self.OURS and not self.fields[name].allow_none


_HALVES = re.compile("[\ud800-\udfff]")


def replace_halves(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair; each pair is one character in it."""
    return _HALVES.sub("\ufffd", text)


def check_kept(value: Any) -> None:
    """Raises ValidationError if a JSON value is too large to be stored, or can't be."""
    try:
        size = len(msgspec.json.encode(value))
    except (UnicodeEncodeError, RecursionError, TypeError, OverflowError, msgspec.MsgspecError):
        raise ValidationError("holds what can't be kept as JSON text.") from None
    if size > MAX_EXTRA:
        raise ValidationError(f"has {size} bytes as JSON; {MAX_EXTRA} are allowed.")


def load(schema: Schema, document: Mapping[str, Any]) -> Document:
    """The document as read by the schema. Raises Invalid, naming the first wrong field; an unknown field is wrong,
    too."""
    return _load(schema, document, RAISE)


def load_with_extra(schema: Schema, document: Mapping[str, Any], before: Mapping[str, Any]) -> Document:
    """As `load`, but unknown fields are put into `extra`, together with those of `before`."""
    loaded = _load(schema, document, INCLUDE)
    known = {name: value for name, value in loaded.items() if name in schema.fields}
    extra = {name: value for name, value in loaded.items() if name not in schema.fields}
    for name, value in extra.items():
        _check_extra({name: value}, name[:80])
    if extra:
        known["extra"] = {**before, **extra}
        _check_extra(known["extra"], next(iter(extra))[:80])
    return known


def _check_extra(extra: Document, name: str) -> None:
    try:
        check_kept(extra)
    except ValidationError as error:
        raise Invalid(str(error.messages[0]), name) from None


def _load(schema: Schema, document: Mapping[str, Any], unknown: Any) -> Document:
    try:
        loaded: Document = schema.load(document, unknown=unknown)
    except ValidationError as error:
        path, message = _first(error.messages)
        if message == _UNKNOWN:
            message = f"there is no such field here{_known(schema, path[:-1])}."
        raise Invalid(message, ".".join(path)) from None
    return loaded


def _first(messages: Any) -> tuple[list[str], str]:
    path: list[str] = []
    while isinstance(messages, dict):
        key, messages = next(iter(messages.items()))
        # marshmallow says whether an error in a mapping is in the key or the value; the path says enough.
        if key != "_schema" and not (path and key in ("key", "value")):
            path.append(str(key))
    message = str(messages[0]) if isinstance(messages, list) else str(messages)
    return path, _WORDS.get(message, message[:1].lower() + message[1:])


def _known(schema: Schema, path: Sequence[str]) -> str:
    """The fields that there are in the part of a form at this path, in words; "" if the part has no form."""
    for name in path:
        field = next((each for each in schema.fields.values() if (each.data_key or each.name) == name), None)
        if not isinstance(field, fields.Nested):
            return ""
        schema = field.schema
    return f"; there are {', '.join(str(each.data_key or each.name) for each in schema.fields.values())}"


_UNKNOWN = "unknown field."
_WORDS = {
    "Field may not be null.": "must not be null.",
    "Missing data for required field.": "is missing.",
    "Invalid input type.": "must be a JSON object.",
    "Not a valid mapping type.": "must be a JSON object.",
    "Not a valid list.": "must be a list.",
}
