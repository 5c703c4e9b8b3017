"""The format of an export: lines of JSON, a header followed by one line per event, with exact bytes.

Bytes that are UTF-8 are text under their field's name, others base64 under `<name>_base64`. `crc` is the event's
checksum in the log. An ephemeral event is a stub without content: `{"stub": true, "size": …}`. Further headers may
stand between events, so that parts of an export can be concatenated with `cat`: the events after each header begin
with its `first`, and those after the last one end with its `head`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from relay_tornado.errors import Invalid
from relay_tornado.log import rows
from relay_tornado.model import Event

FORMAT = 1
BEGINNING = b'{"relay_export":'
"""The first bytes of every export."""
LONGEST_LINE = 192 << 20
"""The most bytes of a line: the largest event that may be imported, in base64."""
ESCAPE = 6
"""The most bytes that JSON takes for one byte of a text: a control character is an escape, as `\\u0001`."""
LARGEST_SEQ = 1 << 62
"""The largest seq that may be imported, so that a log can continue after it."""
LARGEST_STUB = 1 << 40
"""The largest size of an ephemeral event that may be imported: no log of them is larger than SQLite can count."""

_FIELDS = msgspec.structs.fields(Event)
_BYTES = frozenset(field.name for field in _FIELDS if field.type is bytes)
_OPTIONAL = {field.name: field.default for field in _FIELDS if not field.required}
_NAMES = frozenset(field.name for field in _FIELDS)


class Header(msgspec.Struct, frozen=True):
    """The header of an export, or of a part of one: its bucket, and which events follow if it is complete."""

    relay_export: int
    bucket: Mapping[str, Any]
    """`id`, `name`, `description` and `retention`."""
    first: int
    head: int
    """The events `first` to `head` follow at least; none do if `head` is below `first`."""
    epochs: Sequence[Mapping[str, Any]]
    exported_at: float
    version: str


class Stub(msgspec.Struct, frozen=True):
    """An ephemeral event, whose content is gone."""

    seq: int
    epoch: str
    received_at: float
    input_id: str
    method: str
    size: int

    def event(self) -> Event:
        """The event without its content."""
        return Event(self.seq, self.epoch, self.received_at, self.input_id, self.method, b"", b"", b"", b"", "")


Item: TypeAlias = Event | Stub


def header_line(header: Header) -> bytes:
    return msgspec.json.encode(header) + b"\n"


def item_line(item: Item) -> bytes:
    return msgspec.json.encode(document(item)) + b"\n"


def document(item: Item) -> dict[str, Any]:
    """An event as JSON data."""
    if isinstance(item, Stub):
        return {**msgspec.structs.asdict(item), "stub": True}
    made: dict[str, Any] = {}
    for field in _FIELDS:
        name, value = field.name, getattr(item, field.name)
        if name in _BYTES:
            text = _text(value)
            if text is not None:
                made[name] = text
            else:
                made[f"{name}_base64"] = base64.b64encode(value).decode()
        elif name not in _OPTIONAL or value != _OPTIONAL[name]:
            made[name] = value
    made["crc"] = rows.checksum(item, rows.marks_of(item))
    return made


def _text(value: bytes) -> str | None:
    """The text that these bytes are; None if they are none, or many that are shorter in base64 than with escapes."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    if len(value) > LONGEST_LINE // ESCAPE and len(msgspec.json.encode(text)) > len(value) * 4 // 3:
        return None
    return text


def parse(line: bytes) -> Header | Item:
    """Parses a line. Raises Invalid."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"is no whole line of JSON ({error})") from None
    if isinstance(found, dict) and "relay_export" in found:
        return _header(found)
    return item(found)


def _header(found: dict[str, Any]) -> Header:
    if found["relay_export"] != FORMAT:
        raise Invalid(
            f"is an export of version {found['relay_export']!r}; this relay reads version {FORMAT}: use the relay that "
            "wrote it, or a newer one"
        )
    try:
        return msgspec.convert(found, Header)
    except msgspec.ValidationError as error:
        raise Invalid(f"is no header of an export ({error})") from None


def item(found: Any) -> Item:
    """The inverse of `document`. Raises Invalid."""
    if not isinstance(found, dict):
        raise Invalid("is no event: an object is expected")
    found = dict(found)
    crc = found.pop("crc", None)
    try:
        if found.pop("stub", False):
            made: Item = msgspec.convert(found, Stub)
        else:
            for name in _BYTES:
                found[name] = _bytes(found, name)
            unknown = found.keys() - _NAMES
            if unknown:
                raise Invalid(f"has fields that this relay does not know: {', '.join(sorted(unknown))[:200]}")
            made = msgspec.convert(found, Event)
    except msgspec.ValidationError as error:
        raise Invalid(f"is no event ({error})") from None
    if isinstance(made, Event) and crc is not None and crc != rows.checksum(made, rows.marks_of(made)):
        raise Invalid("holds another content than its crc says: the line was changed or damaged")
    if made.seq < 1:
        raise Invalid("has a seq below 1")
    number, most = (made.size, LARGEST_STUB) if isinstance(made, Stub) else (made.target or 0, LARGEST_SEQ)
    if made.seq > LARGEST_SEQ or not 0 <= number <= most:
        raise Invalid("has a number that no log has")
    return made


def _bytes(found: dict[str, Any], name: str) -> bytes:
    text, encoded = found.pop(name, None), found.pop(f"{name}_base64", None)
    if (text is None) == (encoded is None):
        raise Invalid(f"needs either {name} or {name}_base64")
    try:
        if text is not None:
            return bytes(text.encode())
        return base64.b64decode(encoded, validate=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise Invalid(f"has a {name} that can't be read ({error})") from None
