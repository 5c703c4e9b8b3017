"""All deliveries of a relay: creates them, and tells them of changes to buckets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from relay_tornado.counters import Counters
from relay_tornado.delivery.bound_consumers import BoundConsumers
from relay_tornado.delivery.bounds import WriteBudget
from relay_tornado.delivery.consumer_binding import (
    ConsumerBinding,
    binding_of,
    check,
    consumer_fields,
    ephemeral,
    place_bound,
)
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.dispatch import Dispatcher
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.delivery.group import Groups
from relay_tornado.delivery.outlet import Outlet
from relay_tornado.delivery.receipts import Held, Receipts
from relay_tornado.delivery.replay_pacing import ReplayPacing
from relay_tornado.delivery.shared import Shared
from relay_tornado.delivery.subscription import Directory, Placement, Reached, Subscription, named, not_found
from relay_tornado.errors import BucketGone, Conflict, RelayError, Unavailable
from relay_tornado.log.consumers import Key, span
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.low_memory import try_log
from relay_tornado.model import Bucket, BucketId, Cursor, Event, Token
from relay_tornado.pieces import Pieces
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.rules import Rules
from relay_tornado.settings import Settings
from relay_tornado.wire import control

_FILTERING: Final = 0.01
"""Seconds that filters may take to tell whether anybody gets an event."""

_log = structlog.get_logger(__name__)


class Deliveries:
    """Creates deliveries, and tells the live ones which buckets come and go."""

    def __init__(
        self, log: EventLog, registry: Registry, settings: Settings, ledgers: Ledgers, counters: Counters
    ) -> None:
        """`ledgers` are the consumers; `counters` counts deliveries and gaps."""
        self.budget = WriteBudget(settings.replay_buffer)
        directory, cache = Directory(registry), FrameCache(registry, settings.tail // 2)
        dispatcher = Dispatcher(log, cache, counters)
        pacing = ReplayPacing(lambda: log.append_queue, lambda: counters.events)
        self._shared = Shared(log, ledgers, directory, cache, dispatcher, self.budget, pacing, counters)
        self._groups = Groups(self._shared)
        self._receipts = Receipts(dispatcher.head)
        self._live: set[Delivery] = set()
        self._ends: dict[Delivery, dict[BucketId, int]] = {}
        """Heads to which logs may have gone back, for each delivery that has no places yet."""
        self._end_watch = registry.watch(self._changed)
        ledgers.store.watch_losses(self._lost)

    async def subscribe(
        self,
        outlet: Outlet,
        request: control.Subscribe,
        token: Token,
        *,
        extended: bool,
        filter: Rules | None = None,
        replaces: Delivery | None = None,
        ping: Callable[[bytes], None] | None = None,
    ) -> tuple[Delivery, list[dict[str, Any]]]:
        """Creates a delivery that is placed and waits for `start`. Returns it with the answer's entries, in the order
        of the request.

        The delivery that it replaces ends after its current write, and passes on its positions, and its events in
        flight of consumers that both have. `ping` writes a protocol ping with a payload; without it, a durable token
        has no receipts here. Raises Conflict, and then nothing has changed; Unavailable, NoSpace, Unknown.
        """
        binding = binding_of(request, token, self._shared.directory, receipts=ping is not None)
        asked: list[Bucket] = []
        if binding is not None or replaces is not None or isinstance(request.since, Cursor | Mapping):
            asked = [bucket for bucket in self._wanted(request, token).values() if bucket is not None]
            request = await named(self._shared.log, request, asked)
            await check(self._shared.ledgers, binding, asked)
        names = frozenset(request.buckets) or None
        subscription = Subscription(request, token, names, filter=filter)
        consumers: BoundConsumers | None = None
        if binding is not None:
            most, ping = request.max_in_flight, ping or (lambda _: None)
            before = None if replaces is None else replaces.consumers
            consumers = BoundConsumers(self._shared, self._groups, self._receipts, binding, most, ping, before)
        delivery = Delivery(self._shared, outlet, subscription, consumers, extended=extended)
        kept: Mapping[BucketId, Reached] = {}
        going_on: Mapping[BucketId, Held | None] = {}
        ends = self._ends[delivery] = {}
        try:
            if replaces is not None:
                # Senders that wait for an answer count on these buckets meanwhile.
                replaces.expect(bucket.id for bucket in asked)
                replaces.pause()
                await replaces.ended()
                # Requested positions are judged from now on, by logs that have gone back already.
                replaces.lose(ends)
                ends.clear()
                # It was told of new buckets until now; in those the next one begins with the first event, too.
                kept, going_on = replaces.positions(), replaces.going_on()
                self._live.discard(replaces)
            # From now on the delivery is told of changes, so that none is missed while its positions are judged.
            self._live.add(delivery)
            answers = await self._begin(delivery, request, token, binding, replaces, kept, going_on)
        except BaseException as error:
            self.end(delivery)
            if isinstance(error, Conflict) and replaces is not None:
                # Another client made the consumer just now, and the old delivery has ended: the client has to return.
                raise Unavailable(str(error)) from None
            raise
        finally:
            del self._ends[delivery]
        return delivery, answers

    async def _begin(
        self,
        delivery: Delivery,
        request: control.Subscribe,
        token: Token,
        binding: ConsumerBinding | None,
        replaces: Delivery | None,
        kept: Mapping[BucketId, Reached],
        going_on: Mapping[BucketId, Held | None],
    ) -> list[dict[str, Any]]:
        """Places a delivery, and returns the answer's entries. `place_bound` explains `kept` and `going_on`."""
        wanted: dict[str, Bucket | None] = self._wanted(request, token)
        buckets = {bucket.id: bucket for bucket in wanted.values() if bucket is not None}
        refused: dict[BucketId, dict[str, Any]] = {}
        if binding is not None and binding.kind == "client":
            refused = {each.id: ephemeral(each) for each in buckets.values() if each.ephemeral}
        placed = [bucket for bucket in buckets.values() if bucket.id not in refused]
        delivery.expect(bucket.id for bucket in placed)
        placements = await place_bound(self._shared, binding, placed, request, kept, going_on, delivery.opened)
        placements = await delivery.take(placements, replaces, self._ends[delivery])
        for placement in placements:
            if placement.gap is not None and placement.ledger is None:
                # A consumer's gaps are counted when it meets them.
                self._shared.misses(token.key, placement.bucket.id, placement.gap)
        if replaces is not None:
            replaces.end()
            placements = [_with_untold(placement, replaces, request, kept) for placement in placements]
        found = {placement.bucket.id: placement for placement in placements}
        answers: dict[str, dict[str, Any]] = {}
        pieces = Pieces()
        for name, bucket in wanted.items():
            await pieces.done()
            if bucket is not None and bucket.id in found:
                answers.setdefault(bucket.id, _answer(found[bucket.id], binding))
            elif bucket is not None and bucket.id in refused:
                answers.setdefault(bucket.id, refused[bucket.id])
            elif request.buckets:
                answers[name] = not_found(name)
        for name in self._misnamed(request, token):
            answers.setdefault(name, not_found(name))
        return list(answers.values())

    def reaches(self, bucket_id: BucketId, event: Event, output: int | None) -> bool:
        """Whether any subscriber gets, or has got, this event's copy for that output (None: any copy). True as well if
        the filters of those that may get it took too long to look at all of them."""
        try:
            numbers = self._shared.cache.numbers(bucket_id, event)
        except BucketGone:
            return False
        if not numbers or output not in (None, *numbers):
            return False
        left = _FILTERING
        for delivery in self._live:
            if delivery.reaches(bucket_id, event):
                began = time.perf_counter()
                if delivery.passes(event):
                    return True
                left -= time.perf_counter() - began
                if left < 0:
                    return True
        return False

    @property
    def subscribers(self) -> int:
        """How many sockets are subscribed."""
        return len(self._live)

    def lag(self) -> Mapping[BucketId, int]:
        """By bucket with subscribers: how many events the slowest one is behind the head."""
        return self._shared.dispatcher.lag()

    def connections(self, key: Key) -> int:
        """How many sockets share a consumer now."""
        ledger = self._shared.ledgers.find(key)
        return 0 if ledger is None else self._groups.connections(key) + self._receipts.connections(ledger)

    def unserved(self, event: str, error: RelayError) -> None:
        """See `Shared.unserved`."""
        self._shared.unserved(event, error)

    def end(self, delivery: Delivery) -> None:
        """Ends a delivery: nothing is written after its current write. May be repeated."""
        delivery.end()
        self._live.discard(delivery)

    async def ended(self) -> None:
        """Waits, after their outlets were closed, for the deliveries that are still at work."""
        while self._shared.tasks:
            done, _ = await asyncio.wait(self._shared.tasks)
            self._shared.tasks.difference_update(done)

    def close(self) -> None:
        """Stops watching the log and the registry, and ends all deliveries."""
        self._end_watch()
        self._shared.dispatcher.close()
        for delivery in list(self._live):
            self.end(delivery)

    def _wanted(self, request: control.Subscribe, token: Token) -> dict[str, Bucket | None]:
        """The requested buckets, by the names in the request; None for one that does not exist or is not in scope."""
        if not request.buckets:
            return {bucket.id: bucket for bucket in self._shared.directory.all() if token.reads(bucket.id)}
        wanted: dict[str, Bucket | None] = {}
        for name in request.buckets:
            bucket = self._shared.directory.find(name)
            wanted[name] = bucket if bucket is not None and token.reads(bucket.id) else None
        return wanted

    def _misnamed(self, request: control.Subscribe, token: Token) -> Iterator[str]:
        """The names in `since` that no bucket of the token has. An id is left out: it belongs to its own bucket, which
        may have been renamed or deleted since the client stored it."""
        since = request.since if isinstance(request.since, Mapping) else {}
        for name, position in since.items():
            bucket = self._shared.directory.find(name)
            if name != "*" and not isinstance(position, Cursor) and (bucket is None or not token.reads(bucket.id)):
                yield name

    def _lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log may have gone back to `head`: frames of later events are dropped, and receipts of them do
        not count."""
        self._shared.cache.forget(bucket_id)
        self._receipts.lost(bucket_id, head)
        self._shared.dispatcher.lost(bucket_id, head)
        for ends in self._ends.values():
            ends[bucket_id] = min(head, ends.get(bucket_id, head))

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "bucket":
            return
        self._shared.cache.forget(key)
        bucket = self._shared.directory.get(key)
        before = self._shared.directory.name(key)
        for delivery in list(self._live):
            try:
                if bucket is None:
                    delivery.leave(key)
                else:
                    if before not in ("", bucket.name):
                        delivery.renamed(key)
                    delivery.join(bucket, new=not before)
                    delivery.keep(key)
            except Exception:
                # Its client reconnects to the new state; the others are told now.
                with suppress(Exception):
                    delivery.outlet.unavailable("the relay failed on a change of a bucket: reconnect")
                try_log(_log.exception, "delivery_not_told", bucket=key)
        # If memory runs out before this, all are told again of the same change.
        self._shared.directory.changed(key)
        if bucket is None:
            self._shared.ledgers.forget(key)
            self._shared.directory.forget(key)


def _with_untold(
    placement: Placement, before: Delivery, request: control.Subscribe, kept: Mapping[BucketId, Reached]
) -> Placement:
    """A placement with the old delivery's untold gaps, if it continues from there."""
    bucket, gap = placement.bucket, placement.gap
    untold, reached = before.notices.gaps(bucket.id), kept.get(bucket.id)
    asked = request.position(bucket.id, bucket.name)
    if not untold or reached is None or not (asked is None or isinstance(asked, Cursor)):
        return placement
    if placement.reached == reached or (gap is not None and gap.from_seq == reached.seq + 1):
        return replace(placement, gap=span(untold if gap is None else [*untold, gap]))
    return placement


def _answer(placement: Placement, binding: ConsumerBinding | None) -> dict[str, Any]:
    """A bucket's entry in the answer to subscribe."""
    answer = placement.answer()
    if binding is not None and placement.ledger is not None:
        answer["consumer"] = consumer_fields(binding, placement)
    return answer
