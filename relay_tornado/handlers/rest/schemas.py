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
    password = _text("Empty unless an administrator's token asks.")
    token = _text("Empty unless an administrator's token asks.")


class InputAnswer(Schema):
    id = _text("What follows /v1/webhooks/ in the URL that senders use.")
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
    verify = _object("How signatures are checked; null: not at all.", allow_none=True)
    rate_limit = _object("Events in an interval of seconds; null is no limit.", allow_none=True)
    created_at = _time()
    updated_at = _time()


class OutputAnswer(Schema):
    id = _text()
    name = _text()
    description = _text()
    bucket_id = _text()
    number = _number("Its place in ids of copies.")
    destination = _text()
    internal = _flag()
    disabled = _flag()
    lock_path = _flag()
    timeout = _number("Seconds.")
    retries = _number()
    tls_verification = _flag()
    headers = _headers()
    rules = fields.Raw(required=True, allow_none=True)
    function_id = _text()
    throttle = fields.Raw(required=True, allow_none=True)
    durability = fields.Raw(required=True, allow_none=True)
    strict_order = _flag()
    secret = _text("What requests are signed with; shown to an administrator's token only.")
    paused = _flag()
    disabled_reason = _text("Why the relay itself disabled it.")
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
        "Seconds, events and bytes; null is no limit. Whether it waits for consumers, up to how many bytes."
    )
    dedupe = _object("How repeats are recognised; null: not at all.", allow_none=True)
    rate_limit = _object("Events in an interval of seconds; null is no limit.", allow_none=True)
    max_body = _number("Bytes; null: the relay's setting.", allow_none=True)
    expires_at = _number("Unix time in seconds at which it is deleted; null is never.", allow_none=True)


class BinAnswer(Schema):
    bucket = fields.Nested(BucketAnswer, required=True)
    url = _text("Where to send webhooks.")
    expires_at = _time()


def _left_out() -> fields.Boolean:
    return fields.Boolean(metadata={"description": "true: the answer's headers and body are left out."})


class DeliveryAnswer(Schema):
    """What came of a try, or a client's answer. `output` is the number of the copy's output, 0 for the event itself."""

    output = _number()
    status = _text()
    status_code = _number("0 where nobody answered.")
    duration_ms = _number()
    retries = _number("How many tries came before.")
    at = _decimal("Unix time in seconds.")
    response_headers = _headers()
    response_body = _text("Base64.")
    response_truncated = _left_out()


class LogAnswer(Schema):
    id = _text("The event's id, or with an output's number that of one copy.")
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
    verdict = _text("Why the signature check said so.")
    resend_of = _text(allow_none=True)
    target = _number("The number of the one output that it goes to; null: it goes as any event.", allow_none=True)
    edited = _flag("A copy that somebody changed.")
    size = _number("Bytes of path, query, headers and body.")
    headers_base64 = _text("The header block as it came.")
    body_base64 = fields.String(metadata={"description": "The exact bytes, where they are not UTF-8."})
    deliveries = fields.List(
        fields.Nested(DeliveryAnswer),
        metadata={"description": "All that came of it, oldest first; where one event is asked for."},
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
        keys=fields.String(), metadata={"description": "Events behind the cursor that are not kept any more."}
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
    buckets = fields.List(fields.String(), required=True, metadata={"description": "Ids; empty is every bucket."})
    tunnels = fields.List(fields.String(), required=True)


class LagAnswer(Schema):
    events = _number("How many it is not done with.")
    seconds = _decimal("How long the oldest of them has waited.")


class MetGaps(Schema):
    """Events that left before the consumer had them."""

    times = _number("How many gaps it met.")
    last = _object("The last one: from, to, count, reason.")
    at = _time()


class ConsumerAnswer(Schema):
    """Where a consumer is."""

    bucket_id = _text()
    bucket_name = _text()
    kind = _text(validate=validate.OneOf(["client", "token", "output"]))
    name = _text("A client's name for it, a token's key, or an output's number.")
    ack = _text(validate=validate.OneOf(["explicit", "receipt", "forward"]))
    floor = _text("The id up to which it is done with everything, but for what is parked.")
    head = _text("The bucket's newest id.")
    pending = _number("Events that it is not done with.")
    out = _number("Of these, given to somebody and not acked.")
    parked = _number("Of these, waiting for another try.")
    dead = _number("Events that it gave up.")
    connections = _number("Who works on it now.")
    ack_wait = _decimal("Seconds.", allow_none=True)
    max_deliver = _number("Tries; 0 is without end.", allow_none=True)
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
    id = _text("The event's.")
    seq = _number()
    kind = _text()
    consumer = _text("The consumer's name.")
    attempts = _number()
    since = _decimal("When it was tried first.")
    at = _decimal("When it was given up.")
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
    id = _text("The key.")
    key = _text()
    description = _text()
    scopes = fields.Nested(ScopesAnswer, required=True)
    api_access = _text(validate=validate.OneOf(["enabled", "disabled"]))
    durable = _flag("Whether the relay keeps its position in every bucket that it reads.")
    created_at = _time()
    updated_at = _time()
    expires_at = _time(allow_none=True)
    last_used_at = _time(allow_none=True)
    last_login = _text("The same as a date and time; empty where it never was used.")
    active = _flag()


class NewTokenAnswer(TokenAnswer):
    secret = _text("It is not stored, and nobody can show it again.")


class UsageAnswer(Schema):
    usage = _object("What there is of the buckets in the token's scope.")
    plan_meta = _object("What the relay's settings allow; null is no limit.")


class ClientAnswer(Schema):
    access_token_key = _text("Empty for a token that is neither yours nor shown to you.")
    buckets = fields.List(fields.String(), required=True, metadata={"description": "Names."})
    client_ip = _text()
    client_type = _text()
    client_version = _text()
    consumer = _text("The name of the consumer that keeps its position; empty where it named none.")
    destination = _text()
    positions = _object("By bucket's name, the seq of the event up to which it was given everything.")
    subscribed_at = _time()


class ClientsAnswer(Schema):
    webhook_clients = fields.List(fields.Nested(ClientAnswer), required=True)
    tunnel_clients = fields.List(fields.Raw(), required=True)
