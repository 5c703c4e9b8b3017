"""A connection's membership of consumers with explicit acks, and its events in flight: those that it was given and has
not acked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, takewhile
from typing import Final, NamedTuple, Protocol

from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.dispatch import Place
from relay_tornado.delivery.reader import Writer
from relay_tornado.delivery.selection import Copies
from relay_tornado.log.ledgers import Ledger
from relay_tornado.low_memory import Timer
from relay_tornado.model import BucketId, Cursor, Event, Gap

_ENOUGH: Final = 64
"""Free places, of `max_in_flight`, that are worth a write at once; a quarter of `max_in_flight` if that is less."""
_PATIENCE: Final = 0.002
"""Seconds that fewer free places wait for more acks, which arrive one by one and would cost a write each."""
_REMEMBERED: Final = 256
"""The number of events taken back unanswered that are remembered, at least: with few in flight at once, many more may
be on their way to a slow client."""


class Receiver(Writer, Protocol):
    """A delivery, as seen by a group."""

    @property
    def busy(self) -> bool:
        """Whether its own task is at work, or it has not begun, or it has ended."""

    @property
    def rests(self) -> bool:
        """Whether its filter has to wait."""

    def mark(self, bucket_id: BucketId) -> object:
        """The bucket may have something to read."""

    def copies(self, place: Place, event: Event, attempt: int) -> Copies | None:
        """This subscriber's copies of an event; None if there are none. Raises BucketGone."""

    def missed(self, bucket_id: BucketId, gap: Gap) -> None:
        """The consumer met a gap."""

    def released(self, bucket_id: BucketId) -> None:
        """The consumer was deleted."""


class Sharing(Protocol):
    """A group, as seen by its members."""

    ledger: Ledger

    async def page(self, member: Member) -> bool:
        """Writes the member's share of the available events. Returns False if there is none now: the member is woken
        later. Raises BucketGone."""

    async def caught_up(self, member: Member) -> bool:
        """Whether `page` found nothing because everything was handed out; the member's place is at that position then.
        Raises BucketGone."""

    def leave(self, member: Member, heir: Member | None = None) -> None:
        """Removes a member. Its events go to the `heir`, or back to the group at once. May be repeated, and has to be
        if it fails."""

    def done(self, item: Item) -> None:
        """The event was acked."""

    def refuse(self, item: Item, delay: float) -> None:
        """The event is to be retried after `delay` seconds."""


class Member:
    """A connection's membership in one group. `place` shows the group's position. `slow`: it let an event's `ack_wait`
    pass, so until it answers it gets only what the others have no places for. `items` are its events in flight of this
    group."""

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
        """Whether nothing more is written to the connection."""
        return self.receiver.over or not self.place.open


class Earlier(NamedTuple):
    """What a connection was given of an event that it is given again: the `order` from the `first` time that an answer
    may still be about, and from the first since it last answered (0 if it was not given it since)."""

    first: int
    unanswered: int


class Item:
    """An event in flight. `copies` are the numbers of its copies that are not acked yet, None for the event itself;
    `since` is loop time; `order` is its place among everything that its connection was given. `first` is the `order`
    from when the connection was given the event before, if an answer may be about that, `unanswered` the one from when
    it was given it before and has not answered; else both are the same as `order`."""

    __slots__ = ("copies", "epoch", "first", "member", "order", "since", "taken", "unanswered")

    def __init__(
        self,
        member: Member,
        taken: Taken,
        epoch: str,
        copies: set[int] | None,
        since: float,
        order: int,
        earlier: Earlier,
    ) -> None:
        self.member = member
        self.taken = taken
        self.epoch = epoch
        self.copies = copies
        self.since = since
        self.order = order
        self.first, unanswered = earlier
        self.unanswered = unanswered or order

    def covers(self, before: Item) -> bool:
        """Whether an ack of everything before this event includes that one, which came before it the last time."""
        return before.unanswered < self.first


class InFlight:
    """The events in flight of one connection, over all its buckets, in the order given.

    An event that was taken back without an answer, as after its `ack_wait` or when its consumer was moved, may be given
    to the same connection again. Its client may be so far behind that it means the earlier time when it acks the event:
    what the connection was given since may be unread. So an ack of everything before such an event leaves out what was
    given since. What the client refused is acked by events alone that it was given after it came again. It goes on like
    this from the subscription `before` to the next one.
    """

    __slots__ = ("_enough", "_items", "_lapsed", "_limit", "_mixed", "_orders", "_short", "_timer")

    def __init__(self, limit: int, before: InFlight | None = None) -> None:
        self._limit = limit
        self._enough = min(limit // 4, _ENOUGH)
        self._timer = Timer(self._fill)
        self._items: dict[tuple[str, int], Item] = {}
        self._mixed = False
        """Whether the items are not in the order given."""
        self._lapsed: dict[tuple[str, int], Earlier] = {} if before is None else before._lapsed
        """The last events that were taken back unanswered, at least once."""
        self._orders: Iterator[int] = count(1) if before is None else before._orders
        # Both are shared with the subscription before, which may still be in a write when this one is made.
        self._short: dict[Member, None] = {}

    @property
    def credit(self) -> int:
        """How many more events the connection may be given."""
        return self._limit - len(self._items)

    def give(self, member: Member, taken: Taken, epoch: str, copies: set[int] | None, since: float) -> Item:
        order = next(self._orders)
        key = epoch, taken.seq
        earlier = self._lapsed.pop(key, None) or Earlier(order, order)
        item = Item(member, taken, epoch, copies, since, order, earlier)
        member.items[item] = None
        self._items[key] = item
        return item

    def ack(self, id: Cursor, *, all: bool) -> bool:
        """Acks an event or a copy; with `all`, also everything that the connection was given before it, the `first`
        time as well as the last. Returns False, and changes nothing, if the event is not in flight here."""
        item = self._find(id)
        if item is None:
            return False
        if all:
            self._sort()
            for before in list(takewhile(lambda each: each is not item, self._items.values())):
                if item.covers(before):
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
        """Has an event retried after `delay` seconds. Returns False as `ack` does."""
        item = self._find(id)
        if item is None:
            key = id.epoch, id.seq
            if key in self._lapsed:
                self._lapsed[key] = self._lapsed[key]._replace(unanswered=0)
            return False
        item.member.group.refuse(item, delay)
        return True

    def drop(self, item: Item, *, answered: bool = True) -> None:
        """The event is no longer in flight here, so there is a place for another one. `answered`: it was acked or
        refused, which may be about an earlier time."""
        key = item.epoch, item.taken.seq
        if not answered or item.first < item.order:
            self._lapsed[key] = Earlier(item.first, 0 if answered else item.unanswered)
            if len(self._lapsed) > max(self._limit, _REMEMBERED):
                del self._lapsed[next(iter(self._lapsed))]
        if self._items.get(key) is item:
            del self._items[key]
        item.member.items.pop(item, None)
        if not self._short:
            return
        if self.credit >= self._enough:
            self._fill()
        elif self._timer.at is None:
            self._timer.after(_PATIENCE)

    def _fill(self) -> None:
        """Wakes the members that waited for free places."""
        self._timer.cancel()
        for member in list(self._short):
            member.receiver.mark(member.place.bucket_id)
            del self._short[member]

    def run_short(self, member: Member) -> None:
        """Has this member wait for free places."""
        self._short[member] = None

    def adopt(self, old: Member, new: Member) -> None:
        """Takes over the events that the connection has in flight as the member `old`, of the subscription before."""
        before = old.in_flight
        for item in list(old.items):
            key = item.epoch, item.taken.seq
            new.items[item] = None
            self._items[key] = item
            item.member = new
            self._mixed = True
            before._items.pop(key, None)
            del old.items[item]

    def _sort(self) -> None:
        """Sorts once for everything that was adopted, which may belong to thousands of buckets."""
        if self._mixed:
            self._items = dict(sorted(self._items.items(), key=lambda each: each[1].order))
            self._mixed = False

    def _find(self, id: Cursor) -> Item | None:
        item = self._items.get((id.epoch, id.seq))
        if item is None or id.output is None:
            return item
        return item if item.copies is not None and id.output in item.copies else None
