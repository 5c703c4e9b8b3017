"""Subscriptions: which buckets match, where delivery begins in each, and the answer to subscribe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from relay_tornado.copies import active
from relay_tornado.errors import BucketGone
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledger
from relay_tornado.log.lineage import epoch_at, gap_up_to, gap_within, place_cursor
from relay_tornado.model import Bounds, Bucket, BucketId, Cursor, Earliest, Gap, Last, Latest, Position, Since, Token
from relay_tornado.pieces import Pieces
from relay_tornado.registry.contract import Registry
from relay_tornado.rules import Rules
from relay_tornado.wire import control, frames

MOST_ENDED: Final = 200_000
"""The most characters of names that a subscription to all buckets has unsubscribed: future buckets may have them."""


class Directory:
    """The buckets, and the last name of each, which `changed` keeps up to date."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._names: dict[BucketId, str] = {}
        for bucket in registry.list("bucket"):
            self.changed(bucket.id)

    def find(self, name_or_id: str) -> Bucket | None:
        return self._registry.find_bucket(name_or_id)

    def get(self, bucket_id: BucketId) -> Bucket | None:
        return self._registry.get("bucket", bucket_id)

    def all(self) -> Sequence[Bucket]:
        return self._registry.list("bucket")

    def gained(self, before: Token, token: Token) -> Sequence[Bucket]:
        """The buckets that a token can read with its new record, and could not with the record `before`."""
        if before.buckets is None:
            return ()
        if token.buckets is None:
            return [bucket for bucket in self.all() if bucket.id not in before.buckets]
        there = map(self.get, token.buckets - before.buckets)
        return [bucket for bucket in there if bucket is not None]

    def durable(self, key: str, bucket_id: BucketId) -> bool:
        """Whether the relay keeps a position in the bucket for the token with this key."""
        bucket, token = self.get(bucket_id), self._registry.get("token", key)
        return token is not None and bucket is not None and token.keeps_position(bucket)

    def name(self, bucket_id: BucketId) -> str:
        """The bucket's name, or its last name if it is gone; "" for an unknown bucket."""
        return self._names.get(bucket_id, "")

    def changed(self, bucket_id: BucketId) -> None:
        """Takes over a bucket's current name from the registry."""
        bucket = self.get(bucket_id)
        if bucket is not None:
            self._names[bucket_id] = bucket.name

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket is gone, and everyone who had to be told has been."""
        self._names.pop(bucket_id, None)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscribe message and its sender, without what was unsubscribed since; `filter` is the request's, compiled."""

    request: control.Subscribe
    token: Token
    names: frozenset[str] | None
    """The requested names and ids; None means all buckets."""
    ended: frozenset[str] = frozenset()
    """Names that were unsubscribed, and the ids of the buckets with these names."""
    filter: Rules | None = None

    def wants(self, bucket: Bucket) -> bool:
        """Whether the bucket was requested, was not unsubscribed, and is in the token's scope."""
        names = (bucket.id, bucket.name)
        if not self.token.reads(bucket.id) or not self.ended.isdisjoint(names):
            return False
        return self.names is None or not self.names.isdisjoint(names)

    def begins(self, bucket: Bucket) -> Position:
        """Where delivery begins in a bucket that matches now and is not new."""
        position = self.request.position(bucket.id, bucket.name)
        if position is None or (bucket.ephemeral and not isinstance(position, Cursor)):
            return Latest()
        return position

    def without(self, names: Collection[str], ids: Iterable[BucketId]) -> Subscription:
        """The subscription without these names, none meaning all; `ids` are the buckets that they name."""
        if not names:
            return replace(self, names=frozenset())
        ended = names if self.names is None else self.names.intersection(names)
        return replace(self, ended=self.ended.union(ended, ids))


async def named(log: EventLog, request: control.Subscribe, buckets: Sequence[Bucket]) -> control.Subscribe:
    """The request with each id as the position of the bucket that it belongs to; `buckets` are the requested ones.

    A bare id is for its own bucket. If that is none of these, it is for all of them, future ones too, and each is told
    that it can't be honoured. In a map, an id under a name that none of them has is also for its own bucket: that was
    renamed.
    """
    since = request.since
    if isinstance(since, Cursor):
        own = await log.find(since.epoch)
        about = next((bucket.id for bucket in buckets if bucket.id == own), "*")
        return replace(request, since={about: since})
    if not isinstance(since, Mapping):
        return request
    names = {"*", *(name for bucket in buckets for name in (bucket.id, bucket.name))}
    strays = [at for name, at in since.items() if isinstance(at, Cursor) and name not in names]
    owners = {await log.find(at.epoch): at for at in strays}
    unsaid = [bucket.id for bucket in buckets if since.keys().isdisjoint((bucket.id, bucket.name))]
    return replace(request, since={**since, **{each: owners[each] for each in unsaid if each in owners}})


class Reached(NamedTuple):
    """A position: every event up to `seq` was received, and of the next one the copies for outputs up to `output`."""

    seq: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where delivery begins in one bucket, by what its log held at that moment (`bounds`)."""

    bucket: Bucket
    bounds: Bounds
    reached: Reached
    gap: Gap | None
    ledger: Ledger | None = None
    """The open consumer that keeps the position."""
    generation: int | None = None
    """The generation of the consumer's position that was read; None without a consumer."""

    @property
    def epoch(self) -> str:
        """The epoch of the position."""
        return epoch_at(self.bounds.epochs, self.reached.seq)

    @property
    def start(self) -> int:
        """The first seq that will be sent."""
        seq, output = self.reached
        return seq + 2 if output and not active(self.bucket, output) else seq + 1

    def answer(self) -> dict[str, Any]:
        """The bucket's entry in the answer to subscribe."""
        gap = self.gap
        return {
            "bucket_id": self.bucket.id,
            "bucket_name": self.bucket.name,
            "epoch": self.bounds.epochs[-1].epoch,
            "first": self.bounds.first,
            "head": self.bounds.head,
            "start": self.start,
            "recovered": gap is None,
            "gap": None if gap is None else frames.gap_fields(gap),
        }


def not_found(name: str) -> dict[str, Any]:
    """The entry of a name that does not exist or is not in the token's scope; it does not tell which."""
    return {"bucket_name": name, "error": "not_found"}


async def place_all(
    log: EventLog,
    buckets: Sequence[Bucket],
    request: control.Subscribe,
    kept: Mapping[BucketId, Reached],
    *,
    later: bool,
    floors: Mapping[BucketId, Reached] = MappingProxyType({}),
    first: Mapping[BucketId, Position] = MappingProxyType({}),
) -> list[Placement]:
    """Places the request's positions in these buckets; buckets whose log is gone are left out.

    A bucket without a requested position continues after `kept`, or begins at its head. An id is taken as one of the
    bucket for which it is requested (see `named`). `later`: the buckets join a subscription whose other buckets are
    placed; new ones begin with their first event. `floors` override the requested positions; `first` applies if none is
    requested.
    """
    pieces = Pieces()
    held = []
    for bucket in buckets:
        with suppress(BucketGone):
            held.append((bucket, await log.bounds(bucket.id)))
        await pieces.done()
    placements = []
    for bucket, bounds in held:
        await pieces.done()
        position = request.position(bucket.id, bucket.name)
        floor = floors.get(bucket.id)
        if floor is not None:
            position = None
        elif position is None and bucket.id not in kept:
            position = first.get(bucket.id)
        if request.outputs == "none" and isinstance(position, Cursor):
            # This client gets each event once, and so has received the one that this copy belongs to.
            position = replace(position, output=None)
        try:
            reached, gap = await _judge(log, bucket, bounds, position, floor or kept.get(bucket.id))
        except BucketGone:
            continue
        if bucket.ephemeral and isinstance(position, Earliest | Last | Since) and not later:
            # Nothing below the head is delivered in an ephemeral bucket.
            reached = Reached(bounds.head)
        if reached.output and request.outputs == "none":
            # The same holds for the position that an earlier subscribe has reached.
            reached = Reached(reached.seq + 1)
        placements.append(Placement(bucket, bounds, reached, gap))
    return placements


async def _judge(
    log: EventLog, bucket: Bucket, bounds: Bounds, position: Position | None, kept: Reached | None
) -> tuple[Reached, Gap | None]:
    lowest = bounds.first - 1
    match position:
        case None:
            if kept is None:
                return Reached(bounds.head), None
            return (kept, None) if kept.seq >= lowest else (Reached(lowest), gap_up_to(bounds, kept.seq, lowest))
        case Latest():
            return Reached(bounds.head), None
        case Earliest():
            return Reached(lowest), None
        case Last(count):
            return Reached(max(bounds.head - count, lowest)), None
        case Since(time):
            return Reached(await log.seek(bucket.id, time)), None
        case Cursor():
            return _after(bucket, bounds, position)


def _after(bucket: Bucket, bounds: Bounds, cursor: Cursor) -> tuple[Reached, Gap | None]:
    """The position after a cursor, which may be the id of one of an event's copies."""
    placed = place_cursor(bounds, cursor, bucket.ephemeral)
    seq, output, gap = placed.after, cursor.output, placed.gap
    if output is None or seq == 0:
        return Reached(seq), gap
    if gap is not None:
        return Reached(seq), gap_within(cursor, gap) if active(bucket, output) else gap
    if seq >= bounds.first:
        return Reached(seq - 1, output), None
    # The event was removed, and with it any later copies of it.
    return Reached(seq), Gap("retention", seq, seq) if active(bucket, output) else None
