"""The contract of the store of consumers. One test suite runs over every implementation.

A consumer is a bucket, a kind and a name. The kinds are `client` (a client's, with explicit acks or by receipt),
`token` (a durable token's, by receipt; the name is its key), `output` (a public output's forwarder; the name is the
output's number) and `events` (a queue that clients poll; the name is an output's number, or 0 for none).

`save` only announces changes, without waiting. They are written with the next commit of events, which costs no
transaction, or in a commit of their own a moment later if none comes. A crash loses changes that were not committed:
then the last deliveries are repeated, but no event is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

import msgspec

from relay_tornado.consumer_changes import Changes, Parked
from relay_tornado.errors import Conflict, Damaged
from relay_tornado.model import BucketId, Gap

MOST_CONSUMERS: Final = 1_000
"""How many consumers of kind `client` a bucket may have: anyone who may subscribe may create one."""

MOST_MISSED: Final = 1_000
"""How many dead letters with the reason `retention` a consumer keeps, the newest ones. Other dead letters are removed
with their events."""

UNTOLD: Final = 16
"""How many gaps that no client was told of are kept one by one; beyond that the newest ones are merged."""

Kind: TypeAlias = Literal["client", "token", "output", "events"]

SHOWN_KINDS: Final = tuple(kind for kind in get_args(Kind) if kind != "events")
"""The kinds of consumers that commands and REST name."""

_PREFIXES: Final = tuple(f"{kind}:" for kind in SHOWN_KINDS)


class Key(NamedTuple):
    """Identifies a consumer."""

    bucket_id: BucketId
    kind: Kind
    name: str

    @property
    def reference(self) -> str:
        return reference_of(self.kind, self.name)


def output_key(bucket_id: BucketId, number: int) -> Key:
    """The key of a public output's consumer, by the output's number."""
    return Key(bucket_id, "output", str(number))


def reference_of(kind: str, name: str) -> str:
    """The reference by which commands and REST name a consumer of its bucket: a client's name, or `<kind>:<name>`, also
    for a client whose name begins like that, or would be removed from a URL, as relays before 0.5.26 allowed."""
    bare = kind == "client" and not name.startswith(_PREFIXES) and name not in (".", "..")
    return name if bare else f"{kind}:{name}"


def with_output_name(shown: str, output_name: str | None) -> str:
    """What is shown of a consumer, and behind it the name of the public output whose it is: `output:1 (shop)`. None for
    any other consumer."""
    return shown if output_name is None else f"{shown} ({output_name})"


class Terms(msgspec.Struct, frozen=True):
    """The terms of a consumer's deliveries: seconds until an event without an ack is redelivered, and the most tries
    before it is given up. `receipt`: the position moves by receipts, without acks."""

    ack_wait: float = 30.0
    max_deliver: int = 5
    receipt: bool = False


def too_many(bucket: str) -> Conflict:
    """The error for a bucket (its name or id) that has as many consumers of clients as it may have."""
    return Conflict(
        f"consumer: the bucket {bucket!r} has {MOST_CONSUMERS:,} consumers, and may have no more: use one of them, or "
        "delete those that nobody needs (`relay consumer list`, `relay consumer delete`)"
    )


def damaged(key: Key, why: str) -> Damaged:
    """The error for a consumer whose record can't be understood."""
    delete = ", or remove it by `relay consumer delete --yes`" if key.kind == "client" else ""
    return Damaged(
        f"consumer: the record of {key.reference!r} of the bucket {key.bucket_id} is damaged ({why}): set its "
        f"position by `relay consumer seek`{delete}"
    )


class Gaps(NamedTuple):
    """The gaps that a consumer met: their number, the last one, and when it met that (unix seconds)."""

    times: int
    last: Gap
    at: float


def with_untold(key: Key, untold: Sequence[Gap], gap: Gap) -> tuple[Gap, ...]:
    """The gaps that no client was told of, after `gap` was met. There is nobody to tell for an output or a queue."""
    if key.kind not in ("client", "token"):
        return ()
    before = untold[-1] if untold else None
    if before is not None and (before == gap or len(untold) == UNTOLD or before.joined(gap) is not None):
        return (*untold[:-1], span((before, gap)))
    return (*untold, gap)


def span(gaps: Sequence[Gap]) -> Gap:
    """Several gaps merged into one, from the first missing event to the last."""
    begins = [gap.from_seq for gap in gaps if gap.from_seq is not None]
    ends = [gap.to_seq for gap in gaps if gap.to_seq is not None]
    if len(begins) < len(gaps) or len(ends) < len(gaps):
        # If the extent of one is unknown, so is that of the whole.
        return Gap(gaps[-1].reason)
    return Gap(gaps[-1].reason, min(begins), max(ends))


class Stored(NamedTuple):
    """A consumer as stored. `consumer_progress` explains `floor`, `done`, `parked` and `tried`. Times are unix
    seconds."""

    key: Key
    terms: Terms
    floor: int
    done: Sequence[tuple[int, int]]
    parked: Mapping[int, Parked]
    dead: int
    """The number of its dead letters."""
    created_at: float
    updated_at: float
    gaps: Gaps | None = None
    """None if it met no gap."""
    tried: Sequence[tuple[int, int]] = ()
    """The events that were being tried, as far as the log holds them."""
    untold: Sequence[Gap] = ()
    """Gaps that no client was told of, in the order in which the consumer met them."""
    damaged: str = ""
    """Why the record can't be understood; then only `key` is valid."""


class DeadLetter(NamedTuple):
    """An event that a consumer gave up at `at`. It was first tried at `since`."""

    key: Key
    seq: int
    attempts: int
    since: float
    at: float
    reason: str


class Consumers(Protocol):
    """Errors: BucketGone, Unavailable, NoSpace and Unknown; Damaged only from `create` and `get`.

    Consumers are removed with their bucket. When events are removed, so are their dead letters, and parked events
    become dead letters with the reason `consumer_changes.RETENTION`, some of which are kept."""

    async def create(self, key: Key, floor: int, terms: Terms, at: float) -> Stored:
        """Creates a consumer that begins after `floor`, committed on return. An existing one only gets the terms, and
        is returned. `at` is unix seconds. Raises Conflict if the bucket has `MOST_CONSUMERS` consumers of
        clients."""

    async def create_some(self, floors: Mapping[Key, int], terms: Terms, at: float) -> None:
        """Creates consumers, each after its floor, as `create` does; all in one commit, so they should be few. Those
        whose bucket is gone are left out."""

    async def get(self, key: Key) -> Stored | None:
        """A consumer with everything saved so far; None if there is none."""

    async def list(self, bucket_id: BucketId | None = None, *, whole: bool = False) -> Sequence[Stored]:
        """All consumers of a bucket, or (None) of all, as of the last commit; if `whole`, with their parked events. A
        damaged consumer is marked as such, and is logged once."""

    async def clients(self, bucket_id: BucketId) -> int:
        """How many consumers of kind `client` a bucket has."""

    def save(self, key: Key, changes: Callable[[], Changes | None]) -> None:
        """Has a consumer's changes committed soon. `changes` is called once, before the next commit or before this
        returns; it returns everything that changed until then, or None. Changes of a consumer that no longer exists are
        dropped. After a failed commit, the changes are part of the next one. Never raises."""

    def met(self, key: Key, gap: Gap, at: float) -> None:
        """Counts a gap that a consumer met at `at` (unix seconds); stored as by `save`. For a client or a token, the
        gap is kept until `told` is called with it."""

    def told(self, key: Key, gaps: Sequence[Gap]) -> None:
        """A client was told of these gaps; stored as by `save`."""

    async def saved(self) -> None:
        """Waits until everything that was passed to `save` before is committed. Raises the error that prevents it."""

    async def renew(self, key: Key, floor: int, at: float) -> None:
        """Lets a damaged consumer start again after `floor`; `at` is unix seconds. Its terms and dead letters stay.
        Nothing happens if there is no consumer."""

    async def delete(self, key: Key) -> bool:
        """Removes a consumer, its parked events and its dead letters. Returns False if there is none. If it raises,
        some dead letters may be gone."""

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket is deleted: nothing of its consumers stays in memory."""

    async def dead(self, bucket_id: BucketId, key: Key | None, after: int, limit: int) -> Sequence[DeadLetter]:
        """Dead letters of one consumer, or (None) of all in the bucket, with seqs above `after`, by ascending seq."""

    async def forget_dead(self, key: Key, seqs: Sequence[int]) -> int:
        """Removes dead letters and returns their number."""

    async def floor(self, bucket_id: BucketId, but: Collection[str] = ()) -> int | None:
        """The oldest seq that some consumer is not done with, by what is committed: its floor + 1, or a parked event
        below that. None if the bucket has no consumers. Retention waits for it. The kind `events` and the tokens `but`
        do not count."""

    def watch_losses(self, lost: Callable[[BucketId, int], None]) -> None:
        """Calls `lost` for every bucket with its log's head, whenever committed data may have been lost, before
        anything else is called."""

    async def close(self) -> None:
        """Commits what was saved."""
