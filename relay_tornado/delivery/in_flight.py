"""What a connection was given of consumers with explicit acks and has not answered for, and its part in each group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import takewhile
from typing import Final, Protocol

from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.dispatch import Place
from relay_tornado.delivery.selection import Copies
from relay_tornado.log.ledgers import Ledger
from relay_tornado.low_memory import Lock, Timer
from relay_tornado.model import BucketId, Cursor, Event, Gap

_ENOUGH: Final = 64
"""Room for so many events is worth a write of its own at once, as is a quarter of what a connection may have;"""
_PATIENCE: Final = 0.002
"""less waits so many seconds for more acks, which come one by one and would else cost a write each."""


class Receiver(Protocol):
    """A delivery, as a group sees it."""

    @property
    def busy(self) -> bool:
        """Its task is at work, or it has not begun, or it has ended."""

    @property
    def over(self) -> bool:
        """Nothing more is written."""

    def mark(self, bucket_id: BucketId) -> object:
        """The bucket may have something to read."""

    def copies(self, place: Place, event: Event, attempt: int) -> Copies | None:
        """What this subscriber gets of an event, None where that is nothing. Raises BucketGone."""

    def write(self, data: Sequence[bytes]) -> Awaitable[None]:
        """Begins to write frames; awaiting it is the backpressure. Raises OutletClosed."""

    def missed(self, bucket_id: BucketId, gap: Gap) -> None:
        """The consumer met a gap."""

    def released(self, bucket_id: BucketId) -> None:
        """The consumer was deleted."""


class Sharing(Protocol):
    """A group, as its members see it."""

    ledger: Ledger
    lock: Lock

    @property
    def exhausted(self) -> bool:
        """Whether everything that the log has was handed out once."""

    def others_wait(self) -> bool:
        """Whether somebody who has room waits."""

    def take(self, member: Member) -> list[Taken]:
        """The member's share of what there is now. Where that is nothing, it waits, for events or for room."""

    async def give(self, member: Member, taken: Sequence[Taken]) -> tuple[bool, Awaitable[None] | None]:
        """Reads what was taken and begins to write it, under the lock. Returns whether there may be more, and the
        write. Raises BucketGone."""

    async def look(self) -> None:
        """Finds out which epoch the group has reached, where no event told it."""

    def leave(self, member: Member, heir: Member | None = None) -> None:
        """The connection takes part no longer. What it had goes to the `heir`, or to the others at once. May be
        repeated, and is to be where it fails."""

    def done(self, item: Item) -> None:
        """It is acked."""

    def refuse(self, item: Item, delay: float) -> None:
        """It is to be tried again after so many seconds."""


class Member:
    """One connection's part in one group. `place` is told how far the group is. `slow`: it let an event's `ack_wait`
    pass, and gets what others have no room for until it answers. `items` is what it has of that, as `in_flight` keeps
    it."""

    __slots__ = ("group", "in_flight", "items", "place", "receiver", "slow")

    def __init__(self, group: Sharing, receiver: Receiver, in_flight: InFlight, place: Place) -> None:
        self.group = group
        self.receiver = receiver
        self.in_flight = in_flight
        self.place = place
        self.slow = False
        self.items: dict[Item, None] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more is written to it."""
        return self.receiver.over or not self.place.open

    async def page(self) -> bool:
        """Takes a share of what there is, and writes it. False where there is nothing for it now: it is woken. Raises
        BucketGone."""
        group = self.group
        async with group.lock:
            if self.over:
                return True
            taken = group.take(self)
            if not taken:
                return False
            more, written = await group.give(self, taken)
        if written is not None:
            await written
        if group.others_wait():
            # A write that the kernel takes at once gives nobody else a turn.
            await asyncio.sleep(0)
        return more

    def caught_up(self) -> bool:
        """Whether everything was handed out, where `page` found nothing."""
        return self.in_flight.credit > 0 and self.group.exhausted


class Item:
    """An event that is out. `copies` are the numbers of the copies that are not acked yet, None where there are none;
    `since` is loop time, `order` its place among what its connection was given."""

    __slots__ = ("copies", "epoch", "member", "order", "since", "taken")

    def __init__(self, member: Member, taken: Taken, epoch: str, copies: set[int] | None, since: float, order: int):
        self.member = member
        self.taken = taken
        self.epoch = epoch
        self.copies = copies
        self.since = since
        self.order = order


class InFlight:
    """What one connection was given and has not answered for, over all its buckets, in the order given."""

    __slots__ = ("_enough", "_given", "_items", "_limit", "_mixed", "_short", "_timer")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._enough = min(limit // 4, _ENOUGH)
        self._timer = Timer(self._fill)
        self._items: dict[tuple[str, int], Item] = {}
        self._mixed = False
        """Whether those are in another order than they were given in."""
        self._short: dict[Member, None] = {}
        self._given = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def credit(self) -> int:
        """How many more it may be given."""
        return self._limit - len(self._items)

    def give(self, member: Member, taken: Taken, epoch: str, copies: set[int] | None, since: float) -> Item:
        self._given += 1
        item = Item(member, taken, epoch, copies, since, self._given)
        member.items[item] = None
        self._items[epoch, taken.seq] = item
        return item

    def ack(self, id: Cursor, *, all: bool) -> bool:
        """It is done with an event, or a copy; with `all` also with everything that it was given before that. False
        where it has no such event: nothing changes."""
        item = self._find(id)
        if item is None:
            return False
        if all:
            self._sort()
            for before in list(takewhile(lambda each: each is not item, self._items.values())):
                before.member.group.done(before)
        if id.output is not None and item.copies is not None:
            if all:
                item.copies = {n for n in item.copies if n > id.output}
            else:
                item.copies.discard(id.output)
            if item.copies:
                return True
        item.member.group.done(item)
        return True

    def nak(self, id: Cursor, delay: float) -> bool:
        """An event is to be tried again after `delay` seconds. False as in `ack`."""
        item = self._find(id)
        if item is None:
            return False
        item.member.group.refuse(item, delay)
        return True

    def drop(self, item: Item) -> None:
        """It has this one no longer, so there is room for another."""
        if self._items.get((item.epoch, item.taken.seq)) is item:
            del self._items[item.epoch, item.taken.seq]
        item.member.items.pop(item, None)
        if not self._short:
            return
        if self.credit >= self._enough:
            self._fill()
        elif self._timer.at is None:
            self._timer.after(_PATIENCE)

    def _fill(self) -> None:
        """Those that waited for room go on."""
        self._timer.cancel()
        for member in list(self._short):
            member.receiver.mark(member.place.bucket_id)
            del self._short[member]

    def of(self, member: Member) -> list[Item]:
        """What it has of one group."""
        return list(member.items)

    def run_short(self, member: Member) -> None:
        """This one waits until there is room."""
        self._short[member] = None

    def adopt(self, old: Member, new: Member) -> None:
        """Takes over what the connection had as another member before."""
        before = old.in_flight
        for item in before.of(old):
            key = item.epoch, item.taken.seq
            new.items[item] = None
            self._items[key] = item
            item.member = new
            self._mixed = True
            before._items.pop(key, None)
            del old.items[item]
        self._given = max(self._given, before._given)

    def _sort(self) -> None:
        """Once for all that was adopted, which may be of thousands of buckets."""
        if self._mixed:
            self._items = dict(sorted(self._items.items(), key=lambda each: each[1].order))
            self._mixed = False

    def _find(self, id: Cursor) -> Item | None:
        item = self._items.get((id.epoch, id.seq))
        if item is None or id.output is None:
            return item
        return item if item.copies is not None and id.output in item.copies else None
