"""Control messages from WebSocket clients, read leniently for stock clients and strictly for the relay's extensions.

`parse` never raises. The rules are those of "Client to server" in docs/protocol.md.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate

from relay_tornado.errors import Invalid
from relay_tornado.ids import parse_id
from relay_tornado.model import Cursor, Earliest, Last, Latest, Position, Since
from relay_tornado.wire.acks import Ack, Nak, read_ack, read_id, read_nak
from relay_tornado.wire.fields import Number, Whole, header_texts, replace_halves

Positions: TypeAlias = Position | Mapping[str, Position]
"""A position for every bucket, or a map from a bucket's name or id to its position, with "*" for the others."""


IN_FLIGHT: Final = 256
"""The default of `max_in_flight`."""


@dataclass(frozen=True, slots=True)
class Auth:
    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """`buckets` holds names or ids as requested; empty means every bucket that the token may read."""

    buckets: tuple[str, ...] = ()
    since: Positions | None = None
    on_gap: Literal["resume", "fail"] = "resume"
    max_body: int | None = None
    filter: Any = None
    """The document of the rules that events have to pass, not checked here; None is no filter."""
    outputs: Literal["all", "none"] = "all"
    """With "none", each event is sent once, whatever outputs its bucket has."""
    consumer: str | None = None
    """The name of the consumer that keeps the position in each bucket; None if none was named."""
    ack: Literal["explicit", "receipt"] = "explicit"
    """What moves that consumer forward."""
    max_in_flight: int = IN_FLIGHT
    """The limit of unacknowledged events on this connection."""
    ack_wait: float | None = None
    """Seconds after which an unacknowledged event is redelivered; None leaves the consumer's setting."""
    max_deliver: int | None = None
    """The number of attempts after which an event is given up, 0 for no limit; None leaves the consumer's setting."""

    def position(self, bucket_id: str, name: str) -> Position | None:
        """The position requested for this bucket, or None."""
        if not isinstance(self.since, Mapping):
            return self.since
        for key in (bucket_id, name, "*"):
            if key in self.since:
                return self.since[key]
        return None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """`buckets` as in `Subscribe`."""

    buckets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Respond:
    """A client's answer to the event or copy with this id; `status` is 200 to 599, or 0 if there was none."""

    id: Cursor
    status: int
    headers: Mapping[str, tuple[str, ...]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    pass


Message: TypeAlias = Auth | Subscribe | Unsubscribe | Respond | Ack | Nak | Pong


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message is rejected: code and text of an error frame. `field` is the part at fault, "" for the whole."""

    code: Literal["invalid", "unknown_action"]
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A client's message. `extended`: it uses the relay's extensions. `action` is "" if there is none."""

    action: str
    extended: bool
    content: Message | Problem


_POSITION: Final = 'write "latest", "earliest", an event id like k3v9x1q7m2ab-42, {"last": 10} or {"time": 1700000000}'
_OR_BUCKETS: Final = ", or an object from bucket to one of these"
_EXPLICIT: Final = ("max_in_flight", "ack_wait", "max_deliver")
"""Fields that apply only to explicit acks."""
_CONSUMERS: Final = ("ack", *_EXPLICIT)
"""Fields that apply only to a consumer."""
_OURS: Final = ("since", "on_gap", "consumer", *_CONSUMERS, "filter", "max_body", "outputs")
"""Fields of a subscribe that are extensions of this relay."""
_ADDED: Final = frozenset({"unsubscribe", "respond", "ack", "nak"})
"""Actions that are extensions of this relay."""
_KEYS: Final = frozenset(
    {"action", "extended", "key", "secret", "buckets", "id", "all", "delay", "status", "headers", "body", "body_base64"}
).union(_OURS)
_CAPITALS: Final = {written(key): key for written in (str.capitalize, str.upper) for key in _KEYS}
"""Other ways to write a key. The original, in Go, ignores case, so its clients may write these. No others are read, so
that a key can be found in a message's text."""

_decode: Final = json.JSONDecoder().decode
"""json.loads without its options, a little faster: there is a message for each ack."""

MAX_NAMES: Final = 1_000
"""Maximum number of names in `buckets`: nothing else runs while a message is read."""
MAX_POSITIONS: Final = 10_000
"""Maximum number of positions in `since`: a client of every bucket that reconnects sends one for each."""

MAX_CONSUMER: Final = 100
"""Maximum length of a consumer's name, in characters."""
MAX_IN_FLIGHT: Final = 10_000
MAX_DELIVER: Final = 1_000
MAX_ACK_WAIT: Final = 86_400
"""A day, in seconds."""


class _SincePosition(fields.Field[Positions]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Positions:
        if value == []:  # what PHP writes for an empty object
            return {}
        if isinstance(value, dict) and not _names_position(value):
            return {key: _position(item, f"{attr}.{key[:80]}") for key, item in value.items()}
        return _position(value, str(attr))


class _Lenient(Schema):
    class Meta:
        unknown = EXCLUDE


class _Names(_Lenient):
    """A field that is null counts as left out."""

    buckets = fields.List(
        fields.String(error_messages=dict.fromkeys(("invalid", "null"), "write a bucket's name or id in quotes")),
        error_messages={"invalid": "write a list of bucket names or ids, [] for every bucket"},
    )

    @pre_load
    def _said(self, document: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in document.items() if value is not None}


def _one_of(choices: Sequence[str], words: str) -> fields.String:
    return fields.String(validate=validate.OneOf(choices, error=words), error_messages={"invalid": words})


class _Subscribe(_Names):
    since = _SincePosition()
    on_gap = _one_of(("resume", "fail"), 'write "resume" or "fail"')
    max_body = Whole(0, 2**63 - 1, said="write a whole number of bytes, 0 or more, like 1000000")
    filter = fields.Raw()
    outputs = _one_of(("none",), 'write "none", or leave it out')
    consumer = fields.String(error_messages={"invalid": "write the consumer's name in quotes"})
    ack = _one_of(("explicit", "receipt"), 'write "explicit" or "receipt"')
    max_in_flight = Whole(1, MAX_IN_FLIGHT, said=f"write a whole number of events from 1 to {MAX_IN_FLIGHT}")
    ack_wait = Number(f"write a number of seconds from 1 to {MAX_ACK_WAIT}", 1, MAX_ACK_WAIT)
    max_deliver = Whole(
        0, MAX_DELIVER, said=f"write a whole number of tries from 1 to {MAX_DELIVER}, or 0: without end"
    )


class _Headers(fields.Field[Mapping[str, tuple[str, ...]]]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Mapping[str, tuple[str, ...]]:
        if value == []:  # what PHP writes for an empty object
            return {}
        if not isinstance(value, dict):
            raise ValidationError('write an object, like {"Content-Type": "text/plain"}')
        headers = {}
        for name, values in value.items():
            texts = header_texts(values)
            each = texts if isinstance(texts, list) else [] if texts is None else [texts]
            if not all(isinstance(one, str) for one in each):
                raise ValidationError(f"{attr}.{name[:80]}: write a text, or a list of texts")
            headers[name] = tuple(each)
        return headers


_STATUS: Final = "write 200 to 599, or 0 where there was no answer"


class _Respond(_Lenient):
    id = fields.String(
        required=True,
        error_messages=dict.fromkeys(("required", "null", "invalid"), "write the meta.id of the event, in quotes"),
    )
    status = Whole(0, 599, said=_STATUS, load_default=200)
    headers = _Headers(load_default=None, allow_none=True)
    body = fields.String(load_default=None, allow_none=True, error_messages={"invalid": "write a text"})
    body_base64 = fields.String(load_default=None, allow_none=True, error_messages={"invalid": "write a text"})


_NAMES = _Names()
_SUBSCRIBE = _Subscribe()
_RESPOND = _Respond()


def parse(message: str | bytes) -> Incoming:
    """Reads one message: text, or bytes, which some clients send as binary. A message that is rejected comes as a
    `Problem`; nothing is raised."""
    try:
        text = message if isinstance(message, str) else message.decode()
        document = _decode(text.removeprefix("\ufeff"))
        if isinstance(document, dict) and not _KEYS.issuperset(document):
            document = {**{_CAPITALS.get(key, key): value for key, value in document.items()}, **document}
        if "\\u" in text:
            document = _without_halves(document)
    except (ValueError, RecursionError):
        return Incoming("", False, Problem("invalid", "the message is no JSON: send one JSON object a message"))
    if not isinstance(document, dict):
        return Incoming("", False, Problem("invalid", 'the message is no JSON object: send {"action": …}'))
    action = document.get("action")
    extended = document.get("extended") is True
    if not isinstance(action, str):
        return Incoming("", extended, Problem("invalid", "action: write the name of an action, in quotes"))
    if action in _ADDED or (action == "subscribe" and any(key in document for key in _OURS)):
        extended = True
    try:
        return Incoming(action, extended, _content(action, document))
    except Invalid as error:
        return Incoming(action, extended, Problem("invalid", str(error), error.field))


def _without_halves(document: Any) -> Any:
    """The same document. An answer may have been cut within a character: in it, half a surrogate pair becomes U+FFFD.
    Elsewhere, where it can't be sent back and is in nobody's name, it raises UnicodeEncodeError."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        if not isinstance(document, dict) or document.get("action") != "respond":
            raise
        return json.loads(replace_halves(text))
    return document


def _content(action: str, document: dict[str, Any]) -> Message | Problem:
    """Raises Invalid, which names the field and says what to write instead."""
    match action:
        case "ack":
            return read_ack(document)
        case "nak":
            return read_nak(document)
        case "auth":
            return _auth(document)
        case "subscribe":
            return _subscribe(document)
        case "unsubscribe":
            _check_number(document)
            return Unsubscribe(_named(_load(_NAMES, document)))
        case "respond":
            return _respond(document)
        case "pong":
            return Pong()
    known = "auth, subscribe, unsubscribe, ack, nak, respond and pong"
    return Problem("unknown_action", f"action: {action[:80]!r} is none of {known}")


def _auth(document: dict[str, Any]) -> Auth:
    # A value that is not a string is treated as a wrong key or secret.
    given = (document.get("key"), document.get("secret"))
    return Auth(*(each if isinstance(each, str) else "" for each in given))


def _subscribe(document: dict[str, Any]) -> Subscribe:
    _check_number(document)
    loaded = _load(_SUBSCRIBE, document)
    _check_consumer(loaded)
    return Subscribe(**{**loaded, "buckets": _named(loaded)})


def _check_consumer(loaded: dict[str, Any]) -> None:
    """Raises Invalid if a subscribe's consumer has an invalid name, or options that do not apply."""
    name = loaded.get("consumer")
    if name is None:
        for key in _CONSUMERS:
            if key in loaded:
                raise Invalid('only a consumer has it; name one, like "consumer": "worker"', key)
        return
    if not 1 <= len(name) <= MAX_CONSUMER:
        raise Invalid(f"write a name of 1 to {MAX_CONSUMER} characters", "consumer")
    if not name.isprintable() or "/" in name or name != name.strip():
        raise Invalid('write a name of printable characters, without "/" and without a space at either end', "consumer")
    if name in (".", ".."):
        raise Invalid(f'"{name}" is removed from URLs by clients: choose another name', "consumer")
    if loaded.get("ack") == "receipt":
        for key in _EXPLICIT:
            if key in loaded:
                raise Invalid('nobody acks with "ack": "receipt"; leave it out', key)


def _check_number(document: dict[str, Any]) -> None:
    """Raises Invalid if too many buckets or positions are named."""
    for key, most, instead in (
        ("buckets", MAX_NAMES, "for every bucket, leave buckets out"),
        ("since", MAX_POSITIONS, '"*" is the position of every bucket that is not named'),
    ):
        value = document.get(key)
        if isinstance(value, list | dict) and len(value) > most:
            raise Invalid(f"at most {most} are read here; {instead}", key)


def _respond(document: dict[str, Any]) -> Respond:
    # By REST's name. Left out, it would be 200, whatever the application answered.
    loaded = _load(_RESPOND, {"status": document["status_code"], **document} if "status_code" in document else document)
    if 0 < loaded["status"] < 200:
        raise Invalid(_STATUS, "status")
    cursor = read_id(loaded["id"])
    body = (loaded["body"] or "").encode()
    if loaded["body_base64"] is not None:
        if body:
            raise Invalid("write either body or body_base64", "body_base64")
        try:
            body = base64.b64decode(loaded["body_base64"], validate=True)
        except ValueError:
            raise Invalid("this is no base64", "body_base64") from None
    return Respond(cursor, loaded["status"], loaded["headers"] or {}, body)


def _named(loaded: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in loaded.get("buckets", ()) if name)


def _names_position(value: dict[str, Any]) -> bool:
    """Whether an object is one position, not a map: its only key is `last` or `time`, with a number."""
    return len(value) == 1 and any(_is_number(value.get(key)) for key in ("last", "time"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_position(value: Any, where: str) -> Position:
    """One position, in the form of a subscribe's `since`. Raises Invalid, naming the field `where`."""
    try:
        return _position(value, where)
    except ValidationError as error:
        raise Invalid(str(error.messages[0]), where, named=True) from None


def _position(value: Any, where: str) -> Position:
    """One position. Raises ValidationError, whose message begins with `where`."""
    forms = _POSITION + (_OR_BUCKETS if where == "since" else "")
    match value:
        case "latest":
            return Latest()
        case "earliest":
            return Earliest()
        case str():
            try:
                return parse_id(value)
            except Invalid:
                raise ValidationError(f"{where}: {value[:80]!r} is no position; {forms}") from None
        case {"last": count} if len(value) == 1 and _is_number(count):
            if count < 0 or (isinstance(count, float) and not count.is_integer()):
                raise ValidationError(f"{where}.last: write a whole number of events, 0 or more")
            return Last(int(count))
        case {"time": time} if len(value) == 1 and _is_number(time):
            return Since(_time(time, f"{where}.time"))
    raise ValidationError(f"{where}: {forms}")


def _time(value: float, where: str) -> float:
    try:
        time = float(value)
    except OverflowError:
        time = math.inf
    if not math.isfinite(time):
        raise ValidationError(f"{where}: write unix seconds, like 1700000000")
    return time


def _load(schema: Schema, document: dict[str, Any]) -> dict[str, Any]:
    """The document as read by the schema. Raises Invalid for the first error, with the field's name and what to write
    instead."""
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        path: list[str] = []
        found: Any = error.messages
        while isinstance(found, dict):
            key, found = next(iter(found.items()))
            path.append(f"[{key}]" if isinstance(key, int) else str(key))
        field, text = "".join(path), str(found[0] if isinstance(found, list) else found)
        # The text about a position already names the exact place within the field.
        raise Invalid(text, field, named=text.startswith((f"{field}:", f"{field}."))) from None
    return loaded
