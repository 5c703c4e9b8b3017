"""Chooses the consumer that keeps a subscription's position: the one that it names, or its durable token's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from relay_tornado.delivery.receipts import Held
from relay_tornado.delivery.shared import Shared
from relay_tornado.delivery.subscription import Directory, Placement, Reached, Subscription, place_all
from relay_tornado.errors import Conflict, NotFound
from relay_tornado.log import consumers
from relay_tornado.log.consumers import Key, Kind, Terms, span, too_many
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.log.lineage import position_id
from relay_tornado.model import Bucket, BucketId, Earliest, Position, Token
from relay_tornado.wire import control

Opened: TypeAlias = dict[BucketId, Ledger]
"""The consumers that a connection has open, by bucket; its owner closes them."""


@dataclass(frozen=True, slots=True)
class ConsumerBinding:
    """The consumer of a subscriber in each of its buckets. If `ack_wait` or `max_deliver` is None, it stays as it
    is."""

    kind: Kind
    name: str
    receipt: bool
    ack_wait: float | None = None
    max_deliver: int | None = None
    since: float = 0.0
    """Of a token: when it was created. Younger buckets are read from their first event."""
    has: Callable[[BucketId], bool] = lambda _: True
    """Whether there is to be a consumer in a bucket, by the current records."""

    def key(self, bucket_id: BucketId) -> Key:
        return Key(bucket_id, self.kind, self.name)

    def terms(self, before: Terms | None = None) -> Terms:
        """The consumer's new terms; `before` are its terms so far."""
        before = before or Terms(receipt=self.receipt)
        return Terms(
            before.ack_wait if self.ack_wait is None else self.ack_wait,
            before.max_deliver if self.max_deliver is None else self.max_deliver,
            before.receipt,
        )


def binding_of(
    request: control.Subscribe, token: Token, directory: Directory, *, receipts: bool
) -> ConsumerBinding | None:
    """The consumer that keeps the subscription's positions; None if there is none. A token's needs `receipts`."""
    if request.consumer is not None:
        return ConsumerBinding(
            "client", request.consumer, request.ack == "receipt", request.ack_wait, request.max_deliver
        )
    if token.durable and receipts:
        has = partial(directory.durable, token.key)
        return ConsumerBinding("token", token.key, receipt=True, since=token.created_at, has=has)
    return None


def ephemeral(bucket: Bucket) -> dict[str, Any]:
    """The answer's entry of a bucket that can't have the requested consumer."""
    return {
        "bucket_id": bucket.id,
        "bucket_name": bucket.name,
        "error": "ephemeral",
        "message": "an ephemeral bucket keeps no consumers: subscribe to it without one",
    }


async def check(ledgers: Ledgers, binding: ConsumerBinding | None, buckets: Iterable[Bucket]) -> None:
    """Raises Conflict if the consumer exists in one of these buckets with the other kind of acks, or if it does not
    exist and the bucket may have no more."""
    if binding is not None and binding.kind == "client":
        for bucket in buckets:
            key = binding.key(bucket.id)
            known = ledgers.find(key) or await ledgers.store.get(key)
            if known is not None:
                _same(binding, known.terms, bucket)
            elif not bucket.ephemeral and await ledgers.store.clients(bucket.id) >= consumers.MOST_CONSUMERS:
                raise too_many(bucket.name)


def _same(binding: ConsumerBinding, terms: Terms, bucket: Bucket) -> None:
    if terms.receipt != binding.receipt:
        there, asked = ("receipt", "explicit") if terms.receipt else ("explicit", "receipt")
        raise Conflict(
            f"consumer: {binding.name!r} of the bucket {bucket.name!r} is moved by {there} acks, not by {asked} ones:"
            f' subscribe with "ack": "{there}", or use another name'
        )


async def place_bound(
    shared: Shared,
    binding: ConsumerBinding | None,
    buckets: Sequence[Bucket],
    request: control.Subscribe,
    kept: Mapping[BucketId, Reached],
    going_on: Mapping[BucketId, Held | None],
    opened: Opened,
    *,
    later: bool = False,
) -> list[Placement]:
    """As `place_all`, but opens each bucket's consumer, created if it is missing, and uses its position. `going_on` are
    the parts in consumers by receipt that `kept` belongs to; None if it belongs to none, and a durable token may have
    one by now.

    Opened consumers are put into `opened`, also if this fails. Raises Conflict, Unavailable, NoSpace and Unknown.
    """
    if binding is None:
        return await place_all(shared.log, buckets, request, kept, later=later)
    ledgers = shared.ledgers
    there: dict[BucketId, Ledger] = {}
    for bucket in buckets:
        if not bucket.ephemeral:
            ledger = await open_bound(ledgers, binding, bucket.id, opened)
            if ledger is not None:
                there[bucket.id] = ledger
                await _agree(ledgers, binding, bucket, ledger)
    floors = {bucket_id: Reached(ledger.progress.floor) for bucket_id, ledger in there.items()}
    generations = {bucket_id: ledger.progress.generation for bucket_id, ledger in there.items()}
    for bucket_id, held in going_on.items():
        ledger = there.get(bucket_id)
        same = binding.kind == "token" if held is None else ledger is held.ledger and not held.moved_away()
        if ledger is not None and bucket_id in kept and same:
            floors[bucket_id] = max(floors[bucket_id], kept[bucket_id])
    younger = [bucket.id for bucket in buckets if binding.kind == "token" and bucket.created_at >= binding.since]
    first: dict[BucketId, Position] = dict.fromkeys(younger, Earliest())
    placements = []
    for placement in await place_all(shared.log, buckets, request, kept, later=later, floors=floors, first=first):
        bucket = placement.bucket
        if bucket.id in there:
            placement = replace(placement, ledger=there[bucket.id], generation=generations[bucket.id])
        elif not bucket.ephemeral:
            placement = await _create(ledgers, binding, placement, opened)
        placements.append(placement)
    return placements


async def place_later(
    shared: Shared,
    binding: ConsumerBinding | None,
    bucket: Bucket,
    position: Position,
    subscription: Subscription,
    opened: Opened,
) -> list[Placement]:
    """As `place_bound`, for a bucket that matches a subscription now; empty if it can't have the requested consumer."""
    if binding is not None and binding.kind == "token" and not subscription.token.durable:
        binding = None
    if binding is not None and binding.kind == "client" and bucket.ephemeral:
        return []
    request = control.Subscribe(since=position, outputs=subscription.request.outputs)
    return await place_bound(shared, binding, (bucket,), request, {}, {}, opened, later=True)


def telling(placement: Placement) -> Placement:
    """A placement with the gap that no client was told of its consumer. The caller must not await until the placement
    is taken: later gaps are told to the consumer's connections."""
    ledger = placement.ledger
    if ledger is None:
        return placement
    if placement.gap is not None:
        # The consumer may not have been told yet that these events were removed.
        ledger.trim(placement.bounds.first)
    return replace(placement, gap=span(ledger.untold) if ledger.untold else None)


async def open_bound(
    ledgers: Ledgers, binding: ConsumerBinding, bucket_id: BucketId, opened: Opened, *new: Any
) -> Ledger | None:
    """Opens the binding's consumer in a bucket (with `new`, creates a missing one), and puts it into `opened`. None if
    there is none, or the bucket is gone."""
    try:
        ledger = await ledgers.open(binding.key(bucket_id), *new)
    except NotFound:
        return None
    try:
        opened[bucket_id] = ledger
    except MemoryError:
        ledgers.close(ledger)  # nobody else knows that it is open
        raise
    return ledger


async def _agree(ledgers: Ledgers, binding: ConsumerBinding, bucket: Bucket, ledger: Ledger) -> None:
    """Sets a consumer to the binding's terms. Raises Conflict if it has the other kind of acks, and what the store
    raises."""
    _same(binding, ledger.terms, bucket)
    await ledgers.agree(ledger, binding.terms(ledger.terms))


async def _create(ledgers: Ledgers, binding: ConsumerBinding, placement: Placement, opened: Opened) -> Placement:
    """A placement with its consumer, which is created. A gap before the position of a new consumer counts as its
    own."""
    bucket_id = placement.bucket.id
    ledger = await open_bound(ledgers, binding, bucket_id, opened, placement.start - 1, binding.terms())
    if ledger is None:
        return placement
    if not binding.has(bucket_id):
        # The token was revoked meanwhile, and its consumers were removed before this one was created.
        await ledgers.delete(ledger.key)
        return placement
    # It may have been created a moment ago, with other terms.
    await _agree(ledgers, binding, placement.bucket, ledger)
    if placement.gap is not None:
        ledger.met(placement.gap, ledgers.clock())
    progress = ledger.progress
    return replace(placement, ledger=ledger, reached=Reached(progress.floor), generation=progress.generation)


def consumer_fields(binding: ConsumerBinding, placement: Placement) -> dict[str, Any]:
    """The fields of the bucket's consumer in the answer to subscribe."""
    ledger, bounds = placement.ledger, placement.bounds
    assert ledger is not None
    progress, terms = ledger.progress, ledger.terms
    return {
        "name": binding.name,
        "ack": "receipt" if terms.receipt else "explicit",
        "floor": position_id(bounds, min(progress.floor, bounds.head)),
        "pending": progress.pending(bounds.head),
        "ack_wait": None if terms.receipt else terms.ack_wait,
        "max_deliver": None if terms.receipt else terms.max_deliver,
    }
