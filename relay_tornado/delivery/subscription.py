"""What a client subscribed to: which buckets fit it, where delivery begins in each, and what the answer says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
"""Characters of the names that one subscription to every bucket is rid of; a name may be that of a bucket to come."""


class Directory:
    """The buckets, and what they were called last, which `changed` keeps right."""

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
        """The buckets that a token reads as its record is now, and did not before."""
        if before.buckets is None:
            return ()
        if token.buckets is None:
            return [bucket for bucket in self.all() if bucket.id not in before.buckets]
        there = map(self.get, token.buckets - before.buckets)
        return [bucket for bucket in there if bucket is not None]

    def durable(self, key: str, bucket_id: BucketId) -> bool:
        """Whether the token with this key has a position of its own in the bucket."""
        bucket, token = self.get(bucket_id), self._registry.get("token", key)
        return token is not None and bucket is not None and token.keeps_position(bucket)

    def name(self, bucket_id: BucketId) -> str:
        """The bucket's name, or the last one that it had; "" of one that it has not heard of."""
        return self._names.get(bucket_id, "")

    def changed(self, bucket_id: BucketId) -> None:
        """Takes over what the registry says of a bucket now."""
        bucket = self.get(bucket_id)
        if bucket is not None:
            self._names[bucket_id] = bucket.name

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket is gone, and whoever had to be told has been."""
        self._names.pop(bucket_id, None)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscribe message with who sent it, less what was unsubscribed since; `filter` is its own, compiled."""

    request: control.Subscribe
    token: Token
    names: frozenset[str] | None
    """The names and ids that are asked for; None is every bucket."""
    ended: frozenset[str] = frozenset()
    """Names that were unsubscribed, and the ids of the buckets that had them."""
    filter: Rules | None = None

    def wants(self, bucket: Bucket) -> bool:
        """Whether this bucket fits what was asked for and the token may read it."""
        names = (bucket.id, bucket.name)
        if not self.token.reads(bucket.id) or not self.ended.isdisjoint(names):
            return False
        return self.names is None or not self.names.isdisjoint(names)

    def begins(self, bucket: Bucket) -> Position:
        """Where a bucket begins that has come to fit and is not new."""
        position = self.request.position(bucket.id, bucket.name)
        if position is None or (bucket.ephemeral and not isinstance(position, Cursor)):
            return Latest()
        return position

    def without(self, request: control.Unsubscribe, ids: Iterable[BucketId]) -> Subscription:
        """Less what is unsubscribed; `ids` are the buckets that the request names."""
        if not request.buckets:
            return replace(self, names=frozenset())
        names = request.buckets if self.names is None else self.names.intersection(request.buckets)
        return replace(self, ended=self.ended.union(names, ids))


async def named(log: EventLog, request: control.Subscribe, buckets: Sequence[Bucket]) -> control.Subscribe:
    """The request with every id as the position of the bucket that it is about; `buckets` are those that it asks for.

    A bare id is about its own bucket, or about every one where it is of none of these: then each is told that it can't
    be honoured, also those that come to fit later. In a map an id whose name none of these has is about its own, too:
    the bucket was renamed since.
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
    """A position: every event up to `seq` was had, and of the next one the copies for outputs up to number `output`."""

    seq: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where delivery begins in one bucket, judged by what its log held at that moment."""

    bucket: Bucket
    bounds: Bounds
    reached: Reached
    gap: Gap | None
    ledger: Ledger | None = None
    """The consumer that keeps the position, opened."""
    generation: int | None = None
    """In which generation of the consumer's position it was that; None: as it is now."""

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
    """The entry of a name that is not there, or not in the token's scope: nobody learns which."""
    return {"bucket_name": name, "error": "not_found"}


async def place_all(
    log: EventLog,
    buckets: Sequence[Bucket],
    request: control.Subscribe,
    kept: Mapping[BucketId, Reached],
    *,
    later: bool = False,
    floors: Mapping[BucketId, Reached] = MappingProxyType({}),
    first: Mapping[BucketId, Position] = MappingProxyType({}),
) -> list[Placement]:
    """Judges the request's positions for these buckets; one whose log is gone is left out.

    A bucket for which no position is asked goes on behind what `kept` has of it, or else at the head. An id is that of
    every bucket for which it is asked, see `named`. `later`: they join a subscription whose other buckets were placed
    before, new ones at their first event. `floors` count before anything that is asked, `first` where nothing is.
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
            # Whoever gets each event once has had the one of which it names a copy.
            position = replace(position, output=None)
        try:
            reached, gap = await _judge(log, bucket, bounds, position, floor or kept.get(bucket.id))
        except BucketGone:
            continue
        if bucket.ephemeral and isinstance(position, Earliest | Last | Since) and not later:
            # Nothing comes from below the head there.
            reached = Reached(bounds.head)
        if reached.output and request.outputs == "none":
            # So it is with what a subscribe before has reached.
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
    """Behind a cursor, which may be the id of one of an event's copies."""
    placed = place_cursor(bounds, cursor, bucket.ephemeral)
    seq, output, gap = placed.after, cursor.output, placed.gap
    if output is None or seq == 0:
        return Reached(seq), gap
    if gap is not None:
        return Reached(seq), gap_within(cursor, gap) if active(bucket, output) else gap
    if seq >= bounds.first:
        return Reached(seq - 1, output), None
    # The event is not kept any more, and with it went what copies there may have been behind this one.
    return Reached(seq), Gap("retention", seq, seq) if active(bucket, output) else None
