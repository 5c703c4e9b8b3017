"""The JSON forms of buckets, inputs and tokens: what goes out, and marshmallow schemas for what comes in.

They are those of Webhook Relay's REST interface (times in unix seconds, whole), with `retention`, `dedupe` and
`max_body` added. The control socket and the commands speak the same forms. A schema judges shape, type and range of
each field by itself; what fields mean together is judged by `relay_tornado.admin`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from relay_tornado.errors import Invalid
from relay_tornado.model import DAY, Bucket, BucketAuth, Dedupe, Input, Retention, Token

Document: TypeAlias = dict[str, Any]
"""A JSON object."""

MAX_BODY_TEXT = 250_000
"""Bytes of an input's static body."""
MAX_SECONDS = 36_500 * DAY
MAX_TIME = 253_402_300_799  # the last second of the year 9999
MAX_COUNT = 2**53 - 1  # the largest integer that every JSON reader keeps exact


def bucket_document(bucket: Bucket) -> Document:
    """A bucket with its inputs, for an administrator: the secrets that its senders need are in `auth`."""
    return {
        "id": bucket.id,
        "name": bucket.name,
        "description": bucket.description,
        "account_id": "",
        "created_at": int(bucket.created_at),
        "updated_at": int(bucket.updated_at),
        "stream": bucket.stream,
        "ephemeral": False,
        "suspended": False,
        "static_ip": False,
        "large_webhooks": bucket.large_webhooks,
        "auth": _auth_document(bucket.auth),
        "inputs": [input_document(bucket.id, each) for each in bucket.inputs],
        "outputs": [],
        "retention": _retention_document(bucket.retention),
        "dedupe": _dedupe_document(bucket.dedupe),
        "max_body": bucket.max_body,
    }


def input_document(bucket_id: str, value: Input) -> Document:
    """An input of the bucket with this id."""
    return {
        "id": value.id,
        "name": value.name,
        "description": value.description,
        "bucket_id": bucket_id,
        "function_id": "",
        "status_code": value.status_code,
        "body": value.body,
        "headers": {name: list(values) for name, values in value.headers.items()},
        "custom_domain": "",
        "path_prefix": "",
        "strip_path_prefix": False,
        "response_from_output": "",
        "created_at": int(value.created_at),
        "updated_at": int(value.updated_at),
    }


def token_document(token: Token) -> Document:
    """A token for a listing: neither its secret, which nobody has any more, nor the secret's hash.

    `scopes.buckets` holds ids; an empty list is every bucket. `expires_at` is null where it does not expire.
    """
    return {
        "id": token.key,
        "key": token.key,
        "description": token.description,
        "scopes": {"buckets": sorted(token.buckets or ()), "tunnels": []},
        "api_access": "enabled" if token.api_access else "disabled",
        "created_at": int(token.created_at),
        "expires_at": None if token.expires_at is None else int(token.expires_at),
    }


def _auth_document(auth: BucketAuth) -> Document:
    return {"type": auth.type, "username": auth.username, "password": auth.password, "token": auth.token}


def _retention_document(keep: Retention) -> Document:
    max_age = None if keep.max_age is None else _whole(keep.max_age)
    return {"max_age": max_age, "max_events": keep.max_events, "max_bytes": keep.max_bytes}


def _dedupe_document(dedupe: Dedupe | None) -> Document | None:
    return None if dedupe is None else {"header": dedupe.header, "window": _whole(dedupe.window)}


def _whole(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


class Flag(fields.Boolean):
    """true or false, and nothing that merely looks like it."""

    default_error_messages = {"invalid": "must be true or false."}  # noqa: RUF012  # marshmallow's own form

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Whole(fields.Integer):
    """A JSON integer from `least` to `most`."""

    def __init__(self, least: int, most: int = MAX_COUNT, **kwargs: Any) -> None:
        message = f"must be a whole number from {least} to {most}."
        limits = validate.Range(min=least, max=most, error=message)
        super().__init__(strict=True, validate=limits, error_messages={"invalid": message}, **kwargs)


class Seconds(fields.Float):
    """A JSON number of seconds, above 0 and at most `most`."""

    def __init__(self, most: float = MAX_SECONDS, **kwargs: Any) -> None:
        message = f"must be a number of seconds above 0 and at most {most:.0f}."
        limits = validate.Range(min=0, min_inclusive=False, max=most, error=message)
        super().__init__(validate=limits, error_messages={"invalid": message, "special": message}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


_NOT_TEXT = re.compile("[\ud800-\udfff]")
_NOT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_LINE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Text(fields.String):
    """A string of at most `most` characters that can be stored and shown: no control characters.

    `lines` allows line ends and tabs, `raw` any character but half a surrogate pair.
    """

    default_error_messages = {"invalid": "must be a string."}  # noqa: RUF012  # marshmallow's own form

    def __init__(self, most: int, *, lines: bool = False, raw: bool = False, **kwargs: Any) -> None:
        self._refused = _NOT_TEXT if raw else _NOT_LINES if lines else _NOT_LINE
        too_long = validate.Length(max=most, error=f"must have at most {most} characters.")
        super().__init__(validate=[too_long, self._check], **kwargs)

    def _check(self, value: str) -> None:
        found = self._refused.search(value)
        if found is not None:
            raise ValidationError(f"must not hold the character U+{ord(found[0]):04X}.")


class AuthFields(Schema):
    """`auth` of a bucket."""

    type = fields.String(
        validate=validate.OneOf(["none", "basic", "token"], error="must be none, basic or token."),
        error_messages={"invalid": "must be none, basic or token."},
    )
    username = Text(1_000)
    password = Text(1_000)
    token = Text(4_000)


class RetentionFields(Schema):
    """`retention` of a bucket; null is no limit."""

    max_age = Seconds(allow_none=True)
    max_events = Whole(1, allow_none=True)
    max_bytes = Whole(1, allow_none=True)


class DedupeFields(Schema):
    """`dedupe` of a bucket."""

    header = Text(200)
    window = Seconds(366 * DAY)


class BucketFields(Schema):
    """What can be set of a bucket. What is left out stays as it is, in the nested parts, too."""

    name = Text(1_000)
    description = Text(4_000, lines=True)
    stream = Flag()
    large_webhooks = Flag()
    max_body = Whole(1, allow_none=True)
    auth = fields.Nested(AuthFields)
    retention = fields.Nested(RetentionFields)
    dedupe = fields.Nested(DedupeFields, allow_none=True)


class _HeaderValues(fields.Field[list[str]]):
    """One value, or a list of values."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ValidationError("must be a string or a list of strings.")
        return list(values)


class InputFields(Schema):
    """What can be set of an input."""

    name = Text(100)
    description = Text(4_000, lines=True)
    status_code = Whole(200, 599)
    body = Text(MAX_BODY_TEXT, raw=True)
    headers = fields.Dict(keys=fields.String(), values=_HeaderValues())


class TokenFields(Schema):
    """What can be said of a new token; `buckets` holds names or ids, null (or nothing) is every bucket."""

    description = Text(4_000, lines=True)
    buckets = fields.List(Text(1_000), allow_none=True)
    api_access = Flag()
    expires_at = fields.Float(
        allow_none=True,
        validate=validate.Range(max=MAX_TIME, error="must be a unix time before the year 10000."),
        error_messages={"invalid": "must be a time in unix seconds.", "special": "must be a time in unix seconds."},
    )


def load(schema: Schema, document: Mapping[str, Any]) -> Document:
    """The document as the schema reads it. Raises Invalid, naming the first field that does not fit; a field that
    the schema does not know does not fit either."""
    try:
        loaded: Document = schema.load(document, unknown=RAISE)
    except ValidationError as error:
        field, message = _first(error.messages)
        raise Invalid(f"{field}: {message}" if field else message, field) from None
    return loaded


def _first(messages: Any, path: str = "") -> tuple[str, str]:
    while isinstance(messages, dict):
        key, messages = next(iter(messages.items()))
        # Of a mapping marshmallow says whether it is about the key or the value; the path says enough.
        if key != "_schema" and not (path and key in ("key", "value")):
            path = f"{path}.{key}" if path else str(key)
    message = str(messages[0]) if isinstance(messages, list) else str(messages)
    return path, _WORDS.get(message, message[:1].lower() + message[1:])


_WORDS = {
    "Unknown field.": "there is no such field here.",
    "Field may not be null.": "must not be null.",
    "Missing data for required field.": "is missing.",
    "Invalid input type.": "must be a JSON object.",
}
