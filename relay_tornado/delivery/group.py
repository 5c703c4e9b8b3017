"""Consumers with explicit acks: each event goes to one of the connections that share the consumer, until it is acked.

Invariants:
- An event in flight belongs to exactly one connection of the group, from the beginning of its write until it is acked
  or refused (nak), its `ack_wait` is over, or the connection leaves. Then it is done, dead, or goes to another
  connection.
- Nothing is skipped: an event that was taken from the progress and not written is given back before the next take.
- First deliveries come to a connection in order of seq. So taking, reading and the beginning of the write happen under
  the group's lock; only the end of the write, which is the backpressure, is awaited without it.
- A connection has at most `max_in_flight` events in flight, over all its buckets. One that can't write takes nothing,
  and so withholds nothing from the others.
- Events in flight are kept as numbers, not as events: a redelivery reads the log again.
- A try counts, and is stored, from the beginning of its write, so that it counts across a crash, too.
- An event of which the member that takes it gets no copy is done. One with several copies is done when all that were
  given are acked.
- A `seek` invalidates everything that was given before. An event that is given up while it is in flight stays with its
  connection until one of the above, and is done only if it is acked.
- A change that makes an event due, or frees a place, wakes a waiting connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from relay_tornado.consumer_changes import MAX_DELIVER
from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.bounds import SLICE
from relay_tornado.delivery.dispatch import PAGE, Place
from relay_tornado.delivery.fetching import fetch
from relay_tornado.delivery.in_flight import Item, Member
from relay_tornado.delivery.outlet import Lane
from relay_tornado.delivery.selection import Copies
from relay_tornado.delivery.shared import Shared
from relay_tornado.lateness import extension
from relay_tornado.log.consumers import Key
from relay_tornado.log.ledgers import EPHEMERAL, Ledger
from relay_tornado.log.lineage import epoch_at
from relay_tornado.low_memory import Lock, Timer
from relay_tornado.model import BucketId, Event

_LOOK: Final = 1.0
"""Seconds until waiting members are woken again if events were not taken: the one that was woken may be slow, or unable
to write. Then it is also the turn of those that let an event's `ack_wait` pass."""
_SOONEST: Final = 0.001
"""The shortest time of a timer, in seconds: two clocks never agree exactly, and one that fires too soon fires again."""
_LONGEST: Final = 30.0
"""The longest time of a timer, in seconds: the wall clock may be set meanwhile."""


class _Given(NamedTuple):
    taken: Taken
    epoch: str
    copies: Copies


class Group:
    """The connections that share one consumer of one bucket (`in_flight.Sharing`)."""

    lane = Lane(apart=True, max_body=None)
    """The dispatcher only marks a group, and never sends to it, as if it was always busy."""

    def __init__(self, groups: Groups, ledger: Ledger, epoch: str) -> None:
        """`epoch` is the epoch of the ledger's floor."""
        self.ledger = ledger
        self._lock = Lock()
        self._groups = groups
        self._shared = groups.shared
        self._members: dict[Member, None] = {}
        self._waiting: dict[Member, None] = {}
        """Members that have free places and found no events, first come first served."""
        self._out: dict[int, Item] = {}
        """The items in flight by seq, in the order given."""
        self._share: list[Taken] = []
        """Events that were taken under the lock, and are still to be written or given back."""
        self._generation = ledger.progress.generation
        self._gap = ledger.gap
        self._place = Place(self, ledger.key.bucket_id, ledger.progress.floor, epoch)
        self._timer = Timer(self._tick)
        self._due = self._patient_until = 0.0
        """When the timer is due, and until when no event times out, as the loop was late."""
        self._spared = False
        self._untaken: float | None = None
        """Since when there have been events that no waiting member takes."""
        self._loop = asyncio.get_running_loop()
        self._unwatch: Callable[[], object] | None = None

    @property
    def outlet(self) -> NoReturn:
        raise AssertionError("a group has no outlet: its members have")

    @property
    def connections(self) -> int:
        return len(self._members)

    def mark(self, bucket_id: BucketId) -> bool:
        """The bucket may have new events. Returns False: the group is to be told of each commit."""
        self._wake()
        return False

    # members

    def join(self, member: Member) -> None:
        """Adds a member, which is woken from now on when there are events for it. If this fails, it has to `leave`."""
        self._members[member] = None
        if self._unwatch is None:
            self._unwatch = self.ledger.watch(self._changed)
            self._shared.dispatcher.add(self._place)
        self._show(member)
        self._waiting[member] = None
        self._wake()

    def leave(self, member: Member, heir: Member | None = None) -> None:
        """See `Sharing`."""
        self._waiting.pop(member, None)
        if not self._lock.locked():
            self._give_back()
        if heir is not None:
            heir.in_flight.adopt(member, heir)
        else:
            now = self._shared.ledgers.clock()
            for item in list(member.items):
                self._failed(item, now, now, answered=False)
        if self._members.keys() <= {member}:
            self._close()
        self._members.pop(member, None)
        self._wake()

    def _close(self) -> None:
        self._groups.forget(self)
        if self._unwatch is not None:
            self._unwatch()
        self._shared.dispatcher.remove(self._place)
        self._timer.cancel()

    # outcomes

    def done(self, item: Item) -> None:
        """The event was acked."""
        full = self.ledger.progress.full()
        self.ledger.progress.done(item.taken)
        self.ledger.save()
        item.member.slow = False
        self._drop(item, answered=True)
        if full:
            self._wake()

    def refuse(self, item: Item, delay: float) -> None:
        """The event is to be retried after `delay` seconds."""
        item.member.slow = False
        now = self._shared.ledgers.clock()
        self._failed(item, now + delay, now, answered=True)
        self._wake()

    def _failed(self, item: Item, due: float, now: float, *, answered: bool) -> None:
        progress, most = self.ledger.progress, self.ledger.terms.max_deliver
        if most and item.taken.attempt >= most:
            progress.bury(item.taken, now, MAX_DELIVER)
        else:
            progress.fail(item.taken, due, now)
        self.ledger.save()
        self._drop(item, answered=answered)
        # Other members come first.
        if item.member in self._waiting:
            del self._waiting[item.member]
            self._waiting[item.member] = None

    def _drop(self, item: Item, *, answered: bool) -> None:
        if self._out.get(item.taken.seq) is item:
            del self._out[item.taken.seq]
        item.member.in_flight.drop(item, answered=answered)

    # sending

    async def page(self, member: Member) -> bool:
        """See `Sharing`."""
        async with self._lock:
            if member.over:
                return True
            taken = self._take(member)
            if not taken:
                return False
            more, written = await self._give(member, taken)
        if written is not None:
            await written
        if self._waiting and self._able():
            # If the kernel takes a write at once, the await gives nobody else a turn.
            await asyncio.sleep(0)
        return more

    def _take(self, member: Member) -> list[Taken]:
        """The member's share of the available events. If it is empty, the member waits for events or for free
        places."""
        self._waiting.pop(member, None)
        self._give_back()
        credit = member.in_flight.credit
        if credit <= 0:
            member.in_flight.run_short(member)
            self._wake()  # others may have free places
            return []
        able = self._able()
        if member.slow and any(not each.receiver.busy for each in able):
            self._waiting[member] = None
            return []
        share = -(-self._ready() // (len(able) + 1))
        now = self._shared.ledgers.clock()
        taken: list[Taken] = []
        self._share = taken
        self.ledger.progress.take(self._head(), min(credit, PAGE, max(share, 1)), now, into=taken)
        if not taken:
            self._waiting[member] = None
            self._show(member)
            self._arm()
            return taken
        self._untaken = None
        if able:
            self._wake()
        return taken

    async def _give(self, member: Member, taken: Sequence[Taken]) -> tuple[bool, Awaitable[None] | None]:
        """Reads the taken events and begins to write them, under the lock. What can't be written now is given back
        before another member can get a later event. Returns whether there may be more, and the write. Raises
        BucketGone."""
        dealt = 0
        try:
            events = await fetch(self._shared.log, self.ledger, taken, self._shared.budget.chunk())
            if any(isinstance(event, str) for event in events):
                self._changed()
            behind = self._head() - taken[0].seq
            dealt, more, written = await self._shared.pacing.run(lambda: self._deal(member, taken, events), behind)
            return more, written
        finally:
            del self._share[:dealt]
            self._give_back()
            self.ledger.save()
            self._show(member)
            if member.over or member.receiver.rests:
                self._wake()  # the others get these
            if not member.over:
                self._arm()

    def _give_back(self) -> None:
        """Returns the rest of a share, also after a failure, as for lack of memory."""
        while self._share:
            self.ledger.progress.release(self._share[-1])
            self._share.pop()

    def _deal(
        self, member: Member, taken: Sequence[Taken], events: Sequence[Event | str]
    ) -> tuple[int, bool, Awaitable[None] | None]:
        """Returns how many of these were dealt with, whether there may be more, and the write that was begun. Raises
        BucketGone."""
        if member.over or member.receiver.rests or taken[0].generation != self.ledger.progress.generation:
            return 0, True, None
        given, dealt = self._select(member, taken, events, self._shared.budget.chunk())
        if not dealt:
            # The log returns nothing now: the timer tries again.
            self._waiting[member] = None
            return 0, False, None
        return dealt, True, self._write(member, given) if given else None

    def _select(
        self, member: Member, taken: Sequence[Taken], events: Sequence[Event | str], chunk: int
    ) -> tuple[list[_Given], int]:
        """The copies to write, within the chunk's size but of one event at least, and how many events were dealt
        with."""
        progress, place = self.ledger.progress, member.place
        end = time.perf_counter() + SLICE
        given: list[_Given] = []
        dealt = 0
        for one, event in zip(taken, events, strict=False):
            again = one.seq in progress.parked
            if isinstance(event, str):
                if event == EPHEMERAL and not again:  # it is part of a gap, and could not be sent again
                    progress.done(one)
                else:
                    progress.bury(one, self._shared.ledgers.clock(), event, tried=False)
            else:
                copies = member.receiver.copies(place, event, one.attempt)
                if copies is None:
                    progress.done(one)
                else:
                    chunk -= len(copies.frames)
                    if chunk < 0 and given:
                        break
                    given.append(_Given(one, event.epoch, copies))
                if not again and event.seq > self._place.seq:  # one that was given up while it was read is not parked
                    self._place.seq, self._place.epoch = event.seq, event.epoch
            dealt += 1
            if time.perf_counter() > end:
                break
        return given, dealt

    def _write(self, member: Member, given: Sequence[_Given]) -> Awaitable[None]:
        now = self._loop.time()
        for one, epoch, copies in given:
            numbers = set(copies.numbers) or None
            self.ledger.progress.begin(one)
            self._out[one.seq] = member.in_flight.give(member, one, epoch, numbers, now)
        frames = [each.copies.frames for each in given]
        counters = self._shared.counters
        counters.deliveries += len(frames)
        counters.delivered_bytes += sum(map(len, frames))
        counters.redeliveries += sum(each.taken.attempt > 1 for each in given)
        return member.receiver.write(frames)

    async def caught_up(self, member: Member) -> bool:
        """See `Sharing`."""
        place, progress = self._place, self.ledger.progress
        if member.in_flight.credit <= 0 or progress.reached < self._head():
            return False
        # Otherwise an event has told the epoch.
        if place.seq < progress.reached or not place.epoch:
            bounds = await self._shared.log.bounds(self.ledger.key.bucket_id)
            place.seq = min(progress.reached, bounds.head)
            place.epoch = epoch_at(bounds.epochs, place.seq)
            for each in self._members:
                self._show(each)
        return True

    def _show(self, member: Member) -> None:
        """Sets the member's position to the group's: it passes over events that others were given."""
        member.place.seq, member.place.epoch = self._place.seq, self._place.epoch

    def _head(self) -> int:
        return self._shared.dispatcher.head(self.ledger.key.bucket_id)

    def _ready(self) -> int:
        """How many events can be taken now, or a few more."""
        progress = self.ledger.progress
        now = self._shared.ledgers.clock()
        progress.look(now)
        fresh = 0 if progress.full() else max(self._head() - progress.reached, 0)
        due = progress.due()
        return fresh + (len(progress.parked) if due is not None and due <= now else 0)

    def _able(self) -> list[Member]:
        """The waiting members that have free places and are not slow."""
        return [member for member in self._waiting if not member.slow and member.in_flight.credit > 0]

    # timers and changes

    def _wake(self) -> None:
        """Marks as many waiting members as there are events, first those that can take at once."""
        if not self._waiting:
            return
        if ready := self._ready():
            self._await_places()
            able = self._able()
            if not able or (self._is_late() and all(member.receiver.busy for member in able)):
                able = list(self._waiting)
            idle = [member for member in able if not member.receiver.busy]
            for member in idle[:ready] if len(idle) >= ready else able:
                member.receiver.mark(self.ledger.key.bucket_id)
        self._arm()

    def _await_places(self) -> None:
        """Has members whose places events of other buckets have taken wait for free ones, and no longer for events."""
        for member in [each for each in self._waiting if each.in_flight.credit <= 0]:
            del self._waiting[member]
            member.in_flight.run_short(member)

    def _is_late(self) -> bool:
        """Whether events were not taken for so long that those who could take them may be unable to write."""
        return self._untaken is not None and self._loop.time() - self._untaken >= _LOOK

    def _arm(self) -> None:
        """Sets the timer to the next of these: an `ack_wait` is over, a parked event is due, or untaken events are to
        be looked at."""
        now = self._loop.time()
        when = now + _LONGEST
        for item in self._out.values():
            when = min(when, max(item.since + self.ledger.terms.ack_wait, self._patient_until))
            break
        if self._waiting and self._ready():
            when = min(when, now + _LOOK)
            self._untaken = now if self._untaken is None else self._untaken
        else:
            self._untaken = None
            if self._waiting and (due := self.ledger.progress.due()) is not None:
                when = min(when, now + due - self._shared.ledgers.clock())
        when = max(when, now + _SOONEST)
        if self._timer.at is None or self._timer.at > when:
            self._due = when
            self._timer.set(when)

    def _tick(self) -> None:
        try:
            self._time_out()
            self._wake()
        finally:
            if self._out or self._waiting:
                self._arm()

    def _time_out(self) -> None:
        """Takes back the events whose `ack_wait` is over. If the loop is late, their acks may not be read yet."""
        ack_wait, at = self.ledger.terms.ack_wait, self._loop.time()
        if at < self._patient_until:
            return
        more = 0.0 if self._spared else extension(at - self._due, ack_wait)
        self._spared = more > 0.0  # not twice in a row, however slow the loop is
        if more:
            self._patient_until = at + more
            return
        end = at - ack_wait
        now = self._shared.ledgers.clock()
        while self._out:
            item = next(iter(self._out.values()))
            if item.since > end:
                break
            item.member.slow = True
            self._failed(item, now, now, answered=False)

    def _changed(self) -> None:
        """The ledger told of a change: a seek, scheduled events, a gap, or the deletion of the consumer."""
        ledger = self.ledger
        bucket_id = ledger.key.bucket_id
        if ledger.gone:
            for member in list(self._members):
                member.receiver.released(bucket_id)
            return
        if ledger.gap is not self._gap:
            self._gap = ledger.gap
            if ledger.gap is not None:
                for member in list(self._members):
                    member.receiver.missed(bucket_id, ledger.gap)
        if ledger.progress.generation != self._generation:
            self._generation = ledger.progress.generation
            for item in list(self._out.values()):
                self._drop(item, answered=False)
            self._place.seq, self._place.epoch = ledger.progress.reached, ""
        self._wake()


class Groups:
    """All groups of a relay: one for each consumer with explicit acks that has connections."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._groups: dict[Key, Group] = {}

    def of(self, ledger: Ledger, place: Place) -> Group:
        """The ledger's group, to be joined; `place` is at the ledger's floor."""
        group = self._groups.get(ledger.key)
        if group is None or group.ledger is not ledger:
            group = self._groups[ledger.key] = Group(self, ledger, place.epoch)
        return group

    def forget(self, group: Group) -> None:
        """The group has no members any more."""
        if self._groups.get(group.ledger.key) is group:
            del self._groups[group.ledger.key]

    def connections(self, key: Key) -> int:
        """How many connections share this consumer now."""
        group = self._groups.get(key)
        return 0 if group is None else group.connections
