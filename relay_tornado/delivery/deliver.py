"""Delivery to one socket: its buckets, and what is done next in each.

Replay and live are the same loop. A subscriber that is caught up has no task. The dispatcher's pass serves it, or marks
the bucket, which starts the task; the task ends when it is caught up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence

import structlog

from relay_tornado.delivery.bound_consumers import BoundConsumers
from relay_tornado.delivery.bounds import Pace, PendingWrite
from relay_tornado.delivery.buckets import NONE, Buckets
from relay_tornado.delivery.consumer_binding import Opened, place_later, telling
from relay_tornado.delivery.dispatch import PAGE, Place
from relay_tornado.delivery.in_flight import Member
from relay_tornado.delivery.outlet import Frames, Lane, Outlet, OutletClosed
from relay_tornado.delivery.reader import Reader
from relay_tornado.delivery.selection import Copies, Selection
from relay_tornado.delivery.shared import Shared
from relay_tornado.delivery.subscription import Placement, Subscription
from relay_tornado.errors import BucketGone, Conflict, CursorLost, RelayError
from relay_tornado.ids import format_id
from relay_tornado.log.lineage import epoch_at, gap_behind
from relay_tornado.low_memory import try_log
from relay_tornado.model import Bucket, BucketId, Event, Gap
from relay_tornado.pieces import Pieces
from relay_tornado.wire import frames
from relay_tornado.wire.acks import Ack, Nak

_log = structlog.get_logger(__name__)


class Delivery(Buckets):
    """One subscription's delivery. Before `start` it only notes changes; after `end` nothing is written."""

    __slots__ = ("_reader", "_refusing", "_selection", "_started", "_task", "lane", "outlet")

    def __init__(
        self,
        shared: Shared,
        outlet: Outlet,
        subscription: Subscription,
        consumers: BoundConsumers | None,
        *,
        extended: bool,
    ) -> None:
        super().__init__(shared, subscription, consumers, extended=extended)
        self.outlet = outlet
        self._selection = Selection(
            shared.cache, subscription.request, subscription.filter, subscription.token.key, shared.filter_time
        )
        self._reader = Reader(shared, self._selection, self)
        self.lane = Lane(apart=self._selection.apart, max_body=subscription.request.max_body)
        if consumers is not None:
            consumers.strayed = self._go_on
        self._started = False
        self._refusing = False
        self._task: asyncio.Task[None] | None = None

    # called from outside

    async def take(
        self, placements: Iterable[Placement], replaces: Delivery | None, ends: Mapping[BucketId, int]
    ) -> list[Placement]:
        """Takes over the positions of the answer to subscribe, and the events in flight of the delivery that it
        replaces. Returns the placements with the gaps to tell. `ends` maps buckets to heads to which their logs may
        have gone back; it is updated until this returns. Changes in a bucket are noted from the moment it has a
        place."""
        pieces = Pieces()
        taken = []
        for each in placements:
            await pieces.done()
            placement, bucket = telling(each), each.bucket
            self._expected.pop(bucket.id, None)
            if self._shared.directory.get(bucket.id) is None:
                self._let_go(bucket.id)
                self._tell(frames.bucket_deleted(bucket.name, bucket.id))
            elif (place := self._enter(placement, replaces)) is not None:
                place.replaying = self.notices.wanted
                if bucket.id in ends:
                    place.lose(ends[bucket.id])
            taken.append(placement)
        self._expected = NONE
        return taken

    def start(self) -> None:
        """The answer to subscribe is out: begins delivery."""
        if not self.over:
            self.answered()
            self._started = True
            if self.consumers is not None:
                self.consumers.begin()
            self._go_on()

    def answered(self) -> None:
        """The answer to subscribe is out. Once the client has read it, the gaps in it count as told."""
        if self.consumers is not None and not self.notices:
            self.consumers.ask()

    def mark(self, bucket_id: BucketId) -> bool:
        """The bucket may have something to read. Returns True: this reads until it is caught up."""
        self._dirty[bucket_id] = None
        self._go_on()
        return True

    def passes(self, event: Event) -> bool:
        """Whether the event passes its filter. True if the filter has to wait: then it may."""
        return self.rests or self._selection.passes(event)

    def settle(self, request: Ack | Nak) -> bool:
        """Executes a client's ack or nak. Returns False if the event is not in flight here."""
        return self.consumers is not None and self.consumers.settle(request)

    def ponged(self, payload: bytes) -> None:
        """The client sent a pong."""
        if self.consumers is not None:
            self.consumers.ponged(payload)

    def pause(self) -> None:
        """Nothing is written after the current write. Consumers are kept until `end`."""
        self.over = self.lane.busy = True
        for place in self._places.values():
            self._shared.dispatcher.remove(place)

    def end(self) -> None:
        """Nothing is written after the current write. May be repeated."""
        self.pause()
        if self.consumers is not None:
            self.consumers.close()

    async def ended(self) -> None:
        """Waits for the current write, after `end` or `pause`."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    # called by a group

    @property
    def busy(self) -> bool:
        """Whether its own task is at work, or it has not begun, or it has ended."""
        return self.lane.busy

    @property
    def rests(self) -> bool:
        """Whether its filter has to wait: the filters of its token have taken much time."""
        return self._selection.rest() > 0

    @property
    def opened(self) -> Opened:
        """The consumers that it has open, until it ends."""
        return {} if self.consumers is None else self.consumers.opened

    def copies(self, place: Place, event: Event, attempt: int) -> Copies | None:
        """This subscriber's copies of an event; None if there are none. Raises BucketGone."""
        keep = event.seq + PAGE > self._shared.dispatcher.head(place.bucket_id)
        return self._selection.copies(place, event, attempt, keep=keep)

    def write(self, data: Sequence[Frames]) -> Awaitable[None]:
        """Begins to write the notices, then these frames. Awaiting the result is the backpressure."""
        parts = [*self.notices.take(), *data]
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        written = self.outlet.write(whole)
        if self.consumers is not None:
            self.consumers.ask()
        return PendingWrite(self._shared.budget, written, len(whole))

    def missed(self, bucket_id: BucketId, gap: Gap) -> None:
        """The bucket's consumer met a gap, which is counted already."""
        self.notices.gap(bucket_id, self._shared.directory.name(bucket_id), gap)
        if self.notices:
            if self.consumers is not None:
                self.consumers.tell(bucket_id)
            self._go_on()
        self._refusing = self._refusing or self.subscription.request.on_gap == "fail"

    def released(self, bucket_id: BucketId) -> None:
        """The bucket's consumer was deleted: ends delivery in the bucket."""
        self.subscription = self.subscription.without((bucket_id,), (bucket_id,))
        if self._drop(bucket_id) and self.consumers is not None:
            name = self._shared.directory.name(bucket_id)
            self._tell(frames.consumer_deleted(name, self.consumers.binding.name))

    # the task

    def _go_on(self) -> None:
        if self._started and not self.over and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self.lane.busy = True
            self._task.add_done_callback(self._shared.tasks.discard)
            self._shared.tasks.add(self._task)

    async def _run(self) -> None:
        try:
            await self._deliver()
        except OutletClosed:
            self.end()
        except RelayError as error:
            self._fail(f"the relay can't read its log now ({error.code}): reconnect later", error)
        except Exception as error:
            self._fail("the relay failed: reconnect later, and tell its operator", error)
        finally:
            # There is no await between the last check for work and this.
            self._task = None
            self.lane.busy = self.over

    async def _deliver(self) -> None:
        pace = Pace(self._selection.rest)
        while not self.over:
            try:
                if not await self._step(pace):
                    return
            except BucketGone as gone:
                self.leave(gone.bucket_id)
            await pace.keep()

    async def _step(self, pace: Pace) -> bool:
        """Does the next step. Returns False if there is nothing to do. Raises BucketGone."""
        if self._refusing:
            await self._refuse()
        elif self.consumers is not None and self.consumers.astray:
            await self._follow(self.consumers, self._places[next(iter(self.consumers.astray))])
        elif self._joining:
            await self._enter_later(next(iter(self._joining)))
        elif self._dirty:
            bucket_id = next(iter(self._dirty))
            # It goes to the end of the queue, so that every bucket gets its turn.
            del self._dirty[bucket_id]
            place = self._places.get(bucket_id)
            member = None if self.consumers is None else self.consumers.members.get(bucket_id)
            if place is not None and member is not None:
                await self._share(place, member)
            elif place is not None:
                self._dirty[bucket_id] = None
                await self._page(place, pace)
        elif self.notices:
            await self.write(())
        else:
            return False
        return True

    async def _page(self, place: Place, pace: Pace) -> None:
        """Reads and writes one page, or removes the bucket from the queue if there is none."""
        if await self._goes_back(place):
            return
        try:
            if not await self._reader.page(place, pace):
                self._shared.dispatcher.caught_up(place)
                self._dirty.pop(place.bucket_id, None)
                self._caught_up(place)
        except CursorLost as lost:
            await self._overtaken(place, lost)

    async def _goes_back(self, place: Place) -> bool:
        """Whether the log went back below this place. The client is told of the gap, and continues at the log's end."""
        lost, place.lost = place.lost, None
        if lost is None or place.seq <= lost:
            return False
        await self._overtaken(place, CursorLost(lost + 1))
        if self.over:  # the client was not told: the successor does that
            place.lose(lost)
        return True

    async def _share(self, place: Place, member: Member) -> None:
        """Writes this connection's share of a group's events; if there is none, the group wakes it later."""
        if await member.group.page(member):
            self._dirty[place.bucket_id] = None
        elif place.replaying and await member.group.caught_up(member):
            self._caught_up(place)

    async def _follow(self, consumers: BoundConsumers, place: Place) -> None:
        """The consumer by receipt was moved or deleted by somebody else, or a durable token has one now."""
        await self._goes_back(place)
        if await consumers.follow(place, self):
            self._dirty[place.bucket_id] = None
        else:
            # Events are still delivered, but no position is kept any more.
            self._tell(frames.consumer_deleted(self._shared.directory.name(place.bucket_id), consumers.binding.name))

    def _caught_up(self, place: Place) -> None:
        if place.replaying:
            place.replaying = False
            name = self._shared.directory.name(place.bucket_id)
            self._tell(frames.caught_up(name, format_id(place.epoch, place.seq)))

    async def _overtaken(self, place: Place, lost: CursorLost) -> None:
        """The next event of this place is no longer in the log."""
        bounds = await self._shared.log.bounds(place.bucket_id)
        if place.open and not self.over:
            gap = gap_behind(bounds, place.seq, lost)
            met = self.consumers is not None and self.consumers.overtaken(place.bucket_id, bounds.first, gap)
            place.move(lost.first - 1, epoch_at(bounds.epochs, lost.first - 1))
            if gap is not None:
                self._missing(place.bucket_id, gap, met)

    async def _enter_later(self, bucket_id: BucketId) -> None:
        """Places a bucket that fits the subscription now."""
        bucket = self._shared.directory.get(bucket_id)
        placements: list[Placement] = []
        if bucket is not None:
            try:
                binding = None if self.consumers is None else self.consumers.binding
                position = self._joining[bucket_id]
                placements = await place_later(self._shared, binding, bucket, position, self.subscription, self.opened)
            except Conflict as conflict:
                self._stay_out(bucket, conflict)
                return
        # If this has ended meanwhile, the bucket is still joining, for the successor.
        joins = not self.over and self._joining.pop(bucket_id, None) is not None
        for placement in map(telling, placements):
            if not joins:
                self._let_go(bucket_id)
            elif self._enter(placement) and placement.gap is not None:
                self._missing(bucket_id, placement.gap, placement.ledger is not None)

    def _stay_out(self, bucket: Bucket, conflict: Conflict) -> None:
        """The bucket can't have this consumer: delivery continues in the others, and an extended client is told."""
        if not self.over and self._joining.pop(bucket.id, None) is not None:
            self.subscription = self.subscription.without((bucket.id,), (bucket.id,))
            self._let_go(bucket.id)
            _log.warning("bucket_not_joined", bucket_id=bucket.id, bucket=bucket.name, reason=str(conflict))
            self._tell(frames.error(conflict.code, str(conflict)))
            self._tell(frames.unsubscribed((bucket.name,)))

    def _missing(self, bucket_id: BucketId, gap: Gap, met: bool) -> None:
        """`met`: the bucket's consumer met the gap, so it is logged and counted already."""
        if not met:
            self._shared.misses(self.subscription.token.key, bucket_id, gap)
        self.missed(bucket_id, gap)

    async def _refuse(self) -> None:
        """Events are missing, and the client asked for on_gap "fail": it is told, and delivery ends."""
        await self.write(())
        self.end()
        self.outlet.gap_refused()

    def _enter(self, placement: Placement, replaces: Delivery | None = None) -> Place | None:
        """Makes a place of a placement; None if its consumer, with explicit acks, was deleted meanwhile."""
        bucket_id, ledger = placement.bucket.id, placement.ledger
        reached, name = placement.reached, placement.bucket.name
        place = Place(self, bucket_id, reached.seq, placement.epoch, reached.output, name)
        before = None if replaces is None else replaces.consumers
        if replaces is not None and (had := replaces._places.get(bucket_id)) is not None:
            place.began = min(place.began, had.began)
            if place.seq == had.seq:
                place.lost = had.lost
        self._places[bucket_id] = place
        if ledger is not None and ledger.gone and not ledger.terms.receipt:
            self.released(bucket_id)
            return None
        if (
            ledger is None
            or self.consumers is None
            or not self.consumers.enter(self, place, ledger, before, placement.generation)
        ):
            self._shared.dispatcher.add(place)
        if self.consumers is not None and self.notices.wanted:
            self.consumers.tell(bucket_id)
        self._dirty[bucket_id] = None
        return place

    def _fail(self, reason: str, error: Exception) -> None:
        try:
            self.end()
        finally:
            self.outlet.unavailable(reason)
        if isinstance(error, RelayError):
            self._shared.unserved("delivery_failed", error)
        else:
            try_log(_log.error, "delivery_failed", reason=reason, exc_info=error)
