"""The forms of REST's answers, as marshmallow schemas, which describe them; those of queries are in `queries.py`.

A bucket, an input and an output may hold more than is here: what a client sent and nobody here understands is echoed.
"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from relay_tornado.model import STATUSES

NUMBERED = ("preparing", "sent", "failed", "stalled", "received", "rejected")
"""Statuses by the numbers that they once had on the wire; the first says nothing."""


def _text(about: str = "", **details: Any) -> fields.String:
    return fields.String(required=True, metadata=described(about), **details)


def _number(about: str = "", **details: Any) -> fields.Integer:
    return fields.Integer(required=True, metadata=described(about), **details)


def _decimal(about: str = "", **details: Any) -> fields.Float:
    return fields.Float(required=True, metadata=described(about), **details)


def _flag(about: str = "", **details: Any) -> fields.Boolean:
    return fields.Boolean(required=True, metadata=described(about), **details)


def _headers() -> fields.Dict:
    return fields.Dict(required=True, keys=fields.String(), values=fields.List(fields.String()))


def _time(**details: Any) -> fields.Integer:
    return _number("Unix time in seconds.", **details)


def _object(about: str, **details: Any) -> fields.Dict:
    return fields.Dict(required=True, keys=fields.String(), metadata=described(about), **details)


def described(text: str) -> dict[str, str]:
    """What OpenAPI says of a field, nothing where there is nothing to say."""
    return {"description": text} if text else {}


class Problem(Schema):
    """An error: `message` says what is wrong and what to do, `field` which part of the request it is about."""

    code = _text()
    message = _text()
    field = fields.String()


class Deleted(Schema):
    id = _text()
    status = _text(validate=validate.Equal("deleted"))


class AuthAnswer(Schema):
    type = _text(validate=validate.OneOf(["none", "basic", "token"]))
    username = _text()
    password = _text("Empty unless the request has an administrator's token.")
    token = _text("Empty unless the request has an administrator's token.")


class InputAnswer(Schema):
    id = _text("The part after /v1/webhooks/ in the URL for senders.")
    name = _text()
    description = _text()
    bucket_id = _text()
    function_id = _text()
    status_code = _number()
    body = _text()
    headers = _headers()
    custom_domain = _text()
    path_prefix = _text()
    strip_path_prefix = _flag()
    response_from_output = _text()
    verify = _object("How signatures are checked; null if they are not.", allow_none=True)
    rate_limit = _object("The events allowed per interval, in seconds; null is no limit.", allow_none=True)
    created_at = _time()
    updated_at = _time()


class OutputAnswer(Schema):
    id = _text()
    name = _text()
    description = _text()
    bucket_id = _text()
    number = _number("Unique in the bucket; the last part of the ids of the output's copies.")
    destination = _text()
    internal = _flag()
    disabled = _flag()
    lock_path = _flag()
    timeout = _number("In seconds.")
    retries = _number()
    tls_verification = _flag()
    headers = _headers()
    rules = fields.Raw(required=True, allow_none=True)
    function_id = _text()
    throttle = fields.Raw(required=True, allow_none=True)
    durability = fields.Raw(required=True, allow_none=True)
    strict_order = _flag()
    secret = _text("The key that requests are signed with; empty unless the request has an administrator's token.")
    paused = _flag()
    disabled_reason = _text("Why the relay disabled the output; empty if it did not.")
    created_at = _time()
    updated_at = _time()


class BucketAnswer(Schema):
    id = _text()
    name = _text()
    description = _text()
    account_id = _text()
    created_at = _time()
    updated_at = _time()
    stream = _flag()
    ephemeral = _flag()
    suspended = _flag()
    static_ip = _flag()
    large_webhooks = _flag()
    auth = fields.Nested(AuthAnswer, required=True)
    inputs = fields.List(fields.Nested(InputAnswer), required=True)
    outputs = fields.List(fields.Nested(OutputAnswer), required=True)
    retention = _object(
        "Limits in seconds, events and bytes (null is no limit); whether retention waits for consumers, up to how many "
        "bytes."
    )
    dedupe = _object("How duplicates are recognised; null if they are not.", allow_none=True)
    rate_limit = _object("The events allowed per interval, in seconds; null is no limit.", allow_none=True)
    max_body = _number("In bytes; null means the relay's setting.", allow_none=True)
    expires_at = _number("The unix time in seconds at which the bucket is deleted; null is never.", allow_none=True)


class BinAnswer(Schema):
    bucket = fields.Nested(BucketAnswer, required=True)
    url = _text("The URL for senders.")
    expires_at = _time()


def _left_out() -> fields.Boolean:
    return fields.Boolean(metadata={"description": "True if the answer's headers and body are left out."})


class DeliveryAnswer(Schema):
    """What came of a try, or a client's answer. `output` is the number of the copy's output, 0 for the event itself."""

    output = _number()
    status = _text()
    status_code = _number("0 if nobody answered.")
    duration_ms = _number()
    retries = _number("The number of attempts before this one.")
    at = _decimal("Unix time in seconds.")
    response_headers = _headers()
    response_body = _text("Base64.")
    response_truncated = _left_out()


class LogAnswer(Schema):
    id = _text("The id of the event, or of its copy for one output.")
    account_id = _text()
    bucket_id = _text()
    input_id = _text()
    output_id = _text()
    method = _text()
    status = _text(validate=validate.OneOf(STATUSES))
    status_code = _number()
    body = _text()
    headers = _headers()
    raw_query = _text()
    extra_path = _text()
    ip_address = _text()
    response_body = _text("Base64.")
    response_truncated = _left_out()
    response_headers = _headers()
    duration_ms = _number()
    retries = _number()
    internal = _flag()
    ephemeral = _flag()
    created_at = _time()
    updated_at = _time()
    seq = _number()
    epoch = _text()
    received_at = _decimal()
    verified = _flag(allow_none=True)
    verdict = _text("The reason for the result of the signature check.")
    resend_of = _text("The id of the event that this one is a copy of.", allow_none=True)
    target = _number("The number of the output, if the event goes to one output alone; else null.", allow_none=True)
    edited = _flag("True in a copy that was changed before it was sent.")
    size = _number("The bytes of path, query, headers and body together.")
    headers_base64 = _text("The header block as it was received.")
    body_base64 = fields.String(metadata={"description": "The exact bytes, if the body is not UTF-8."})
    deliveries = fields.List(
        fields.Nested(DeliveryAnswer),
        metadata={"description": "All results, oldest first; only in the answer for a single event."},
    )


class LogPage(Schema):
    data = fields.List(fields.Nested(LogAnswer), required=True)
    total = _number()
    limit = _number()
    offset = _number()
    next_cursor = fields.String()
    truncated = fields.Boolean()


class EventPage(Schema):
    logs = fields.List(fields.Nested(LogAnswer), required=True)
    has_more = _flag()
    next_cursor = fields.String()
    gap = fields.Dict(
        keys=fields.String(),
        metadata={"description": "Events after the cursor that are no longer kept, or are damaged."},
    )


class Skipped(Schema):
    """Events of the range that are not there any more: those of seqs `from` to `to`."""

    first = _number(data_key="from")
    last = _number(data_key="to")
    count = _number()
    reason = _text(validate=validate.OneOf(["retention", "ephemeral"]))


class Resent(Schema):
    """`ids` are those of the copies, in their order. `next_cursor`: there was more than one request does; `problem`:
    why it was broken off; `skipped`: stretches of seqs whose events can't be sent any more."""

    status = _text()
    ids = fields.List(fields.String(), required=True)
    next_cursor = fields.String()
    problem = fields.String()
    skipped = fields.List(fields.Nested(Skipped))


class Answered(Schema):
    id = _text()
    status = _text()


class ScopesAnswer(Schema):
    buckets = fields.List(fields.String(), required=True, metadata={"description": "Ids; empty means every bucket."})
    tunnels = fields.List(fields.String(), required=True)


class LagAnswer(Schema):
    events = _number("The number of events that the consumer is not done with.")
    seconds = _decimal("For how many seconds the oldest of them has waited.")


class MetGaps(Schema):
    """Events that left before the consumer had them."""

    times = _number("The number of gaps.")
    last = _object("The last gap: from, to, count, reason.")
    at = _time()


class ConsumerAnswer(Schema):
    """Where a consumer is."""

    bucket_id = _text()
    bucket_name = _text()
    kind = _text(validate=validate.OneOf(["client", "token", "output"]))
    name = _text("The name that the client gave it, the token's key, or the output's number.")
    ack = _text(validate=validate.OneOf(["explicit", "receipt", "forward"]))
    floor = _text("The id up to which the consumer is done with every event, except parked ones.")
    head = _text("The bucket's newest id.")
    pending = _number("The number of events that the consumer is not done with.")
    out = _number("Of the pending events, those in flight.")
    parked = _number("Of the pending events, those that wait for another try.")
    dead = _number("The number of events that the consumer gave up.")
    connections = _number("The number of connections that work on it now.")
    ack_wait = _decimal("In seconds; null without explicit acks.", allow_none=True)
    max_deliver = _number("The number of tries (0 is no limit); null without explicit acks.", allow_none=True)
    lag = fields.Nested(LagAnswer, required=True)
    gaps = fields.Nested(MetGaps, required=True, allow_none=True)
    created_at = _time()
    updated_at = _time()


class SeekAnswer(Schema):
    """From one position to another. `repeats`: events that it was done with and gets again; `skips`: events that it
    was not done with and does not get."""

    before = _text(data_key="from")
    after = _text(data_key="to")
    repeats = _number()
    skips = _number()
    preview = _flag()


class ReplayAnswer(Schema):
    """`next` is the seq to go on with, null where all is done; `full`: as many wait as may, so go on later."""

    scheduled = _number()
    next = _number(allow_none=True)
    full = _flag()
    anchor = _text(allow_none=True)


class DeadLetterAnswer(Schema):
    id = _text("The event's id.")
    seq = _number()
    kind = _text()
    consumer = _text("The consumer's name.")
    attempts = _number()
    since = _decimal("The unix time of the first try.")
    at = _decimal("The unix time at which the consumer gave the event up.")
    reason = _text()


class DeadPage(Schema):
    data = fields.List(fields.Nested(DeadLetterAnswer), required=True)
    next_cursor = fields.String()


class Rescheduled(Schema):
    """`left`: dead letters for which there was no room."""

    scheduled = _number()
    left = _number()


class Forgotten(Schema):
    forgotten = _number()


class TokenAnswer(Schema):
    id = _text("The token's key.")
    key = _text()
    description = _text()
    scopes = fields.Nested(ScopesAnswer, required=True)
    api_access = _text(validate=validate.OneOf(["enabled", "disabled"]))
    durable = _flag("Whether the relay keeps the token's position in every bucket that it reads.")
    created_at = _time()
    updated_at = _time()
    expires_at = _time(allow_none=True)
    last_used_at = _time(allow_none=True)
    last_login = _text("`last_used_at` as a date and time; empty if the token was never used.")
    active = _flag()


class NewTokenAnswer(TokenAnswer):
    secret = _text("Only this answer shows it: the relay stores its hash.")


class UsageAnswer(Schema):
    usage = _object("What the token's buckets hold.")
    plan_meta = _object("What the relay's settings allow; null is no limit.")


class ClientAnswer(Schema):
    access_token_key = _text("Empty for other tokens' clients, unless the request has an administrator's token.")
    buckets = fields.List(fields.String(), required=True, metadata={"description": "The buckets' names."})
    client_ip = _text()
    client_type = _text()
    client_version = _text()
    consumer = _text("The name of the consumer that keeps the position; empty if none was named.")
    destination = _text()
    positions = _object("By the bucket's name, the seq up to which the client got everything.")
    subscribed_at = _time()


class ClientsAnswer(Schema):
    webhook_clients = fields.List(fields.Nested(ClientAnswer), required=True)
    tunnel_clients = fields.List(fields.Raw(), required=True)
