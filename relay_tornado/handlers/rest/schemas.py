"""The forms of REST's answers, as marshmallow schemas, which describe them; those of queries are in `queries.py`.

A field without a description here has that of the request's form (`FORM`), if that has the field. A bucket, an input
and an output may hold more than is here: what a client sent and nobody here understands is echoed.
"""

from __future__ import annotations

from typing import ClassVar, Final, get_args

from marshmallow import Schema, fields, validate

from relay_tornado.handlers.rest.answer_fields import decimal, flag, header_map, integer, listed, part, text, unix_time
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

_FOR_CLIENTS: Final = "Always the same: stock clients read it."
_CURSOR: Final = "The `cursor` of the request for the next page; absent on the last."


class Problem(Schema):
    """An error."""

    code = text("What kind of error it is.")
    message = text("What is wrong, and what to do.")
    field = fields.String(metadata=described("The part of the request that is wrong, like `retention.max_age`."))


class Deleted(Schema):
    id = text("The id of what was deleted: a token's key, a consumer's name.")
    status = text("Always `deleted`.", validate=validate.Equal("deleted"))


class AuthAnswer(Schema):
    FORM: ClassVar = AuthFields

    type = text(validate=validate.OneOf(["none", "basic", "token"]))
    username = text()
    password = text()
    token = text()


class InputAnswer(Schema):
    FORM: ClassVar = InputFields

    id = text("The part after `/v1/webhooks/` in the URL for senders.")
    name = text()
    description = text()
    bucket_id = text("The id of its bucket.")
    function_id = text()
    status_code = integer()
    body = text()
    headers = header_map()
    custom_domain = text()
    path_prefix = text()
    strip_path_prefix = flag()
    response_from_output = text()
    verify = part(VerifyFields, allow_none=True)
    rate_limit = part(RateLimitFields, allow_none=True)
    created_at = unix_time()
    updated_at = unix_time()


class OutputAnswer(Schema):
    FORM: ClassVar = OutputFields

    id = text("The output's id, which names it in paths.")
    name = text()
    description = text()
    bucket_id = text("The id of its bucket.")
    number = integer("Unique in the bucket; the last part of the ids of the output's copies.")
    destination = text()
    internal = flag()
    disabled = flag()
    lock_path = flag()
    timeout = integer()
    retries = integer()
    tls_verification = flag()
    headers = header_map()
    rules = fields.Raw(required=True, allow_none=True)
    function_id = text()
    throttle = part(ThrottleFields, allow_none=True)
    durability = part(DurabilityFields, allow_none=True)
    strict_order = flag()
    secret = text()
    paused = flag()
    disabled_reason = text("Why the relay disabled the output; empty if it did not.")
    created_at = unix_time()
    updated_at = unix_time()


class BucketAnswer(Schema):
    FORM: ClassVar = BucketFields

    id = text("The bucket's id: it stays the same when the name changes, and is never used again.")
    name = text()
    description = text()
    account_id = text(_FOR_CLIENTS)
    created_at = unix_time()
    updated_at = unix_time()
    stream = flag()
    ephemeral = flag()
    suspended = flag(_FOR_CLIENTS)
    static_ip = flag("Only stored and returned.")
    large_webhooks = flag()
    auth = part(AuthAnswer)
    inputs = listed(InputAnswer, "The bucket's inputs, oldest first.")
    outputs = listed(OutputAnswer, "The bucket's outputs, oldest first.")
    retention = part(RetentionFields)
    dedupe = part(DedupeFields, allow_none=True)
    rate_limit = part(RateLimitFields, allow_none=True)
    max_body = integer(allow_none=True)
    expires_at = integer(allow_none=True)


class BinAnswer(Schema):
    bucket = part(BucketAnswer, "The bucket, with one input.")
    url = text("The URL for senders.")
    expires_at = unix_time(
        "The unix time in seconds at which the bucket is deleted, unless a PUT sets its `expires_at`."
    )


class ResultAnswer(Schema):
    """The fields that a delivery has, and an event's or a copy's log, which shows its newest delivery."""

    status = text(
        "`received`: nothing was tried or answered yet; `sent`: delivered; `failed`: given up; `stalled`: it will be "
        "tried again; `rejected`: a client refused it.",
        validate=validate.OneOf(STATUSES),
    )
    status_code = integer("The status code of the answer; 0 if nobody answered.")
    duration_ms = integer("How many milliseconds the answer took.")
    retries = integer("The number of attempts before this one.")
    response_headers = header_map("The headers of the answer, by name.")
    response_body = text("The body of the answer in base64.")
    response_truncated = fields.Boolean(
        metadata=described(
            "True if the answer's headers and body are left out, because newer ones have 16 MiB; else absent."
        )
    )


class DeliveryAnswer(ResultAnswer):
    """What came of a try, or a client's answer."""

    output = integer("The number of the copy's output, 0 for the event itself.")
    at = decimal("Unix time in seconds.")


class LogAnswer(ResultAnswer):
    id = text("The id of the event (`<epoch>-<seq>`), or of its copy for one output (`<epoch>-<seq>-<number>`).")
    account_id = text(_FOR_CLIENTS)
    bucket_id = text("The id of its bucket.")
    input_id = text("The id of the input by which it came in.")
    output_id = text("The id of the output that the delivery is about; empty if it is about the event itself.")
    method = text("The method of the request.")
    body = text("The body of the request; what is not UTF-8 is replaced, see `body_base64`.")
    headers = header_map("The headers of the request, by name.")
    raw_query = text("The query of the request, without the `?`.")
    extra_path = text("What followed the input in the URL, with its leading slash; or empty.")
    ip_address = text("The sender's address.")
    internal = flag("False if the delivery is that of a public output.")
    ephemeral = flag("True if the content was only in memory.")
    created_at = unix_time("The unix time in seconds at which it came in.")
    updated_at = unix_time("The unix time in seconds of the delivery; if there is none, that of `created_at`.")
    seq = integer("Its place in the bucket's log: 1, 2, 3, …")
    epoch = text("The stretch of the bucket's log that its id begins with.")
    received_at = decimal("The unix time in seconds at which it came in, with a fraction.")
    verified = flag("The result of the signature check; null if there was none.", allow_none=True)
    verdict = text("The reason for the result of the signature check.")
    resend_of = text("The id of the event that this one is a copy of.", allow_none=True)
    target = integer("The number of the output, if the event goes to one output alone; else null.", allow_none=True)
    edited = flag("True in a copy that was changed before it was sent.")
    size = integer("The bytes of path, query, headers and body together.")
    headers_base64 = text("The header block as it was received, in base64.")
    body_base64 = fields.String(
        metadata=described("The exact bytes of the body in base64, if it is not UTF-8; else absent.")
    )
    deliveries = fields.List(
        fields.Nested(DeliveryAnswer),
        metadata=described("All results, oldest first; only in the answer for a single event."),
    )


class LogPage(Schema):
    data = listed(LogAnswer, "The events, newest first.")
    total = integer("How many events match; with `status` or `output`, of those that were examined.")
    limit = integer("The limit that applied.")
    offset = integer("The number of events that were skipped.")
    next_cursor = fields.String(metadata=described(_CURSOR))
    truncated = fields.Boolean(
        metadata=described("True if the page ended early: `next_cursor` continues. Absent otherwise.")
    )


class GapAnswer(Schema):
    """Events that are missing. The three numbers are null if nobody knows how many there were."""

    first = integer("The first missing seq.", data_key="from", allow_none=True)
    last = integer("The last missing seq.", data_key="to", allow_none=True)
    count = integer("How many are missing.", allow_none=True)
    reason = text(
        "`retention`: they are not kept any more, or are damaged; `ephemeral`: their content was only in memory; "
        "`reset`, `future`: the cursor belongs to a log that was lost.",
        validate=validate.OneOf(get_args(GapReason)),
    )


class EventPage(Schema):
    logs = listed(LogAnswer, "The events, oldest first.")
    has_more = flag("Whether the bucket holds later events.")
    next_cursor = fields.String(metadata=described("The `cursor` of the next request; only with a cursor."))
    gap = fields.Nested(
        GapAnswer, metadata=described("Events after the cursor that are no longer kept, or are damaged.")
    )


class Skipped(Schema):
    """Events of the range that are not there any more."""

    first = integer("The first missing seq.", data_key="from")
    last = integer("The last missing seq.", data_key="to")
    count = integer("How many are missing.")
    reason = text(
        "`ephemeral`: their content was not kept; `retention`: they are gone or damaged.",
        validate=validate.OneOf(["retention", "ephemeral"]),
    )


class Resent(Schema):
    status = text("Always `resent`.")
    ids = listed(fields.String(), "The ids of the copies, in their order.")
    next_cursor = fields.String(
        metadata=described("There is more than one request does: repeat it with this as `cursor`. Absent at the end.")
    )
    problem = fields.String(metadata=described("Why the request was cut short; absent if it was not."))
    skipped = fields.List(
        fields.Nested(Skipped),
        metadata=described("The events of the range that can't be sent any more; absent if there are none."),
    )


class Answered(Schema):
    id = text("The id in the path.")
    status = text("The status that was stored.")


class ScopesAnswer(Schema):
    buckets = listed(fields.String(), "The buckets' ids; empty means every bucket.")
    tunnels = listed(fields.String(), "Only stored and returned.")


class LagAnswer(Schema):
    events = integer("The number of events that the consumer is not done with.")
    seconds = decimal("For how many seconds the oldest of them has waited.")


class OldestEventAnswer(Schema):
    """The oldest event that a consumer is not done with."""

    id = text("The event's id.")
    attempts = integer("How often it was tried, with a try that is in flight.")
    out = flag("True if it is in flight.")
    since = decimal("The unix time of the first try that failed; null if none did.", allow_none=True)
    next_at = decimal(
        "The unix time from which it may be tried again; null if it does not wait for that.", allow_none=True
    )


class CircuitAnswer(Schema):
    """The circuit of an output, while it is open."""

    next_at = decimal("The unix time from which the next try is made; null while it is in flight.", allow_none=True)


class MetGaps(Schema):
    """Events that left before the consumer had them."""

    times = integer("The number of gaps.")
    last = part(GapAnswer, "The last gap.")
    at = unix_time(
        "The unix time in seconds at which the last gap was noticed: by a client or an output, or, while nobody uses "
        "the consumer, by this answer."
    )


class ConsumerAnswer(Schema):
    """Where a consumer is."""

    bucket_id = text("The id of its bucket.")
    bucket_name = text("The name of its bucket.")
    kind = text(
        "Whose position it is: a client's (`client`), a durable token's (`token`) or a public output's (`output`).",
        validate=validate.OneOf(["client", "token", "output"]),
    )
    name = text("The name that the client gave it, the token's key, or the output's number.")
    output_name = text("The output's name; null for a client's or token's consumer.", allow_none=True)
    ack = text(
        "What moves it: acks (`explicit`), receipts (`receipt`), or the relay's forwarding (`forward`).",
        validate=validate.OneOf(["explicit", "receipt", "forward"]),
    )
    floor = text("The id up to which the consumer is done with every event, except parked ones.")
    head = text("The bucket's newest id.")
    pending = integer("The number of events that the consumer is not done with.")
    out = integer("Of the pending events, those in flight.")
    parked = integer(
        "Of the pending events, those that wait for another try, or are in flight for it (then `out` counts them, too)."
    )
    dead = integer("The number of events that the consumer gave up.")
    connections = integer("The number of connections that work on it now.")
    ack_wait = decimal("In seconds; null without explicit acks.", allow_none=True)
    max_deliver = integer("The number of tries (0 is no limit); null without explicit acks.", allow_none=True)
    lag = part(LagAnswer, "How far it is behind.")
    oldest = part(OldestEventAnswer, "The oldest of the pending events; null if there is none.", allow_none=True)
    circuit = part(
        CircuitAnswer,
        "Not null while an output's circuit is open: its destination failed ten times in a row, and is left alone.",
        allow_none=True,
    )
    gaps = part(MetGaps, "Events that left before it was done with them; null if there were none.", allow_none=True)
    created_at = unix_time()
    updated_at = unix_time()


class SeekResult(Schema):
    before = text("The id after which the consumer continued before.", data_key="from")
    after = text("The id after which it continues now.", data_key="to")
    repeats = integer("The number of events that it was done with and gets again.")
    skips = integer("The number of events that it was not done with and does not get.")
    preview = flag("True if nothing was changed.")


class ReplayResult(Schema):
    scheduled = integer("The number of events that are redelivered and that it would not get anyway.")
    next = integer("The `first` of the request that continues; null at the end of the range.", allow_none=True)
    full = flag("True if as many events wait as may: continue a little later.")
    anchor = text("With a `speed`: the `anchor` of the request that continues; else null.", allow_none=True)


class DeadLetterAnswer(Schema):
    id = text("The event's id.")
    seq = integer("The event's place in the bucket's log.")
    kind = text("The kind of its consumer: `client`, `token` or `output`.")
    consumer = text("The consumer's name.")
    output_name = text("The output's name; null for a client's or token's consumer.", allow_none=True)
    attempts = integer("How often the event was tried.")
    since = decimal("The unix time of the first try.")
    at = decimal("The unix time at which the consumer gave the event up.")
    reason = text(
        "`max_deliver`, `given_up` (by a request), `retention` (the event left before the consumer was done with it), "
        "`ephemeral` (so did its content), `damaged`, or why an output gave it up."
    )


class DeadLetterPage(Schema):
    data = listed(DeadLetterAnswer, "The dead letters, oldest event first.")
    next_cursor = fields.String(metadata=described(_CURSOR))


class Rescheduled(Schema):
    scheduled = integer("The number of dead letters that are redelivered.")
    left = integer("The number of dead letters for which there was no room: repeat the request later.")
    gone = integer("The number of dead letters whose events retention removed: they can't be redelivered.")


class Forgotten(Schema):
    forgotten = integer("The number of dead letters that were forgotten.")


class TokenAnswer(Schema):
    id = text("The token's key.")
    key = text("The token's key: the user name of `Authorization: Basic`.")
    description = text("What the token is for.")
    name = text("The same as `description`.")
    scopes = part(ScopesAnswer, "What the token may see.")
    api_access = text(
        "Whether the token may use this interface. Without, it can only connect, and answer events.",
        validate=validate.OneOf(["enabled", "disabled"]),
    )
    durable = flag("Whether the relay keeps the token's position in every bucket that it reads.")
    created_at = unix_time()
    updated_at = unix_time("The same as `created_at`.")
    expires_at = unix_time("The unix time in seconds at which the token ends; null is never.", allow_none=True)
    last_used_at = unix_time(
        "The unix time in seconds, to the minute, at which the token was last used; null is never.", allow_none=True
    )
    last_login = text("`last_used_at` as a date and time; empty if the token was never used.")
    active = flag("Always true.")


class TokenWithSecretAnswer(TokenAnswer):
    secret = text("Only this answer shows it: the relay stores its hash.")


class UsageNumbers(Schema):
    """What the token's buckets hold."""

    buckets = integer("The number of buckets.")
    inputs = integer("The number of their inputs.")
    outputs = integer("The number of their outputs.")
    webhooks = integer("The number of events that they ever received.")
    webhooks_stored = integer("The number of events that are kept.")
    connected_clients = integer("The number of clients that are subscribed to them.")


class PlanNumbers(Schema):
    """What the relay's settings allow."""

    name = text("Always `self-hosted`.")
    max_body = integer("The largest body of a webhook, in bytes.")
    large_max_body = integer("The same in a bucket with `large_webhooks`.")
    max_sockets = integer("The most WebSockets at once.", allow_none=True)
    retention_age = decimal("A new bucket's `retention.max_age`, in seconds; null is no limit.", allow_none=True)
    retention_events = integer("A new bucket's `retention.max_events`; null is no limit.", allow_none=True)
    retention_bytes = integer("A new bucket's `retention.max_bytes`; null is no limit.", allow_none=True)


class UsageAnswer(Schema):
    usage = part(UsageNumbers, "What the token's buckets hold.")
    plan_meta = part(PlanNumbers, "What the relay's settings allow.")


class ConnectedClientAnswer(Schema):
    access_token_key = text("Empty for other tokens' clients, unless the request has an administrator's token.")
    buckets = listed(fields.String(), "The buckets' names.")
    client_ip = text("The client's address.")
    client_type = text("The product in the client's User-Agent; empty if there is none.")
    client_version = text("The version in the client's User-Agent; empty if there is none.")
    consumer = text("The name of the consumer that keeps the position; empty if none was named.")
    destination = text(_FOR_CLIENTS)
    positions = fields.Dict(
        required=True,
        keys=fields.String(),
        values=fields.Integer(),
        metadata=described("By the bucket's name, the seq up to which the client got everything."),
    )
    subscribed_at = unix_time()


class ConnectedClientsAnswer(Schema):
    webhook_clients = listed(ConnectedClientAnswer, "The clients that are subscribed.")
    tunnel_clients = listed(fields.Raw(), "Always empty: this relay has no tunnels.")
