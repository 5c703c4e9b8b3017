"""The relay's data model as immutable values: buckets, inputs, events, epochs, positions, tokens.

Nothing here does I/O. Times are unix seconds (float), sizes are bytes, identifiers are strings.
`Event` and `NewEvent` are on the hot path, so they are msgspec structs; the others are frozen dataclasses.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

BucketId: TypeAlias = str
"""A bucket's public id, a uuid. It is never reused; the bucket's name may be."""

DAY = 86_400.0
MAX_TIME = 253_402_300_799
"""The last second of the year 9999, in unix seconds."""
MAX_SECONDS = 36_500 * DAY
"""The longest time that a setting or a field may ask for."""
MAX_COUNT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

UNTIL_IT_ENDS: Final = " (until it ends)"
"""Ends the description of a token that a command makes for itself, and revokes at its end, after the command's name:
`relay listen (until it ends)`."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """A webhook as received, before the log gives it a place.

    `path` is what follows the input in the URL, raw, with its leading slash, or empty. `query` has no leading `?`.
    `headers` is the raw header block: lines in their original order, each with its line end, no request line and no
    closing empty line. `dedupe` is the digest by which a duplicate is recognised, or None if the bucket does not
    deduplicate; `dedupe_window` is in seconds.

    `resend_of` is the id of the event that this one is a copy of, `target` the number of the one output that the copy
    goes to (None: as any event), `force` whether it skips the rules, `edited` whether somebody changed it. `verified`
    is the result of the input's signature check (None if it has none), `verdict` the reason, in words. Of an
    `ephemeral` event only the place is stored; its content stays in memory for a while.
    """

    input_id: str
    method: str
    path: bytes
    query: bytes
    headers: bytes
    body: bytes
    remote_ip: str
    dedupe: bytes | None = None
    dedupe_window: float = 0.0
    resend_of: str | None = None
    target: int | None = None
    force: bool = False
    verified: bool | None = None
    verdict: str = ""
    ephemeral: bool = False
    edited: bool = False

    @property
    def size(self) -> int:
        """The bytes that count towards retention, pages and budgets."""
        return len(self.path) + len(self.query) + len(self.headers) + len(self.body)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One stored webhook at its place in its bucket's log. The fields after `received_at` are those of `NewEvent`."""

    seq: int
    epoch: str
    received_at: float
    input_id: str
    method: str
    path: bytes
    query: bytes
    headers: bytes
    body: bytes
    remote_ip: str
    resend_of: str | None = None
    target: int | None = None
    force: bool = False
    verified: bool | None = None
    verdict: str = ""
    edited: bool = False

    @property
    def id(self) -> str:
        """The event id: `<epoch>-<seq>`."""
        return f"{self.epoch}-{self.seq}"

    @property
    def size(self) -> int:
        """The bytes that count towards retention, pages and budgets."""
        return len(self.path) + len(self.query) + len(self.headers) + len(self.body)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """An event's place in the log. A duplicate has the place of the original."""

    epoch: str
    seq: int
    duplicate: bool = False


class Result(msgspec.Struct, frozen=True):
    """The outcome of one try. `status`: sent, failed, stalled or rejected. `status_code`: 0 if there was no answer.

    `retries`: the number of tries before. `at`: unix seconds. `left_out`: headers and body were not read, as there were
    too many bytes of them.
    """

    status: str
    status_code: int
    headers: Mapping[str, Sequence[str]]
    body: bytes
    duration_ms: int
    retries: int
    at: float
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """One stretch of a bucket's log, from `from_seq` to where the next epoch begins."""

    epoch: str
    from_seq: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a log holds now: seqs `first` to `head` (none if head < first), and its epochs, oldest first.

    `open` says whether the newest epoch may still grow. If it is false, the next append opens another one.
    """

    first: int
    head: int
    epochs: tuple[Epoch, ...]
    open: bool

    @property
    def begin(self) -> int:
        """The seq with which the log began: it never held a lower one."""
        return self.epochs[0].from_seq


GapReason: TypeAlias = Literal["retention", "reset", "future", "ephemeral"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a cursor should have met but that are missing. Either all three numbers are known, or none."""

    reason: GapReason
    from_seq: int | None = None
    to_seq: int | None = None

    @property
    def count(self) -> int | None:
        if self.from_seq is None or self.to_seq is None:
            return None
        return self.to_seq - self.from_seq + 1

    def joined(self, later: Gap) -> Gap | None:
        """Both gaps as one, if the later one directly follows this one and has the same reason; otherwise None."""
        if later.reason != self.reason or self.to_seq is None or later.from_seq != self.to_seq + 1:
            return None
        return Gap(self.reason, self.from_seq, later.to_seq)


@dataclass(frozen=True, slots=True)
class Latest:
    """The position at the head: only events from now on."""


@dataclass(frozen=True, slots=True)
class Earliest:
    """The position before the oldest event in the log."""


@dataclass(frozen=True, slots=True)
class Last:
    """The position `count` events before the head."""

    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """The position before the first event that was received at or after `time`."""

    time: float


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after the event with this id (`<epoch>-<seq>`, perhaps with an output's number)."""

    epoch: str
    seq: int
    output: int | None = None


Position: TypeAlias = Latest | Earliest | Last | Since | Cursor


@dataclass(frozen=True, slots=True)
class Retention:
    """The rule by which old events are removed: by whichever limit is reached first. None is no limit."""

    max_age: float | None = 30 * DAY
    max_events: int | None = None
    max_bytes: int | None = 10 * GIB
    wait_for_consumers: bool = False
    """Events that a consumer is not done with stay, whatever the limits are, up to `hard_max_bytes`."""
    hard_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Events with the same `header` (for "auto": the same well-known delivery id) within `window` seconds are stored
    once."""

    header: str
    window: float = DAY


@dataclass(frozen=True, slots=True)
class BucketAuth:
    """The credentials that a bucket requires of its senders."""

    type: Literal["none", "basic", "token"] = "none"
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `events` in any `interval` seconds (a token bucket of that size); beyond it, 429."""

    events: int
    interval: float = 1.0


@dataclass(frozen=True, slots=True)
class Verify:
    """How an input checks its senders' signatures. Several secrets are valid at once, so that they can be rotated."""

    provider: str
    secrets: tuple[str, ...] = field(repr=False)
    on_failure: Literal["reject", "mark"] = "reject"


@dataclass(frozen=True, slots=True)
class Output:
    """Where a bucket's events leave: through a connected client (`internal`), or forwarded by the relay (public).

    `n` is its number in the bucket, which is never reused. `rules` is a document for `relay_tornado.rules` (None: every
    event). `timeout` is in seconds; `durability` and `throttle` are documents of the original's form. `extra` holds
    unknown fields that a client sent: they are kept and echoed.
    """

    id: str
    n: int
    name: str
    created_at: float
    updated_at: float
    description: str = ""
    destination: str = ""
    internal: bool = True
    disabled: bool = False
    lock_path: bool = False
    timeout: float = 10.0
    retries: int = 0
    tls_verification: bool = True
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rules: Any = None
    function_id: str = ""
    throttle: Any = None
    durability: Any = None
    strict_order: bool = False
    """Of a public one: an event that can't be delivered yet makes the later ones wait."""
    secret: str = field(default="", repr=False)
    """Of a public one: the key that signs requests by Standard Webhooks (`whsec_` and base64). "" is no signature."""
    paused: bool = False
    """Of a public one: nothing is forwarded until it is resumed; its position stays."""
    disabled_reason: str = ""
    """Why the relay itself disabled it; "" if it did not."""
    extra: Mapping[str, Any] = field(default_factory=dict)


STATUSES = ("received", "sent", "failed", "stalled", "rejected")
"""The statuses of an event or a copy in the lists of logs."""
NUMBERED = ("preparing", "sent", "failed", "stalled", "received", "rejected")
"""Statuses by the numbers that some clients of the original have for them; the first says nothing."""

ANY_OUTPUT = "anyOutput"


@dataclass(frozen=True, slots=True)
class Input:
    """A public URL that feeds a bucket, and the static answer to its senders."""

    id: str
    name: str
    created_at: float
    updated_at: float
    description: str = ""
    status_code: int = 200
    body: str = ""
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    function_id: str = ""
    custom_domain: str = ""
    path_prefix: str = ""
    strip_path_prefix: bool = False
    response_from_output: str = ""
    """An output's id, or ANY_OUTPUT: the sender gets a client's answer to that copy. "" is none."""
    verify: Verify | None = None
    rate_limit: RateLimit | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A named stream of events with its inputs and outputs. It is one record, and is changed as a whole."""

    id: BucketId
    name: str
    created_at: float
    updated_at: float
    description: str = ""
    stream: bool = True
    large_webhooks: bool = False
    max_body: int | None = None
    """Bytes; None is the setting `max_body`, or `large_max_body` if `large_webhooks` is on."""
    auth: BucketAuth = BucketAuth()
    retention: Retention = Retention()
    dedupe: Dedupe | None = None
    inputs: tuple[Input, ...] = ()
    ephemeral: bool = False
    rate_limit: RateLimit | None = None
    outputs: tuple[Output, ...] = ()
    next_output: int = 1
    expires_at: float | None = None
    """When the relay deletes the bucket and everything in it; None is never."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def output(self, number: int | None) -> Output | None:
        """The output with this number; None if there is none."""
        return next((each for each in self.outputs if each.n == number), None)

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Token:
    """Access for a client. The secret is shown once and never stored: `secret_hash` is its SHA-256, in hex.

    `buckets` holds ids; None is all buckets, future ones too. After a rotation, the previous secret stays valid until
    `previous_until`.
    """

    key: str
    secret_hash: str = field(repr=False)
    created_at: float
    description: str = ""
    buckets: frozenset[BucketId] | None = None
    api_access: bool = True
    expires_at: float | None = None
    previous_hash: str = field(default="", repr=False)
    previous_until: float = 0.0
    durable: bool = False
    """The relay keeps a position for it, moved by receipt, in every bucket that it can read."""
    tunnels: tuple[str, ...] = ()
    """What a client sent about tunnels, which the relay does not have: kept and shown."""

    @property
    def administrator(self) -> bool:
        """Whether it may do everything: it has all buckets and API access."""
        return self.buckets is None and self.api_access

    def reads(self, bucket_id: BucketId) -> bool:
        """Whether this bucket is in the token's scope."""
        return self.buckets is None or bucket_id in self.buckets

    def keeps_position(self, bucket: Bucket) -> bool:
        """Whether the relay keeps a position for it in this bucket."""
        return self.durable and self.reads(bucket.id) and not bucket.ephemeral

    def opens(self, secret_hash: str, now: float) -> bool:
        """Whether the secret with this hash is the token's, or its previous one while that is valid."""
        current = hmac.compare_digest(secret_hash, self.secret_hash)
        previous = hmac.compare_digest(secret_hash, self.previous_hash)
        return current or (previous and now < self.previous_until)

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def left_behind(self, now: float) -> bool:
        """Whether a command that made it for itself was killed, and it has expired since. Somebody uses one that is
        durable now, as commands make none."""
        own = self.description.startswith("relay ") and self.description.endswith(UNTIL_IT_ENDS)
        return own and not self.durable and self.expired(now)


def counted(count: int, noun: str) -> str:
    """The number and the noun: `1 event`, `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """The text, with every character that could control a terminal escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def to_document(value: Any) -> Any:
    """A copy of a record, or of a part of one, as plain JSON data: sets and tuples become lists."""
    return msgspec.json.decode(msgspec.json.encode(value))


def from_document(kind: type[Any], document: Any) -> Any:
    """A `Bucket` or a `Token` from its JSON data. Unknown fields are refused: otherwise a known one would get its
    default, and a bucket with a misspelt `auth` would be open to everybody.

    Raises msgspec.ValidationError if the document is not valid.
    """
    made = msgspec.convert(document, kind)
    _refuse_unknown(document, msgspec.to_builtins(made))
    return made


def _refuse_unknown(given: Any, known: Any) -> None:
    """Raises if `given` has fields that are not in `known`, which was read from it."""
    if isinstance(given, dict):
        for name, value in given.items():
            if name not in known:
                raise msgspec.ValidationError(f"it has an unknown field {printable(name[:40])!r}")
            _refuse_unknown(value, known[name])
    elif isinstance(given, list):
        for one, same in zip(given, known, strict=False):  # a set may be in another order and have fewer elements
            _refuse_unknown(one, same)
