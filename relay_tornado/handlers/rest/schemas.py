"""The forms of REST's answers, as marshmallow schemas, which describe them; those of queries are in `queries.py`.

A field without a description here has that of the request's form (`FORM`), if that has the field. A bucket, an input
and an output may hold more than is here: what a client sent and nobody here understands is echoed.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, get_args

from marshmallow import Schema, fields, validate

from relay_tornado.model import STATUSES, GapReason
from relay_tornado.wire.fields import described
from relay_tornado.wire.rest import (
    AuthFields,
    BucketFields,
    DedupeFields,
    DurabilityFields,
    InputFields,
    OutputFields,
    RateLimitFields,
    RetentionFields,
    ThrottleFields,
    VerifyFields,
)

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


def _headers(about: str = "") -> fields.Dict:
    values = fields.List(fields.String())
    return fields.Dict(required=True, keys=fields.String(), values=values, metadata=described(about))


def _time(about: str = "Unix time in seconds.", **details: Any) -> fields.Integer:
    return _number(about, **details)


def _part(form: type[Schema], about: str = "", **details: Any) -> fields.Nested:
    return fields.Nested(form, required=True, metadata=described(about), **details)


def _list(of: type[Schema] | fields.Field[Any], about: str, **details: Any) -> fields.List[Any]:
    each = of if isinstance(of, fields.Field) else fields.Nested(of)
    return fields.List(each, metadata=described(about), **details)


_FOR_CLIENTS: Final = "Always the same: stock clients read it."
_CURSOR: Final = "The `cursor` of the request for the next page; absent on the last."


class Problem(Schema):
    """An error."""

    code = _text("What kind of error it is.")
    message = _text("What is wrong, and what to do.")
    field = fields.String(metadata=described("The part of the request that is wrong, like `retention.max_age`."))


class Deleted(Schema):
    id = _text("The id of what was deleted: a token's key, a consumer's name.")
    status = _text("Always `deleted`.", validate=validate.Equal("deleted"))


class AuthAnswer(Schema):
    FORM: ClassVar = AuthFields

    type = _text(validate=validate.OneOf(["none", "basic", "token"]))
    username = _text()
    password = _text()
    token = _text()


class InputAnswer(Schema):
    FORM: ClassVar = InputFields

    id = _text("The part after `/v1/webhooks/` in the URL for senders.")
    name = _text()
    description = _text()
    bucket_id = _text("The id of its bucket.")
    function_id = _text()
    status_code = _number()
    body = _text()
    headers = _headers()
    custom_domain = _text()
    path_prefix = _text()
    strip_path_prefix = _flag()
    response_from_output = _text()
    verify = _part(VerifyFields, allow_none=True)
    rate_limit = _part(RateLimitFields, allow_none=True)
    created_at = _time()
    updated_at = _time()


class OutputAnswer(Schema):
    FORM: ClassVar = OutputFields

    id = _text("The output's id, which names it in paths.")
    name = _text()
    description = _text()
    bucket_id = _text("The id of its bucket.")
    number = _number("Unique in the bucket; the last part of the ids of the output's copies.")
    destination = _text()
    internal = _flag()
    disabled = _flag()
    lock_path = _flag()
    timeout = _number()
    retries = _number()
    tls_verification = _flag()
    headers = _headers()
    rules = fields.Raw(required=True, allow_none=True)
    function_id = _text()
    throttle = _part(ThrottleFields, allow_none=True)
    durability = _part(DurabilityFields, allow_none=True)
    strict_order = _flag()
    secret = _text()
    paused = _flag()
    disabled_reason = _text("Why the relay disabled the output; empty if it did not.")
    created_at = _time()
    updated_at = _time()


class BucketAnswer(Schema):
    FORM: ClassVar = BucketFields

    id = _text("The bucket's id: it stays the same when the name changes, and is never used again.")
    name = _text()
    description = _text()
    account_id = _text(_FOR_CLIENTS)
    created_at = _time()
    updated_at = _time()
    stream = _flag()
    ephemeral = _flag()
    suspended = _flag(_FOR_CLIENTS)
    static_ip = _flag("Only stored and returned.")
    large_webhooks = _flag()
    auth = _part(AuthAnswer)
    inputs = _list(InputAnswer, "The bucket's inputs, oldest first.", required=True)
    outputs = _list(OutputAnswer, "The bucket's outputs, oldest first.", required=True)
    retention = _part(RetentionFields)
    dedupe = _part(DedupeFields, allow_none=True)
    rate_limit = _part(RateLimitFields, allow_none=True)
    max_body = _number(allow_none=True)
    expires_at = _number(allow_none=True)


class BinAnswer(Schema):
    bucket = _part(BucketAnswer, "The bucket, with one input.")
    url = _text("The URL for senders.")
    expires_at = _time("The unix time in seconds at which the bucket is deleted, unless a PUT sets its `expires_at`.")


class ResultAnswer(Schema):
    """The fields that a delivery has, and an event's or a copy's log, which shows its newest delivery."""

    status = _text(
        "`received`: nothing was tried or answered yet; `sent`: delivered; `failed`: given up; `stalled`: it will be "
        "tried again; `rejected`: a client refused it.",
        validate=validate.OneOf(STATUSES),
    )
    status_code = _number("The status code of the answer; 0 if nobody answered.")
    duration_ms = _number("How many milliseconds the answer took.")
    retries = _number("The number of attempts before this one.")
    response_headers = _headers("The headers of the answer, by name.")
    response_body = _text("The body of the answer in base64.")
    response_truncated = fields.Boolean(
        metadata=described(
            "True if the answer's headers and body are left out, because newer ones have 16 MiB; else absent."
        )
    )


class DeliveryAnswer(ResultAnswer):
    """What came of a try, or a client's answer."""

    output = _number("The number of the copy's output, 0 for the event itself.")
    at = _decimal("Unix time in seconds.")


class LogAnswer(ResultAnswer):
    id = _text("The id of the event (`<epoch>-<seq>`), or of its copy for one output (`<epoch>-<seq>-<number>`).")
    account_id = _text(_FOR_CLIENTS)
    bucket_id = _text("The id of its bucket.")
    input_id = _text("The id of the input by which it came in.")
    output_id = _text("The id of the output that the delivery is about; empty if it is about the event itself.")
    method = _text("The method of the request.")
    body = _text("The body of the request; what is not UTF-8 is replaced, see `body_base64`.")
    headers = _headers("The headers of the request, by name.")
    raw_query = _text("The query of the request, without the `?`.")
    extra_path = _text("What followed the input in the URL, with its leading slash; or empty.")
    ip_address = _text("The sender's address.")
    internal = _flag("False if the delivery is that of a public output.")
    ephemeral = _flag("True if the content was only in memory.")
    created_at = _time("The unix time in seconds at which it came in.")
    updated_at = _time("The unix time in seconds of the delivery; if there is none, that of `created_at`.")
    seq = _number("Its place in the bucket's log: 1, 2, 3, …")
    epoch = _text("The stretch of the bucket's log that its id begins with.")
    received_at = _decimal("The unix time in seconds at which it came in, with a fraction.")
    verified = _flag("The result of the signature check; null if there was none.", allow_none=True)
    verdict = _text("The reason for the result of the signature check.")
    resend_of = _text("The id of the event that this one is a copy of.", allow_none=True)
    target = _number("The number of the output, if the event goes to one output alone; else null.", allow_none=True)
    edited = _flag("True in a copy that was changed before it was sent.")
    size = _number("The bytes of path, query, headers and body together.")
    headers_base64 = _text("The header block as it was received, in base64.")
    body_base64 = fields.String(
        metadata=described("The exact bytes of the body in base64, if it is not UTF-8; else absent.")
    )
    deliveries = _list(DeliveryAnswer, "All results, oldest first; only in the answer for a single event.")


class LogPage(Schema):
    data = _list(LogAnswer, "The events, newest first.", required=True)
    total = _number("How many events match; with `status` or `output`, of those that were examined.")
    limit = _number("The limit that applied.")
    offset = _number("The number of events that were skipped.")
    next_cursor = fields.String(metadata=described(_CURSOR))
    truncated = fields.Boolean(
        metadata=described("True if the page ended early: `next_cursor` continues. Absent otherwise.")
    )


class GapAnswer(Schema):
    """Events that are missing. The three numbers are null if nobody knows how many there were."""

    first = _number("The first missing seq.", data_key="from", allow_none=True)
    last = _number("The last missing seq.", data_key="to", allow_none=True)
    count = _number("How many are missing.", allow_none=True)
    reason = _text(
        "`retention`: they are not kept any more, or are damaged; `ephemeral`: their content was only in memory; "
        "`reset`, `future`: the cursor belongs to a log that was lost.",
        validate=validate.OneOf(get_args(GapReason)),
    )


class EventPage(Schema):
    logs = _list(LogAnswer, "The events, oldest first.", required=True)
    has_more = _flag("Whether the bucket holds later events.")
    next_cursor = fields.String(metadata=described("The `cursor` of the next request; only with a cursor."))
    gap = fields.Nested(
        GapAnswer, metadata=described("Events after the cursor that are no longer kept, or are damaged.")
    )


class Skipped(Schema):
    """Events of the range that are not there any more."""

    first = _number("The first missing seq.", data_key="from")
    last = _number("The last missing seq.", data_key="to")
    count = _number("How many are missing.")
    reason = _text(
        "`ephemeral`: their content was not kept; `retention`: they are gone or damaged.",
        validate=validate.OneOf(["retention", "ephemeral"]),
    )


class Resent(Schema):
    status = _text("Always `resent`.")
    ids = _list(fields.String(), "The ids of the copies, in their order.", required=True)
    next_cursor = fields.String(
        metadata=described("There is more than one request does: repeat it with this as `cursor`. Absent at the end.")
    )
    problem = fields.String(metadata=described("Why the request was cut short; absent if it was not."))
    skipped = _list(Skipped, "The events of the range that can't be sent any more; absent if there are none.")


class Answered(Schema):
    id = _text("The id in the path.")
    status = _text("The status that was stored.")


class ScopesAnswer(Schema):
    buckets = _list(fields.String(), "The buckets' ids; empty means every bucket.", required=True)
    tunnels = _list(fields.String(), "Only stored and returned.", required=True)


class LagAnswer(Schema):
    events = _number("The number of events that the consumer is not done with.")
    seconds = _decimal("For how many seconds the oldest of them has waited.")


class OldestAnswer(Schema):
    """The oldest event that a consumer is not done with."""

    id = _text("The event's id.")
    attempts = _number("How often it was tried, with a try that is in flight.")
    out = _flag("True if it is in flight.")
    since = _decimal("The unix time of the first try that failed; null if none did.", allow_none=True)
    next_at = _decimal(
        "The unix time from which it may be tried again; null if it does not wait for that.", allow_none=True
    )


class CircuitAnswer(Schema):
    """The circuit of an output, while it is open."""

    next_at = _decimal("The unix time from which the next try is made; null while it is in flight.", allow_none=True)


class MetGaps(Schema):
    """Events that left before the consumer had them."""

    times = _number("The number of gaps.")
    last = _part(GapAnswer, "The last gap.")
    at = _time(
        "The unix time in seconds at which the last gap was noticed: by a client or an output, or, while nobody uses "
        "the consumer, by this answer."
    )


class ConsumerAnswer(Schema):
    """Where a consumer is."""

    bucket_id = _text("The id of its bucket.")
    bucket_name = _text("The name of its bucket.")
    kind = _text(
        "Whose position it is: a client's (`client`), a durable token's (`token`) or a public output's (`output`).",
        validate=validate.OneOf(["client", "token", "output"]),
    )
    name = _text("The name that the client gave it, the token's key, or the output's number.")
    ack = _text(
        "What moves it: acks (`explicit`), receipts (`receipt`), or the relay's forwarding (`forward`).",
        validate=validate.OneOf(["explicit", "receipt", "forward"]),
    )
    floor = _text("The id up to which the consumer is done with every event, except parked ones.")
    head = _text("The bucket's newest id.")
    pending = _number("The number of events that the consumer is not done with.")
    out = _number("Of the pending events, those in flight.")
    parked = _number("Of the pending events, those that wait for another try.")
    dead = _number("The number of events that the consumer gave up.")
    connections = _number("The number of connections that work on it now.")
    ack_wait = _decimal("In seconds; null without explicit acks.", allow_none=True)
    max_deliver = _number("The number of tries (0 is no limit); null without explicit acks.", allow_none=True)
    lag = _part(LagAnswer, "How far it is behind.")
    oldest = _part(OldestAnswer, "The oldest of the pending events; null if there is none.", allow_none=True)
    circuit = _part(
        CircuitAnswer,
        "Not null while an output's circuit is open: its destination failed ten times in a row, and is left alone.",
        allow_none=True,
    )
    gaps = _part(MetGaps, "Events that left before it was done with them; null if there were none.", allow_none=True)
    created_at = _time()
    updated_at = _time()


class SeekAnswer(Schema):
    before = _text("The id after which the consumer continued before.", data_key="from")
    after = _text("The id after which it continues now.", data_key="to")
    repeats = _number("The number of events that it was done with and gets again.")
    skips = _number("The number of events that it was not done with and does not get.")
    preview = _flag("True if nothing was changed.")


class ReplayAnswer(Schema):
    scheduled = _number("The number of events that are redelivered and that it would not get anyway.")
    next = _number("The `first` of the request that continues; null at the end of the range.", allow_none=True)
    full = _flag("True if as many events wait as may: continue a little later.")
    anchor = _text("With a `speed`: the `anchor` of the request that continues; else null.", allow_none=True)


class DeadLetterAnswer(Schema):
    id = _text("The event's id.")
    seq = _number("The event's place in the bucket's log.")
    kind = _text("The kind of its consumer: `client`, `token` or `output`.")
    consumer = _text("The consumer's name.")
    attempts = _number("How often the event was tried.")
    since = _decimal("The unix time of the first try.")
    at = _decimal("The unix time at which the consumer gave the event up.")
    reason = _text(
        "`max_deliver`, `given_up` (by a request), `retention` (the event left before the consumer was done with it), "
        "`ephemeral` (so did its content), `damaged`, or why an output gave it up."
    )


class DeadPage(Schema):
    data = _list(DeadLetterAnswer, "The dead letters, oldest event first.", required=True)
    next_cursor = fields.String(metadata=described(_CURSOR))


class Rescheduled(Schema):
    scheduled = _number("The number of dead letters that are redelivered.")
    left = _number("The number of dead letters for which there was no room: repeat the request later.")
    gone = _number("The number of dead letters whose events retention removed: they can't be redelivered.")


class Forgotten(Schema):
    forgotten = _number("The number of dead letters that were forgotten.")


class TokenAnswer(Schema):
    id = _text("The token's key.")
    key = _text("The token's key: the user name of `Authorization: Basic`.")
    description = _text("What the token is for.")
    scopes = _part(ScopesAnswer, "What the token may see.")
    api_access = _text(
        "Whether the token may use this interface. Without, it can only connect, and answer events.",
        validate=validate.OneOf(["enabled", "disabled"]),
    )
    durable = _flag("Whether the relay keeps the token's position in every bucket that it reads.")
    created_at = _time()
    updated_at = _time("The same as `created_at`.")
    expires_at = _time("The unix time in seconds at which the token ends; null is never.", allow_none=True)
    last_used_at = _time(
        "The unix time in seconds, to the minute, at which the token was last used; null is never.", allow_none=True
    )
    last_login = _text("`last_used_at` as a date and time; empty if the token was never used.")
    active = _flag("Always true.")


class NewTokenAnswer(TokenAnswer):
    secret = _text("Only this answer shows it: the relay stores its hash.")


class UsageNumbers(Schema):
    """What the token's buckets hold."""

    buckets = _number("The number of buckets.")
    inputs = _number("The number of their inputs.")
    outputs = _number("The number of their outputs.")
    webhooks = _number("The number of events that they ever received.")
    webhooks_stored = _number("The number of events that are kept.")
    connected_clients = _number("The number of clients that are subscribed to them.")


class PlanNumbers(Schema):
    """What the relay's settings allow."""

    name = _text("Always `self-hosted`.")
    max_body = _number("The largest body of a webhook, in bytes.")
    large_max_body = _number("The same in a bucket with `large_webhooks`.")
    max_sockets = _number("The most WebSockets at once.", allow_none=True)
    retention_age = _decimal("A new bucket's `retention.max_age`, in seconds; null is no limit.", allow_none=True)
    retention_events = _number("A new bucket's `retention.max_events`; null is no limit.", allow_none=True)
    retention_bytes = _number("A new bucket's `retention.max_bytes`; null is no limit.", allow_none=True)


class UsageAnswer(Schema):
    usage = _part(UsageNumbers, "What the token's buckets hold.")
    plan_meta = _part(PlanNumbers, "What the relay's settings allow.")


class ClientAnswer(Schema):
    access_token_key = _text("Empty for other tokens' clients, unless the request has an administrator's token.")
    buckets = _list(fields.String(), "The buckets' names.", required=True)
    client_ip = _text("The client's address.")
    client_type = _text("The product in the client's User-Agent; empty if there is none.")
    client_version = _text("The version in the client's User-Agent; empty if there is none.")
    consumer = _text("The name of the consumer that keeps the position; empty if none was named.")
    destination = _text(_FOR_CLIENTS)
    positions = fields.Dict(
        required=True,
        keys=fields.String(),
        values=fields.Integer(),
        metadata=described("By the bucket's name, the seq up to which the client got everything."),
    )
    subscribed_at = _time()


class ClientsAnswer(Schema):
    webhook_clients = _list(ClientAnswer, "The clients that are subscribed.", required=True)
    tunnel_clients = _list(fields.Raw(), "Always empty: this relay has no tunnels.", required=True)
