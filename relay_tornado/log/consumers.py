"""Where consumers stand: the contract of the store. One suite of tests runs over every implementation.

A consumer is a bucket with a kind and a name: `client` (a client's, with explicit acks or by receipt), `token` (a
durable token's, by receipt; the name is its key), `output` (the forwarder's of a public output; the name is its number)
or `events` (the queue of those who poll; the name is an output's number, 0 for none).

What changes is asked for when something is committed anyway: `save` says that there is something, without waiting, and
it rides along with the next commit of events, or goes in one of its own in a moment where none comes: it costs no
transaction. A restart sees what was committed, so a crash repeats at most the last moment of it and loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from relay_tornado.consumer_changes import Changes, Parked
from relay_tornado.errors import Conflict, Damaged
from relay_tornado.model import BucketId, Gap

MOST_CONSUMERS: Final = 1_000
"""Consumers of kind `client` that a bucket may have: whoever may subscribe may make one."""

MOST_MISSED: Final = 1_000
"""Dead letters that are kept of a consumer's events that retention took away, the newest ones; the others leave with
their events."""

UNTOLD: Final = 16
"""Gaps of a consumer that no client was told of, each for itself; beyond that the newest ones are one."""

Kind: TypeAlias = Literal["client", "token", "output", "events"]


class Key(NamedTuple):
    """Which consumer."""

    bucket_id: BucketId
    kind: Kind
    name: str


def output_key(bucket_id: BucketId, number: int) -> Key:
    """That of a public output, by its number."""
    return Key(bucket_id, "output", str(number))


class Terms(msgspec.Struct, frozen=True):
    """What a consumer's deliveries are judged by: seconds until one that is not acked goes out again, and the most
    tries before it is given up. `receipt`: its position is moved by receipts, nobody acks."""

    ack_wait: float = 30.0
    max_deliver: int = 5
    receipt: bool = False


def too_many(bucket: str) -> Conflict:
    """What is raised where a bucket (its name or id) has as many consumers of clients as it may have."""
    return Conflict(
        f"consumer: the bucket {bucket!r} has {MOST_CONSUMERS:,} consumers, and may have no more: use one of them, or "
        "delete those that nobody needs (`relay consumer list`, `relay consumer delete`)"
    )


def damaged(key: Key, why: str) -> Damaged:
    """What is raised for a consumer whose record can't be understood."""
    name = key.name if key.kind == "client" else f"{key.kind}:{key.name}"
    delete = ", or remove it by `relay consumer delete --yes`" if key.kind == "client" else ""
    return Damaged(
        f"consumer: the record of {name!r} of the bucket {key.bucket_id} is damaged ({why}): put it where it is to go "
        f"on by `relay consumer seek`{delete}"
    )


class Gaps(NamedTuple):
    """The gaps that a consumer met: how many, the last one, and when (unix seconds)."""

    times: int
    last: Gap
    at: float


def with_untold(key: Key, untold: Sequence[Gap], gap: Gap) -> tuple[Gap, ...]:
    """What no client was told of, with a gap that the consumer has just met. Nobody tells an output or a queue."""
    if key.kind not in ("client", "token"):
        return ()
    before = untold[-1] if untold else None
    if before is not None and (before == gap or len(untold) == UNTOLD or before.joined(gap) is not None):
        return (*untold[:-1], span((before, gap)))
    return (*untold, gap)


def span(gaps: Sequence[Gap]) -> Gap:
    """Several gaps as one, from the first event missing to the last."""
    begins = [gap.from_seq for gap in gaps if gap.from_seq is not None]
    ends = [gap.to_seq for gap in gaps if gap.to_seq is not None]
    if len(begins) < len(gaps) or len(ends) < len(gaps):
        # One that vouches for nothing leaves nothing to vouch for.
        return Gap(gaps[-1].reason)
    return Gap(gaps[-1].reason, min(begins), max(ends))


class Stored(NamedTuple):
    """A consumer as it is stored: see `progress` for `floor`, `done`, `parked` and `tried`. Times in unix seconds."""

    key: Key
    terms: Terms
    floor: int
    done: Sequence[tuple[int, int]]
    parked: Mapping[int, Parked]
    dead: int
    """How many dead letters it has."""
    created_at: float
    updated_at: float
    gaps: Gaps | None = None
    """None where it met none."""
    tried: Sequence[tuple[int, int]] = ()
    """What was being tried, of what the log holds."""
    untold: Sequence[Gap] = ()
    """Gaps that it met and no client was told of, in the order in which it met them."""
    damaged: str = ""
    """Why nothing but the key counts: the record can't be understood."""


class DeadLetter(NamedTuple):
    """An event that a consumer gave up. `since` is when it was tried first, `at` when it was given up."""

    key: Key
    seq: int
    attempts: int
    since: float
    at: float
    reason: str


class Consumers(Protocol):
    """Errors: BucketGone, Unavailable, NoSpace, Unknown, and Damaged of `create` and `get`. Consumers leave with their
    bucket. With its events leave their dead letters, and what is parked becomes a dead letter whose reason is
    `consumer_changes.RETENTION`; of these some stay."""

    async def create(self, key: Key, floor: int, terms: Terms, at: float) -> Stored:
        """Makes a consumer that begins behind `floor`, committed on return. One that is there stays as it is, but for
        its terms, and is returned. `at` is unix seconds. Raises Conflict where the bucket has `MOST_CONSUMERS` of
        clients."""

    async def get(self, key: Key) -> Stored | None:
        """A consumer with all that was saved so far, None where there is none."""

    async def list(self, bucket_id: BucketId | None = None, *, whole: bool = False) -> Sequence[Stored]:
        """All consumers of a bucket, or of all of them, as they were at the last commit, with what is parked where they
        are wanted `whole`; a damaged one says so. It is logged once."""

    async def clients(self, bucket_id: BucketId) -> int:
        """How many consumers of kind `client` a bucket has."""

    def save(self, key: Key, changes: Callable[[], Changes | None]) -> None:
        """Has a consumer's changes be committed soon: `changes` is called once, before the next commit or before this
        returns, and gives all that changed until then (None: nothing). Of a consumer that is not there (any more)
        nothing is kept. After a commit that failed it is tried again until it is there. Never raises."""

    def met(self, key: Key, gap: Gap, at: float) -> None:
        """Counts a gap that a consumer met at `at` (unix seconds), as `save` does; a client's or a token's is untold
        from then on."""

    def told(self, key: Key, gaps: Sequence[Gap]) -> None:
        """A client was told of these gaps, which is stored as `save` does."""

    async def saved(self) -> None:
        """Waits until everything that `save` was given before is committed. Raises what keeps it from that."""

    async def renew(self, key: Key, floor: int, at: float) -> None:
        """Has a damaged consumer begin anew behind `floor`, at `at` (unix seconds): its terms and dead letters stay.
        Nothing happens where there is none."""

    async def delete(self, key: Key) -> bool:
        """Forgets a consumer, its parked events and its dead letters. False where there is none."""

    async def dead(self, bucket_id: BucketId, key: Key | None, after: int, limit: int) -> Sequence[DeadLetter]:
        """Dead letters of one consumer, or (None) of the bucket's, with seqs above `after`, in order of seq."""

    async def forget_dead(self, key: Key, seqs: Sequence[int]) -> int:
        """Removes dead letters, and returns how many there were."""

    async def floor(self, bucket_id: BucketId, but: Collection[str] = ()) -> int | None:
        """The oldest seq that some consumer (kind `events`, and those of the tokens `but`, aside) is not known, by what
        is committed, to be done with: its floor + 1, or a parked one below. None where there is no such consumer in
        the bucket. What retention waits for."""

    def watch_losses(self, lost: Callable[[BucketId, int], None]) -> None:
        """Calls `lost` with every bucket and its log's head whenever what was committed may have gone, and before
        anything else is."""

    async def close(self) -> None:
        """Commits what was saved."""
