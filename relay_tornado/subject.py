"""What rules look at: one event's headers, query, payload and sender, each parsed when a rule first asks for it.

A value is returned as bytes of UTF-8 text, or as None if the event has no such part. If a name occurs several times,
the first one counts; in a JSON object the last one, as in JSON parsers. No content that a sender sends raises an error
here: what can't be read is None.

The payload is JSON if the body begins like an object or an array, whatever the Content-Type is (curl's default is
wrong). Otherwise it is a form of at most 1 MiB, if the Content-Type is application/x-www-form-urlencoded. JSON is
opened one level at a time, without building what is below it, so a level of a path costs about a microsecond a
kilobyte, and opened levels are kept. Three limits hold for hostile bodies. A level of more than 256 KiB is not turned
into objects: it is searched for one name at a time, which needs no memory. A path through more than ten such levels
leads to nothing. JSON that is nested deeper than a parser in
Python can go is not read: some 1,000 levels up to Python 3.13; from 3.14 on as many as fit on the stack, tens of
thousands in its usual 8 MiB.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw

from relay_tornado.model import Event, NewEvent
from relay_tornado.wire import headers

_FIELDS: Final = 1000
"""The most fields of a query or a form that are read."""

_FORM: Final = 1 << 20
"""Bytes of the largest form that is read, since a hostile one of that size takes 80 ms to decode."""

_OPENED: Final = 256 * 1024
"""Bytes of the largest JSON object or array that is turned into Python objects."""

_LARGE_LEVELS: Final = 10
"""The most levels above that size that a path leads through: each costs a search in all that is left of the body."""

_INDEX: Final = 999
"""The last element of an array that a path can name."""

_OBJECT: Final = ord("{")
_ARRAY: Final = ord("[")

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_Value: TypeAlias = Raw | bytes
"""Raw: a piece of JSON text. bytes: the text of a form's field."""


class Subject:
    """One event, parsed as far as rules asked for. It is shared by all rules that look at the event. `steps` is what
    searches may still cost, set by each document's rules."""

    __slots__ = ("_event", "_headers", "_levels", "_macs", "_query", "_values", "steps")

    def __init__(self, event: Event | NewEvent) -> None:
        self.steps = 0
        self._event = event
        self._headers: dict[bytes, bytes] | None = None
        self._query: _Fields | None = None
        self._levels: dict[str, _Level | None] = {}
        self._values: dict[str, bytes | None] = {}
        self._macs: dict[tuple[str, bytes], bytes] = {}

    def header(self, name: bytes) -> bytes | None:
        """A header's value; `name` is in lower case."""
        if self._headers is None:
            self._headers = {}
            for line_name, value in headers.parse(self._event.headers):
                self._headers.setdefault(line_name.lower(), value)
        found = self._headers.get(name)
        return None if found is None else _utf8(found)

    def query(self, name: str) -> bytes | None:
        """A query parameter's value, percent-decoded."""
        if self._query is None:
            self._query = _Fields(self._event.query)
        return self._query.get(name)

    def payload(self, name: str) -> bytes | None:
        """The value at a dotted path in the payload (`commits.0.author.name`), or for "" the whole body as received.

        In each object, the whole rest of the path is tried as a key before it is split at its first dot. A string is
        returned without its quotes and escapes, everything else (numbers, true, null, objects) as its JSON text. A path
        may lead into a form's field that holds JSON, as GitHub and Slack send it: `payload.repository.name`.
        """
        if not name:
            return self._event.body
        try:
            return self._values[name]
        except KeyError:
            value = self._values[name] = self._find(name)
            return value

    def mac(self, algorithm: str, secret: bytes) -> bytes:
        """The HMAC of the body; `algorithm` is a name for hashlib."""
        key = (algorithm, secret)
        digest = self._macs.get(key)
        if digest is None:
            digest = self._macs[key] = hmac.digest(secret, self._event.body, algorithm)
        return digest

    @property
    def remote(self) -> IPAddress | None:
        """The sender's address; an IPv4 address mapped into IPv6 is returned as IPv4."""
        try:
            address = ipaddress.ip_address(self._event.remote_ip)
        except ValueError:
            return None
        return getattr(address, "ipv4_mapped", None) or address

    def _find(self, name: str) -> bytes | None:
        at, rest = "", name
        level = self._level(at, None)
        large = 0
        while level is not None:
            large += isinstance(level, _Searched)
            if large > _LARGE_LEVELS:
                return None
            value = level.get(rest)
            if value is not None:
                return _text(value)
            head, _, rest = rest.partition(".")
            value = level.get(head)
            if value is None:
                return None
            at = f"{at}{head}."
            level = self._level(at, value)
        return None

    def _level(self, at: str, value: _Value | None) -> _Level | None:
        """The level at a path, whose value is `value`. The path is "" for the payload, and otherwise ends with a
        dot."""
        try:
            return self._levels[at]
        except KeyError:
            if value is None:
                level = self._payload()
            else:
                level = _parse(value) if isinstance(value, Raw) else _open(value)
            self._levels[at] = level
            return level

    def _payload(self) -> _Level | None:
        body = self._event.body
        level = _open(body)
        if level is None and len(body) <= _FORM:
            kind = (self.header(b"content-type") or b"").partition(b";")[0].strip().lower()
            if kind == b"application/x-www-form-urlencoded":
                return _Fields(body)
        return level


class _Level(Protocol):
    """An object, an array or a form, with values by name or index."""

    def get(self, key: str, /) -> _Value | None: ...


class _Fields:
    """A query or a form, `a=1&b=2`."""

    __slots__ = ("_values",)

    def __init__(self, raw: bytes) -> None:
        self._values: dict[bytes, bytes] = {}
        for field in raw.split(b"&", _FIELDS)[:_FIELDS]:
            name, _, value = field.partition(b"=")
            self._values.setdefault(_unquote(name), value)

    def get(self, key: str, /) -> bytes | None:
        value = self._values.get(key.encode())
        return None if value is None else _unquote(value)


class _Array:
    """A JSON array of moderate size."""

    __slots__ = ("_items",)

    def __init__(self, items: list[Raw]) -> None:
        self._items = items

    def get(self, key: str, /) -> Raw | None:
        index = _index(key)
        return None if index is None or index >= len(self._items) else self._items[index]


class _Searched:
    """A JSON object or array that is too large to be opened: a key is searched for by a parser that skips the rest."""

    __slots__ = ("_found", "_raw")

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._found: dict[str, Raw | None] = {}

    def get(self, key: str, /) -> Raw | None:
        try:
            return self._found[key]
        except KeyError:
            found = self._found[key] = self._search(key)
            return found

    def _search(self, key: str) -> Raw | None:
        try:
            if memoryview(self._raw)[0] == _OBJECT:
                decoder = _key_decoder(key)
            else:
                index = _index(key)
                if index is None:
                    return None
                decoder = _index_decoder(index)
            found: Raw | None = decoder.decode(self._raw).value
        except (ValueError, RecursionError):  # for example, msgspec refuses a key with a quote in it
            return None
        return found


_open_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_open_array: Final = msgspec.json.Decoder(list[Raw]).decode
_check: Final = msgspec.json.Decoder(Raw).decode
_string: Final = msgspec.json.Decoder(str).decode


@functools.lru_cache(maxsize=256)
def _key_decoder(key: str) -> msgspec.json.Decoder[Any]:
    found = msgspec.defstruct("Found", [("value", Raw, None)], rename={"value": key})
    return msgspec.json.Decoder(found)


@functools.lru_cache(maxsize=32)
def _index_decoder(index: int) -> msgspec.json.Decoder[Any]:
    passed = [(f"passed_{number}", Raw, None) for number in range(index)]
    found = msgspec.defstruct("Found", [*passed, ("value", Raw, None)], array_like=True)
    return msgspec.json.Decoder(found)


def _index(key: str) -> int | None:
    """A part of a path as an index; None if it is not one."""
    if not key.isascii() or not key.isdecimal() or len(key) > len(str(_INDEX)):
        return None
    return int(key)


_OPENING: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{]")

_LONE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Half of a surrogate pair, as JavaScript sends it for a text that was cut inside an emoji."""


def _open(body: bytes) -> _Level | None:
    """The top level of JSON text. Bytes that are not UTF-8, and halves of surrogate pairs, become U+FFFD."""
    opening = _OPENING.match(body)
    if not opening:
        return None
    body = body[opening.end() - 1 :]
    if not headers.is_utf8(body):
        body = body.decode(errors="replace").encode()
    try:
        return _parse(body)
    except RecursionError:
        return None
    except msgspec.DecodeError:
        if b"\\u" not in body or b"\0" in body:
            return None
    # With the escaped backslashes replaced, every \u begins an escape.
    body = _LONE.sub(rb"\\ufffd", body.replace(rb"\\", b"\0\0")).replace(b"\0\0", rb"\\")
    try:
        return _parse(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _parse(text: Raw | bytes) -> _Level | None:
    """The object or array in a JSON text; None if it is something else. Raw was checked before.

    Raises msgspec.DecodeError or RecursionError.
    """
    view = memoryview(text)
    if view[0] not in (_OBJECT, _ARRAY):
        return None
    if view.nbytes > _OPENED:
        return _Searched(text if isinstance(text, Raw) else _check(text))
    return _open_object(text) if view[0] == _OBJECT else _Array(_open_array(text))


def _text(value: _Value) -> bytes:
    if not isinstance(value, Raw):
        return value
    text = bytes(value)
    if text[:1] != b'"':
        return text
    return text[1:-1] if b"\\" not in text else _string(text).encode()


def _unquote(raw: bytes) -> bytes:
    """The text of a name or value in a query or a form."""
    return _utf8(unquote_to_bytes(raw.replace(b"+", b" ")))


def _utf8(raw: bytes) -> bytes:
    """Bytes that are not UTF-8 are taken as Latin-1, as in frames."""
    return raw if headers.is_utf8(raw) else raw.decode("latin-1").encode()
