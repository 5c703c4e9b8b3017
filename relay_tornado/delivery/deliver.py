"""Delivery to one socket: it reads the log from its positions on and writes what it finds, and that is all.

Replay and live are the same loop. A subscriber that is caught up has no task: the dispatcher's pass serves it, or marks
the bucket and so starts the task, which ends when it is caught up again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from relay_tornado.counters import Counters
from relay_tornado.delivery.dispatch import PAGE, Dispatcher, Place
from relay_tornado.delivery.flight import SLICE, Flight, Pace
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.delivery.outlet import Outlet, OutletClosed
from relay_tornado.delivery.subscription import Directory, Placement, Reached, Subscription, place_all
from relay_tornado.errors import BucketGone, CursorLost, RelayError
from relay_tornado.ids import format_id
from relay_tornado.log.contract import EventLog
from relay_tornado.log.lineage import epoch_at
from relay_tornado.model import Bucket, BucketId, Earliest, Event, Gap, Latest, Position, Token
from relay_tornado.wire import control, frames, websocket

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all deliveries of a relay have in common."""

    log: EventLog
    directory: Directory
    cache: FrameCache
    dispatcher: Dispatcher
    flight: Flight
    turns: asyncio.Semaphore
    counters: Counters
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Of the deliveries that are at work, ended ones in their last write too."""


class Delivery:
    """One subscription's delivery. Until `start` it only notes what happens; after `end` nothing is written."""

    __slots__ = (
        "_dirty",
        "_ended",
        "_expected",
        "_joining",
        "_notices",
        "_places",
        "_replaying",
        "_shared",
        "_started",
        "_task",
        "apart",
        "busy",
        "extended",
        "max_body",
        "outlet",
        "subscription",
    )

    def __init__(self, shared: Shared, outlet: Outlet, subscription: Subscription, *, extended: bool) -> None:
        self.outlet = outlet
        self.subscription = subscription
        self.apart = subscription.filter is not None or subscription.request.outputs == "none"
        self.max_body = subscription.request.max_body
        self.extended = extended
        self.busy = True
        self._shared = shared
        self._places: dict[BucketId, Place] = {}
        self._dirty: dict[BucketId, None] = {}
        self._expected: set[BucketId] = set()
        self._joining: dict[BucketId, Position] = {}
        self._replaying: set[BucketId] = set()
        self._notices: list[bytes] = []
        self._started = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    # what the outside does

    def expect(self, bucket_ids: Iterable[BucketId]) -> None:
        """These buckets are being placed, so they need not join."""
        self._expected.update(bucket_ids)

    def take(self, placements: Iterable[Placement]) -> None:
        """Takes the positions that the answer to subscribe tells."""
        self._expected.clear()
        for placement in placements:
            bucket = placement.bucket
            if self._shared.directory.get(bucket.id) is None or not self.subscription.wants(bucket):
                self._tell(frames.bucket_deleted(bucket.name))
                continue
            self._enter(placement)
            if self.extended:
                self._replaying.add(bucket.id)

    def start(self) -> None:
        """The answer to subscribe is out: delivery begins."""
        if not self._ended:
            self._started = True
            self._go_on()

    def mark(self, bucket_id: BucketId) -> None:
        """The bucket may have something to read."""
        self._dirty[bucket_id] = None
        self._go_on()

    def positions(self) -> dict[BucketId, Reached]:
        """What was written, by bucket: nothing of a new bucket that has not been placed yet."""
        joining = {bucket_id: Reached(0) for bucket_id, position in self._joining.items() if position == Earliest()}
        return joining | {place.bucket_id: Reached(place.seq, place.output) for place in self._places.values()}

    def moved(self) -> Mapping[str, str]:
        """By bucket name, the id of the last event written, where that moved since the last call."""
        moved = {}
        for place in self._places.values():
            if place.seq != place.pinged:
                place.pinged = place.seq
                moved[self._shared.directory.name(place.bucket_id)] = format_id(place.epoch, place.seq)
        return moved

    def reaches(self, bucket_id: BucketId, event: Event) -> bool:
        """Whether this event's copies are for this subscriber, written or still to be. One that only looks at events
        is not counted."""
        if self._ended or self.subscription.request.outputs == "none":
            return False
        place = self._places.get(bucket_id)
        if place is None:
            if bucket_id not in self._joining and bucket_id not in self._expected:
                return False
        elif place.began >= event.seq:
            return False
        rules = self.subscription.filter
        return rules is None or self._shared.cache.passes(event, rules)

    def join(self, bucket: Bucket, *, new: bool) -> None:
        """The bucket has come to fit: one that is new from its first event on, another one from the position that was
        asked for it."""
        known = any(bucket.id in those for those in (self._places, self._expected, self._joining))
        if known or not self.subscription.wants(bucket):
            return
        request = self.subscription.request
        self._joining[bucket.id] = Earliest() if new else request.position(bucket.id, bucket.name) or Latest()
        self._go_on()

    def leave(self, bucket_id: BucketId) -> None:
        """The bucket was deleted, or left the token's scope: delivery ends within it, and who wants to know is told."""
        if self._drop(bucket_id):
            self._tell(frames.bucket_deleted(self._shared.directory.name(bucket_id)))

    def rescope(self, token: Token) -> None:
        """The token's record has changed."""
        self.subscription = replace(self.subscription, token=token)
        for bucket_id in [*self._places, *self._joining]:
            if not token.reads(bucket_id):
                self.leave(bucket_id)
        for bucket in self._shared.directory.all():
            self.join(bucket, new=False)

    def unsubscribe(self, request: control.Unsubscribe) -> None:
        """No event of these buckets is written after this."""
        self.subscription = self.subscription.without(request)
        for bucket_id in [*self._places, *self._joining]:
            bucket = self._shared.directory.get(bucket_id)
            if bucket is None or not self.subscription.wants(bucket):
                self._drop(bucket_id)

    def end(self) -> None:
        """Nothing more is written after the write that is under way. May be repeated."""
        self._ended = self.busy = True
        for place in self._places.values():
            self._shared.dispatcher.remove(place)

    async def ended(self) -> None:
        """Waits, after `end`, for the write that is under way."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    # the task

    def _go_on(self) -> None:
        if self._started and not self._ended and self._task is None:
            self.busy = True
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._shared.tasks.add(self._task)
            self._task.add_done_callback(self._shared.tasks.discard)

    async def _run(self) -> None:
        try:
            await self._deliver()
        except OutletClosed:
            self.end()
        except RelayError as error:
            self._fail(f"the relay can't read its log now ({error.code}): come back later", error)
        except Exception as error:
            self._fail("the relay failed: come back later, and tell its operator", error)
        finally:
            # No await lies between the last look at what there is to do and this.
            self._task = None
            self.busy = self._ended

    async def _deliver(self) -> None:
        pace = Pace()
        while not self._ended:
            if self._joining:
                await self._enter_later(next(iter(self._joining)))
            elif self._dirty:
                bucket_id = next(iter(self._dirty))
                # To the end of the queue: every bucket has its turn.
                del self._dirty[bucket_id]
                place = self._places.get(bucket_id)
                if place is not None:
                    self._dirty[bucket_id] = None
                    await self._page(place, pace)
            elif self._notices:
                await self._write(())
            else:
                return
            await pace.keep()

    async def _page(self, place: Place, pace: Pace) -> None:
        """Reads and writes one page of one bucket, or takes the bucket out of the queue where there is none."""
        shared = self._shared
        if place.seq >= shared.dispatcher.head(place.bucket_id):
            self._settled(place)
            return
        chunk = shared.flight.chunk()
        try:
            async with shared.turns:
                events = shared.log.peek(place.bucket_id, place.seq, PAGE, chunk)
            if events is None:
                events = await shared.log.read(place.bucket_id, place.seq, PAGE, chunk)
        except CursorLost as lost:
            await self._overtaken(place, lost)
            return
        except BucketGone:
            self.leave(place.bucket_id)
            return
        at = 0
        while at < len(events) and place.open and not self._ended:
            at = await self._part(place, events, at, chunk)
            await pace.keep()

    async def _part(self, place: Place, events: Sequence[Event], at: int, chunk: int) -> int:
        """Writes or passes over as many of the events from `at` on as one write may have, and returns the index
        behind them."""
        shared = self._shared
        async with shared.turns:
            if not place.open or self._ended:
                return at
            try:
                data, at = self._frames(place, events, at, chunk)
            except BucketGone:
                self.leave(place.bucket_id)
                return at
            written = self._write(data) if data else None
            shared.counters.deliveries += len(data)
            shared.counters.delivered_bytes += sum(map(len, data))
        if written is not None:
            await written
        place.seq = events[at - 1].seq
        place.epoch = events[at - 1].epoch
        place.output = 0
        return at

    def _frames(self, place: Place, events: Sequence[Event], at: int, chunk: int) -> tuple[list[bytes], int]:
        """The frames of the events from `at` on, within the chunk's size but at least one, and the index behind the
        last of these events; some may have no frame. Raises BucketGone."""
        cache, bucket_id, rules = self._shared.cache, place.bucket_id, self.subscription.filter
        # What others read at the same time is kept for them. One reader of old events alone would only drive out new.
        keep = len(self._shared.tasks) > 1 or place.seq + PAGE > self._shared.dispatcher.head(bucket_id)
        end = time.perf_counter() + SLICE if rules is not None or cache.slow(bucket_id) else None
        own = self.apart or self.max_body is not None or place.output > 0
        data: list[bytes] = []
        for index in range(at, len(events)):
            event = events[index]
            if rules is None or cache.passes(event, rules):
                frame = self._frame(place, event, keep) if own else cache.frame(bucket_id, event, keep=keep)
                if frame:
                    chunk -= len(frame)
                    if chunk < 0 and data:
                        return data, index
                    data.append(frame)
            if end is not None and time.perf_counter() > end:
                return data, index + 1
        return data, len(events)

    def _frame(self, place: Place, event: Event, keep: bool) -> bytes:
        """What this subscriber gets of an event."""
        cache, bucket_id = self._shared.cache, place.bucket_id
        itself = self.subscription.request.outputs == "none"
        after = place.output if event.seq == place.seq + 1 else 0
        if self.max_body is not None and len(event.body) > self.max_body:
            return cache.truncated(bucket_id, event, itself=itself, after=after)
        if itself:
            return cache.event(bucket_id, event, keep=keep)
        return cache.rest(bucket_id, event, after) if after else cache.frame(bucket_id, event, keep=keep)

    def _write(self, data: Sequence[bytes]) -> Awaitable[None]:
        """Begins to write what is to be told, then these frames. Awaiting it is the backpressure."""
        parts = [*self._notices, *data]
        self._notices.clear()
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        written = self.outlet.write(whole)
        self._shared.flight.took_off(len(whole))
        return self._landing(written, len(whole))

    async def _landing(self, written: Awaitable[None], size: int) -> None:
        try:
            await written
        finally:
            self._shared.flight.landed(size)

    def _settled(self, place: Place) -> None:
        """The place is at the head: it is woken when there is more."""
        self._dirty.pop(place.bucket_id, None)
        if place.bucket_id in self._replaying:
            self._replaying.remove(place.bucket_id)
            name = self._shared.directory.name(place.bucket_id)
            self._tell(frames.caught_up(name, format_id(place.epoch, place.seq)))

    async def _overtaken(self, place: Place, lost: CursorLost) -> None:
        """The next event of this place is not there any more."""
        try:
            bounds = await self._shared.log.bounds(place.bucket_id)
        except BucketGone:
            self.leave(place.bucket_id)
            return
        if place.open and not self._ended:
            reason, first = lost.reason, lost.first
            if reason == "retention" and place.seq + 1 >= bounds.first:
                # What retention removed lies below the log's first event; within the log it is damage.
                reason = "reset"
            # A log that was found to have gone back below the position names those seqs anew: that vouches for nothing.
            gap = Gap(reason, place.seq + 1, first - 1) if first > place.seq else Gap("reset")
            place.seq = first - 1
            place.output = 0
            place.epoch = epoch_at(bounds.epochs, place.seq)
            await self._missing(place, gap)

    async def _enter_later(self, bucket_id: BucketId) -> None:
        """Places a bucket that has come to fit."""
        bucket = self._shared.directory.get(bucket_id)
        placements: list[Placement] = []
        if bucket is not None:
            outputs = self.subscription.request.outputs
            request = control.Subscribe(since=self._joining[bucket_id], outputs=outputs)
            placements = await place_all(self._shared.log, (bucket,), request, {}, later=True)
        # Where this has ended meanwhile, the bucket still counts as joining, for whoever replaces this.
        if not self._ended and self._joining.pop(bucket_id, None) is not None:
            for placement in placements:
                place = self._enter(placement)
                if placement.gap is not None:
                    await self._missing(place, placement.gap)

    async def _missing(self, place: Place, gap: Gap) -> None:
        name = self._shared.directory.name(place.bucket_id)
        self._shared.counters.gaps[gap.reason] += 1
        _log.warning("subscriber_missed_events", bucket=name, reason=gap.reason, first=gap.from_seq, last=gap.to_seq)
        self._tell(frames.gap(name, gap))
        if self.subscription.request.on_gap == "fail":
            await self._write(())
            self.end()
            self.outlet.gap_refused()

    def _enter(self, placement: Placement) -> Place:
        bucket_id = placement.bucket.id
        place = self._places[bucket_id] = Place(
            self, bucket_id, placement.reached.seq, placement.epoch, placement.reached.output
        )
        self._shared.dispatcher.add(place)
        self._dirty[bucket_id] = None
        return place

    def _drop(self, bucket_id: BucketId) -> bool:
        """Ends delivery within a bucket. False where there was none."""
        self._joining.pop(bucket_id, None)
        self._dirty.pop(bucket_id, None)
        self._replaying.discard(bucket_id)
        place = self._places.pop(bucket_id, None)
        if place is None:
            return False
        place.open = False
        self._shared.dispatcher.remove(place)
        return True

    def _tell(self, payload: bytes) -> None:
        """Sends a frame of our own, to who asked for such, before whatever is written next."""
        if self.extended:
            self._notices.append(websocket.text(payload))
            self._go_on()

    def _fail(self, reason: str, error: Exception) -> None:
        self.end()
        _log.error("delivery_failed", reason=reason, exc_info=error)
        self.outlet.unavailable(reason)
