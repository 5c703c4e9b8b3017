"""The JSON forms of buckets, inputs, outputs and tokens: documents for responses, marshmallow schemas for requests.

They are those of Webhook Relay's REST interface (times in whole unix seconds), extended by `retention`, `dedupe`,
`rate_limit`, `max_body` and `verify`. The control socket and the commands use the same forms. Fields that the relay
does not know are stored and echoed. A schema checks the shape, type and range of each field; how fields relate is
checked by `relay_tornado.admin`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from relay_tornado.model import DAY, Bucket, Dedupe, Input, Output, RateLimit, Retention, Token, to_document
from relay_tornado.wire.fields import (
    Anything,
    Choice,
    Document,
    Flag,
    Form,
    Headers,
    Number,
    Seconds,
    StockFields,
    Text,
    Whole,
)

MAX_BODY_TEXT = 250_000
"""Maximum size of an input's static body, in bytes."""
MAX_TIME = 253_402_300_799  # the last second of the year 9999
MAX_NAME = 2_100
"""Maximum length of the name of an input or output. The original's agent names an output after its destination, and its
input `ingress for` that."""
MAX_TIMEOUT = 180
"""In whole seconds, since clients in Go can't read fractions."""
MAX_RETRIES = 1_000
MOST_AT_ONCE = 100
"""Maximum number of requests in flight to an output's destination."""


def bucket_document(bucket: Bucket) -> Document:
    """A bucket with its inputs and outputs, including secrets: for an administrator."""
    return {
        **to_document(bucket.extra),
        "id": bucket.id,
        "name": bucket.name,
        "description": bucket.description,
        "account_id": "",
        "created_at": int(bucket.created_at),
        "updated_at": int(bucket.updated_at),
        "stream": bucket.stream,
        "ephemeral": bucket.ephemeral,
        "suspended": False,
        "static_ip": bool(bucket.extra.get("static_ip", False)),
        "large_webhooks": bucket.large_webhooks,
        "auth": to_document(bucket.auth),
        "inputs": [input_document(bucket.id, each) for each in bucket.inputs],
        "outputs": [output_document(bucket.id, each) for each in bucket.outputs],
        "retention": _part(bucket.retention),
        "dedupe": _part(bucket.dedupe),
        "rate_limit": _part(bucket.rate_limit),
        "max_body": bucket.max_body,
        "expires_at": None if bucket.expires_at is None else int(bucket.expires_at),
    }


def input_document(bucket_id: str, value: Input) -> Document:
    """An input of the bucket with this id, with the secrets of its `verify`."""
    return {
        **to_document(value.extra),
        "id": value.id,
        "name": value.name,
        "description": value.description,
        "bucket_id": bucket_id,
        "function_id": value.function_id,
        "status_code": value.status_code,
        "body": value.body,
        "headers": to_document(value.headers),
        "custom_domain": value.custom_domain,
        "path_prefix": value.path_prefix,
        "strip_path_prefix": value.strip_path_prefix,
        "response_from_output": value.response_from_output,
        "verify": to_document(value.verify),
        "rate_limit": _part(value.rate_limit),
        "created_at": int(value.created_at),
        "updated_at": int(value.updated_at),
    }


def output_document(bucket_id: str, value: Output) -> Document:
    """An output of the bucket with this id. `rules`, `throttle` and `durability` are null if not set."""
    return {
        **to_document(value.extra),
        "id": value.id,
        "name": value.name,
        "description": value.description,
        "bucket_id": bucket_id,
        "number": value.n,
        "destination": value.destination,
        "internal": value.internal,
        "disabled": value.disabled,
        "lock_path": value.lock_path,
        "timeout": math.ceil(value.timeout),
        "retries": value.retries,
        "tls_verification": value.tls_verification,
        "headers": to_document(value.headers),
        "rules": to_document(value.rules),
        "function_id": value.function_id,
        "throttle": to_document(value.throttle),
        "durability": to_document(value.durability),
        "strict_order": value.strict_order,
        "secret": value.secret,
        "paused": value.paused,
        "disabled_reason": value.disabled_reason,
        "created_at": int(value.created_at),
        "updated_at": int(value.updated_at),
    }


def token_document(token: Token, last_used_at: int | None = None) -> Document:
    """A token for a listing, without its secret, which is not stored, and without the secret's hash.

    `scopes.buckets` holds ids; an empty list means every bucket. `expires_at` is null if the token does not expire,
    `last_used_at` (unix seconds) if it was never used. `updated_at`, `last_login` and `active` are there for stock
    clients: the relay does not record when a token was changed.
    """
    return {
        "id": token.key,
        "key": token.key,
        "description": token.description,
        "scopes": {"buckets": sorted(token.buckets or ()), "tunnels": list(token.tunnels)},
        "api_access": "enabled" if token.api_access else "disabled",
        "durable": token.durable,
        "created_at": int(token.created_at),
        "updated_at": int(token.created_at),
        "expires_at": None if token.expires_at is None else int(token.expires_at),
        "last_used_at": last_used_at,
        "last_login": "" if last_used_at is None else datetime.fromtimestamp(last_used_at, UTC).isoformat(),
        "active": True,
    }


def deleted_document(id: str) -> Document:
    """The answer to a deletion."""
    return {"id": id, "status": "deleted"}


def _part(value: Retention | Dedupe | RateLimit | None) -> Document | None:
    """A part of a record; seconds are integers if whole."""
    document: Document | None = to_document(value)
    return document and {name: whole(each) if isinstance(each, float) else each for name, each in document.items()}


def whole(seconds: float) -> float:
    """The same number, as an integer if it is whole."""
    return int(seconds) if seconds == int(seconds) else seconds


class _StatusCode(Whole):
    """A status code; 0, which clients send for no particular one, becomes 200."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        number = super()._deserialize(value, attr, data, **kwargs)
        return 200 if number == 0 else int(number)


class AuthFields(StockFields):
    """`auth` of a bucket. Its parts are set together, so null for one of them would be ambiguous."""

    OURS = frozenset({"type", "username", "password", "token"})
    ECHOED = frozenset({"id", "created_at", "updated_at"})

    type = Choice("", "none", "basic", "token")
    username = Text(1_000)
    password = Text(1_000)
    token = Text(4_000)


class RetentionFields(Schema):
    """`retention` of a bucket; null is no limit."""

    max_age = Seconds(allow_none=True)
    max_events = Whole(1, allow_none=True)
    max_bytes = Whole(1, allow_none=True)
    wait_for_consumers = Flag()
    hard_max_bytes = Whole(1, allow_none=True)


class DedupeFields(Schema):
    """`dedupe` of a bucket."""

    header = Text(200)
    window = Seconds(366 * DAY)


class RateLimitFields(Schema):
    """`rate_limit` of a bucket or an input."""

    events = Whole(1, 1_000_000)
    interval = Seconds(DAY)


def moment() -> Number:
    """A unix time, or null."""
    return Number("must be a time in unix seconds, before the year 10000.", 0, MAX_TIME, allow_none=True)


class BucketFields(StockFields):
    """The fields of a bucket that can be set. A field left out stays unchanged, in nested parts, too. Inputs and
    outputs have forms of their own."""

    OURS = frozenset({"retention"})
    ECHOED = frozenset({"id", "account_id", "created_at", "updated_at", "suspended", "inputs", "outputs"})

    name = Text(1_000)
    description = Text(4_000, lines=True)
    stream = Flag()
    ephemeral = Flag()
    large_webhooks = Flag()
    max_body = Whole(1, allow_none=True)
    auth = fields.Nested(AuthFields)
    retention = fields.Nested(RetentionFields)
    dedupe = fields.Nested(DedupeFields, allow_none=True)
    rate_limit = fields.Nested(RateLimitFields, allow_none=True)
    expires_at = moment()


class VerifyFields(Schema):
    """`verify` of an input."""

    provider = Text(100)
    secrets = fields.List(Text(1_100))
    on_failure = Choice("reject", "mark")


class InputFields(StockFields):
    """The fields of an input that can be set; `id` only of a new one."""

    ECHOED = frozenset({"bucket_id", "account_id", "created_at", "updated_at"})

    id = Text(1_000)
    name = Text(MAX_NAME)
    description = Text(4_000, lines=True)
    status_code = _StatusCode(200, 599)
    body = Text(MAX_BODY_TEXT, raw=True)
    headers = Headers()
    function_id = Text(1_000)
    custom_domain = Text(1_000)
    path_prefix = Text(1_000)
    strip_path_prefix = Flag()
    response_from_output = Text(1_000)
    verify = fields.Nested(VerifyFields, allow_none=True)
    rate_limit = fields.Nested(RateLimitFields, allow_none=True)


class ThrottleFields(Schema):
    """`throttle` of an output."""

    enabled = Flag()
    mode = Choice("", "rate", "concurrency")
    rate = Whole(0)
    interval = Choice("", "second", "minute", "hour")
    max_concurrent = Whole(0)
    max_queue_depth = Whole(0)
    deadline = Whole(0)


class DurabilityFields(Schema):
    """`durability` of an output; durations are whole nanoseconds."""

    enabled = Flag()
    schedule = Choice("", "seconds", "medium", "long", "custom")
    custom_delays = fields.List(Whole(0), allow_none=True, validate=validate.Length(max=100))
    deadline = Whole(0)


class OutputFields(StockFields):
    """The fields of an output that can be set."""

    OURS = frozenset({"strict_order", "secret", "paused"})
    ECHOED = frozenset({"id", "bucket_id", "account_id", "created_at", "updated_at", "number", "disabled_reason"})

    name = Text(MAX_NAME)
    description = Text(4_000, lines=True)
    destination = Text(4_000)
    internal = Flag()
    disabled = Flag()
    lock_path = Flag()
    timeout = Whole(0, MAX_TIMEOUT)
    retries = Whole(-1, MAX_RETRIES)
    tls_verification = Flag()
    headers = Headers()
    rules = Anything(allow_none=True)
    function_id = Text(1_000)
    throttle = Form(ThrottleFields())
    durability = Form(DurabilityFields())
    strict_order = Flag()
    secret = Text(1_100)
    paused = Flag()


class TokenFields(Schema):
    """The fields of a new token; `buckets` holds names or ids, null or none meaning every bucket. `tunnels` is only
    stored and shown."""

    description = Text(4_000, lines=True)
    buckets = fields.List(Text(1_000), allow_none=True)
    tunnels = fields.List(Text(1_000), validate=validate.Length(max=1_000, error="must have at most 1000 entries."))
    api_access = Flag()
    durable = Flag()
    expires_at = moment()
