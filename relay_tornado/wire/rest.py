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

from marshmallow import Schema, fields

from relay_tornado.model import DAY, MAX_TIME, Bucket, Dedupe, Input, Output, RateLimit, Retention, Token, to_document
from relay_tornado.wire.fields import (
    Anything,
    Choice,
    Document,
    Few,
    Flag,
    Form,
    Headers,
    Number,
    Seconds,
    StockFields,
    Text,
    TextOrBytes,
    Whole,
    described,
)
from relay_tornado.wire.place import as_given

MAX_BODY_TEXT = 250_000
"""Maximum size of an input's static body, in bytes."""
MAX_NAME = 2_100
"""Maximum length of the name of an input or output. The original's agent names an output after its destination, and its
input `ingress for` that."""
MAX_TIMEOUT = 180
"""In whole seconds, since clients in Go can't read fractions."""
MAX_RETRIES = 1_000
MOST_AT_ONCE = 100
"""Maximum number of requests in flight to an output's destination."""

_HIDDEN = "Empty in an answer, unless the request has an administrator's token."


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
        "static_ip": bucket.extra.get("static_ip", False),
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
        **as_given(value),
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
    `last_used_at` (unix seconds) if it was never used. `name`, `updated_at`, `last_login` and `active` are there for
    stock clients: the relay does not record when a token was changed.
    """
    return {
        "id": token.key,
        "key": token.key,
        "description": token.description,
        "name": token.description,
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
    """`auth` of a bucket. Null for the type is refused: it could mean "none", and open the bucket to every sender."""

    OURS = frozenset({"type"})
    ECHOED = frozenset({"id", "created_at", "updated_at"})

    type = Choice(
        "",
        "none",
        "basic",
        "token",
        metadata=described(
            "What senders must send: nothing (`none`, the default), user name and password (`basic`), or "
            "`Authorization: Bearer` with the token (`token`)."
        ),
    )
    username = Text(1_000, metadata=described("For `basic`: without `:`."))
    password = Text(1_000, metadata=described(f"For `basic`. {_HIDDEN}"))
    token = Text(
        4_000,
        metadata=described(f"For `token`: printable ASCII without spaces. {_HIDDEN}"),
    )


class RetentionFields(Schema):
    """`retention` of a bucket; null is no limit."""

    max_age = Seconds(
        allow_none=True, metadata=described("Removes events that are older, in seconds; null is no limit.")
    )
    max_events = Whole(1, allow_none=True, metadata=described("Keeps at most this many events; null is no limit."))
    max_bytes = Whole(
        1, allow_none=True, metadata=described("Keeps at most this many bytes of events; null is no limit.")
    )
    wait_for_consumers = Flag(
        metadata=described("Keeps events that a consumer is not done with, despite the limits. Default: false.")
    )
    hard_max_bytes = Whole(
        1,
        allow_none=True,
        metadata=described(
            "With `wait_for_consumers`: keeps at most this many bytes of events, not less than `max_bytes`; null (the "
            "default) is no limit."
        ),
    )


class DedupeFields(Schema):
    """`dedupe` of a bucket."""

    header = Text(
        200,
        metadata=described(
            "The header that identifies a delivery, or `auto` for the usual ones (`X-GitHub-Delivery`, `webhook-id`, "
            "`Idempotency-Key`, `X-Shopify-Webhook-Id`)."
        ),
    )
    window = Seconds(366 * DAY, metadata=described("For how many seconds a repeat is recognised. Default: 86400."))


class RateLimitFields(Schema):
    """`rate_limit` of a bucket or an input."""

    events = Whole(
        1, 1_000_000, metadata=described("How many webhooks are accepted per interval; senders beyond that get 429.")
    )
    interval = Seconds(DAY, metadata=described("In seconds. Default: 1."))


def moment(about: str, **details: Any) -> Number:
    """A unix time, or null."""
    message = "must be a time in unix seconds, before the year 10000."
    return Number(message, 0, MAX_TIME, allow_none=True, metadata=described(about), **details)


class BucketFields(StockFields):
    """The fields of a bucket that can be set. A field left out stays unchanged, in nested parts, too. Inputs and
    outputs have forms of their own."""

    OURS = frozenset({"retention"})
    ECHOED = frozenset({"id", "account_id", "created_at", "updated_at", "suspended", "inputs", "outputs"})

    name = Text(
        1_000, metadata=described("Unique: 1 to 100 printable characters without `/`, and not like a bucket's id.")
    )
    description = Text(4_000, lines=True, metadata=described("What the bucket is for."))
    stream = Flag(metadata=described("Whether WebSockets get the bucket's events. Default: true."))
    ephemeral = Flag(
        metadata=described("Stores no content: only clients that are connected get an event. Default: false.")
    )
    large_webhooks = Flag(
        metadata=described("Accepts bodies up to the setting `large_max_body` instead of `max_body`. Default: false.")
    )
    max_body = Whole(
        1,
        allow_none=True,
        metadata=described(
            "The largest body of a webhook in bytes, overriding both settings; null (the default) means the settings."
        ),
    )
    auth = fields.Nested(AuthFields, metadata=described("What the bucket's senders must send."))
    retention = fields.Nested(
        RetentionFields, metadata=described("When old events are removed. Default: the relay's settings.")
    )
    dedupe = fields.Nested(
        DedupeFields, allow_none=True, metadata=described("Stores a repeated delivery once; null (the default) is off.")
    )
    rate_limit = fields.Nested(
        RateLimitFields,
        allow_none=True,
        metadata=described("The most webhooks that the bucket accepts; null (the default) is no limit."),
    )
    expires_at = moment(
        "The unix time in seconds at which the bucket is deleted with every event in it, in the future; null (the "
        "default) is never."
    )


class VerifyFields(Schema):
    """`verify` of an input."""

    provider = Text(
        100,
        metadata=described(
            "Whose signatures: `github`, `standard-webhooks`, `stripe`, `slack`, `shopify` or `gitlab`."
        ),
    )
    secrets = Few(
        Text(1_100),
        10,
        said="must be one secret, or up to 10 while one is being changed.",
        metadata=described(f"1 to 10 secrets, as the provider shows them: one that matches is enough. {_HIDDEN}"),
    )
    on_failure = Choice(
        "reject",
        "mark",
        metadata=described(
            "A webhook with a wrong signature gets 401 (`reject`, the default), or is stored with the result (`mark`)."
        ),
    )


class InputFields(StockFields):
    """The fields of an input that can be set; `id` only of a new one."""

    ECHOED = frozenset({"bucket_id", "account_id", "created_at", "updated_at"})

    id = Text(
        1_000,
        metadata=described(
            "The part after `/v1/webhooks/` in the URL for senders. A new input may be given one by an "
            "administrator's token: 1 to 64 letters, digits, `-` and `_`."
        ),
    )
    name = Text(MAX_NAME, metadata=described("Not empty. A new input without a name is called `Public endpoint`."))
    description = Text(4_000, lines=True, metadata=described("What the input is for."))
    status_code = _StatusCode(
        200, 599, metadata=described("The status of the answer to senders. Default: 200; 0 means 200, too.")
    )
    body = TextOrBytes(
        MAX_BODY_TEXT, raw=True, metadata=described("The body of the answer to senders, at most 250,000 bytes.")
    )
    headers = Headers(metadata=described("The headers of the answer to senders: by name, a text or a list of texts."))
    function_id = Text(1_000, metadata=described("Only stored and returned."))
    custom_domain = Text(
        1_000, metadata=described("An additional host name of the input, like `hooks.example.org`; empty is none.")
    )
    path_prefix = Text(
        1_000,
        metadata=described(
            "An additional path of the input, like `/shop`; empty is none. Only one input may have a given pair of "
            "host name and path."
        ),
    )
    strip_path_prefix = Flag(metadata=described("Removes the prefix from the event's path. Default: false."))
    response_from_output = Text(
        1_000,
        metadata=described(
            "Senders get a client's answer to the copy for this output: its id, or `anyOutput`; empty is none."
        ),
    )
    verify = fields.Nested(
        VerifyFields,
        allow_none=True,
        metadata=described("How senders' signatures are checked; null (the default): they are not."),
    )
    rate_limit = fields.Nested(
        RateLimitFields,
        allow_none=True,
        metadata=described("The most webhooks that the input accepts; null (the default) is no limit."),
    )


class ThrottleFields(Schema):
    """`throttle` of an output."""

    enabled = Flag(metadata=described("Whether the throttle applies. Default: false."))
    mode = Choice(
        "",
        "rate",
        "concurrency",
        metadata=described("`rate` limits the tries per interval, `concurrency` the events that are sent at once."),
    )
    rate = Whole(0, metadata=described("With mode `rate`: the most tries per interval, at least 1."))
    interval = Choice("", "second", "minute", "hour", metadata=described("Of `rate`. Default: `second`."))
    max_concurrent = Whole(
        0, metadata=described("How many events are sent at once, 1 to 100; required with mode `concurrency`.")
    )
    max_queue_depth = Whole(
        0, metadata=described("The bucket's senders get 429 while so many events wait for the output; 0 is no limit.")
    )
    deadline = Whole(
        0,
        metadata=described(
            "In nanoseconds from when an event came in: one that is not sent by then fails; 0 is no limit."
        ),
    )


class DurabilityFields(Schema):
    """`durability` of an output; durations are whole nanoseconds."""

    enabled = Flag(metadata=described("Whether this schedule of further tries replaces `retries`. Default: false."))
    schedule = Choice(
        "",
        "seconds",
        "medium",
        "long",
        "custom",
        metadata=described(
            "How long an event is tried: `seconds` for 25 minutes, `medium` for 16 hours, `long` (the default) for 30 "
            "days, at growing intervals; `custom` by `custom_delays`."
        ),
    )
    custom_delays = Few(
        Whole(0),
        100,
        allow_none=True,
        metadata=described("Nanoseconds between tries, for `custom`."),
    )
    deadline = Whole(
        0,
        metadata=described(
            "In nanoseconds from when an event came in, instead of the schedule's; 0 means the schedule's."
        ),
    )


class OutputFields(StockFields):
    """The fields of an output that can be set."""

    OURS = frozenset({"strict_order", "secret", "paused"})
    ECHOED = frozenset({"id", "bucket_id", "account_id", "created_at", "updated_at", "number", "disabled_reason"})

    name = Text(
        MAX_NAME,
        metadata=described("Unique in the bucket, not empty. A new output without a name is called `Output <number>`."),
    )
    description = Text(4_000, lines=True, metadata=described("What the output is for."))
    destination = Text(
        4_000, metadata=described("The URL to which events go. The relay calls that of a public output: http or https.")
    )
    internal = Flag(
        metadata=described(
            "Whether connected clients deliver the events (true), or the relay forwards them (false, a public "
            "output). Default: false if `destination` is an http or https URL on the internet."
        )
    )
    disabled = Flag(metadata=described("A disabled output gets no events. Default: false."))
    lock_path = Flag(
        metadata=described("Does not append to the destination what follows the input in the URL. Default: false.")
    )
    timeout = Whole(
        0, MAX_TIMEOUT, metadata=described("How long an answer may take, in seconds. Default: 10; 0 means 10, too.")
    )
    retries = Whole(
        -1,
        MAX_RETRIES,
        metadata=described("Of a public output: tries after the first three; -1 is one try in all. Default: 0."),
    )
    tls_verification = Flag(metadata=described("Whether the destination's certificate is verified. Default: true."))
    headers = Headers(metadata=described("Headers that replace the sender's: by name, a text or a list of texts."))
    rules = Anything(
        allow_none=True,
        metadata=described(
            "Which events go to the output: a tree of `and`, `or`, `not` and `match`; null is every event."
        ),
    )
    function_id = Text(1_000, metadata=described("Only stored and returned."))
    throttle = Form(
        ThrottleFields(),
        metadata=described("Of a public output: how fast events are sent; null is one after the other."),
    )
    durability = Form(
        DurabilityFields(),
        metadata=described("Of a public output: for how long an event is tried; null means `retries`."),
    )
    strict_order = Flag(
        metadata=described(
            "Of a public output: no later event is sent before a failed one is delivered or given up. Default: false."
        )
    )
    secret = Text(
        1_100,
        metadata=described(
            "Of a public output: the key that signs its requests (Standard Webhooks): `whsec_` and base64; empty is "
            f"no signature. {_HIDDEN}"
        ),
    )
    paused = Flag(metadata=described("Of a public output: nothing is forwarded until it is resumed. Default: false."))


class TokenFields(Schema):
    """The fields of a new token; `buckets` holds names or ids, null or none meaning every bucket. `tunnels` is only
    stored and shown."""

    description = Text(4_000, lines=True)
    buckets = fields.List(Text(1_000), allow_none=True)
    tunnels = Few(Text(1_000), 1_000)
    api_access = Flag()
    durable = Flag()
    expires_at = moment("The unix time in seconds at which the token ends; null is never.")
