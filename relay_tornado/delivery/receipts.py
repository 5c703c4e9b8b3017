"""Consumers that are moved by receipt: the pong to a ping that was sent after events shows that the client read them.

Invariants:
- A ping is sent after everything that its positions name. Its positions are stored when the pong of the next ping
  comes. So an application that answers a ping before it has processed the events before it has one interval more, and
  an event that the client's library never read is sent again.
- A ping's payload is random, so an unsolicited pong moves nothing.
- The furthest receipt counts: a slower connection moves nothing back. A receipt from before a seek is ignored, and so
  is one that comes after the connection has left the consumer, as it would not learn of a seek then.
- A position counts whole events: all copies were sent.
- A receipt of events that the file lost does not count for the events that get their seqs.
- Removed events are no gap while a connection that was given them may still confirm that it read them.
- A subscription sends no ping before it has begun: until then a pong belongs to the subscription before it.
- A connection has few unanswered pings, and each names only what moved since the ping before it. One clock serves all
  connections. It looks only at those whose bucket has something new or that are not done yet.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from relay_tornado.delivery.dispatch import Place
from relay_tornado.log.ledgers import Ledger
from relay_tornado.low_memory import Timer
from relay_tornado.model import BucketId

INTERVAL: Final = 1.0
"""Seconds between two pings of one connection."""

_UNANSWERED: Final = 4
"""The most pings of one connection without a pong."""

_Moved = list[tuple["Held", int, int]]
"""Positions, each with the generation of its consumer."""


class Held:
    """One connection's position in one bucket, and the consumer that it moves.

    `generation` is the generation of the consumer's position at which delivery began. `pinged` is the seq in the last
    ping. It begins at the floor, since events that an earlier subscription wrote here were in no ping of this one.
    """

    __slots__ = ("generation", "ledger", "left", "pinged", "place", "receipt", "unwatch")

    def __init__(self, receipt: Receipt, ledger: Ledger, place: Place) -> None:
        self.receipt = receipt
        self.ledger = ledger
        self.place = place
        self.unwatch: Callable[[], object] | None = None
        self.left = False
        self.begin()

    def moved_away(self) -> bool:
        """Whether somebody else has moved the consumer to another position."""
        return self.ledger.progress.generation != self.generation

    def begin(self) -> None:
        """The place was set to the consumer's current position."""
        self.generation = self.ledger.progress.generation
        self.pinged = self.ledger.progress.floor

    def settled(self, head: int) -> bool:
        """Whether nothing is to come, and everything sent is known to have been read."""
        floor = self.ledger.progress.floor
        return self.ledger.gone or (self.place.seq >= head and floor >= self.place.seq)

    def read(self, seq: int, generation: int) -> None:
        """The client has read everything up to `seq`, in this generation."""
        if not self.left and generation == self.ledger.progress.generation:
            self.ledger.read(seq)


class Receipt:
    """One connection's pings, oldest first: the payload, and the positions that had moved."""

    __slots__ = ("_answered", "_ping", "_pings", "begun")

    def __init__(self, ping: Callable[[bytes], None]) -> None:
        """`ping` writes a protocol ping with this payload after everything that was written."""
        self.begun = False
        self._ping = ping
        self._pings: deque[tuple[bytes, _Moved]] = deque()
        self._answered = False
        """Whether the oldest ping has its pong."""

    def tick(self, those: list[Held]) -> None:
        """Sends a ping if one of these positions has moved since the last ping, or if the last ping needs one after
        it."""
        if not self.begun or len(self._pings) - self._answered >= _UNANSWERED:
            return
        moved = [
            (held, held.place.seq, held.generation)
            for held in those
            if held.place.seq > held.pinged and held.place.lost is None
        ]
        if not moved and not (self._pings and self._pings[-1][1]):
            return
        payload = os.urandom(8)
        self._pings.append((payload, moved))
        for held, seq, _ in moved:
            held.pinged = seq
        self._ping(payload)

    def lose(self, held: Held, head: int) -> None:
        """Limits what the pings say of this position to `head`."""
        for _, moved in self._pings:
            moved[:] = [(each, min(seq, head) if each is held else seq, since) for each, seq, since in moved]
        held.pinged = min(held.pinged, head)

    def ponged(self, payload: bytes) -> None:
        """A pong came. One that answers none of these pings is ignored."""
        index = next((index for index, ping in enumerate(self._pings) if ping[0] == payload), None)
        if index is None:
            return
        # A client may answer only the last of several pings (RFC 6455, section 5.5.3).
        for _ in range(index):
            for held, seq, generation in self._pings.popleft()[1]:
                held.read(seq, generation)
        self._answered = True
        if not self._pings[0][1]:
            self._pings.popleft()
            self._answered = False


class Receipts:
    """All connections with receipts, and their clock."""

    def __init__(self, head: Callable[[BucketId], int]) -> None:
        """`head` returns a bucket's newest published seq."""
        self._head = head
        self._held: dict[BucketId, dict[Held, None]] = {}
        self._heads: dict[BucketId, int] = {}
        self._active: dict[Held, None] = {}
        self._timer = Timer(self._tick)

    def add(self, held: Held, moved: Callable[[], None]) -> None:
        """Lets the connection's receipts move the consumer; its place is at a position of the consumer. `moved` is
        called when somebody else moves or deletes that. If this fails, the caller has to `remove`."""
        ledger = held.ledger
        held.unwatch = ledger.watch(moved)
        self._held.setdefault(held.place.bucket_id, {})[held] = None
        ledger.given = partial(self._given, ledger)
        self._active[held] = None
        if self._timer.at is None:
            self._timer.after(INTERVAL)

    def remove(self, held: Held) -> None:
        """May be repeated."""
        held.left = True
        if held.unwatch is not None:
            held.unwatch()
        self._active.pop(held, None)
        bucket_id = held.place.bucket_id
        those = self._held.get(bucket_id)
        if those is not None:
            those.pop(held, None)
            if not those:
                del self._held[bucket_id]
                self._heads.pop(bucket_id, None)
        held.ledger.leave()
        if not self._held:
            self._timer.cancel()

    def begin(self, held: Held) -> None:
        """The place was set to another position of the consumer."""
        held.begin()
        self._active[held] = None

    def lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log may have gone back to `head`: later seqs will be reused."""
        for held in self._held.get(bucket_id, ()):
            held.receipt.lose(held, head)

    def connections(self, ledger: Ledger) -> int:
        """How many connections move this consumer now."""
        return sum(held.ledger is ledger for held in self._held.get(ledger.key.bucket_id, ()))

    def _given(self, ledger: Ledger) -> int:
        """The highest seq that connections of this consumer were given."""
        those = self._held.get(ledger.key.bucket_id, ())
        here = [each for each in those if each.ledger is ledger and not each.moved_away()]
        return max((max(each.place.seq, each.place.given) for each in here), default=0)

    def _tick(self) -> None:
        self._timer.after(INTERVAL)
        for bucket_id, held_there in self._held.items():
            head = self._head(bucket_id)
            if self._heads.get(bucket_id) != head:
                self._heads[bucket_id] = head
                self._active.update(held_there)
        by_receipt: dict[Receipt, list[Held]] = {}
        for held in self._active:
            by_receipt.setdefault(held.receipt, []).append(held)
        for receipt, those in by_receipt.items():
            receipt.tick(those)
        self._active = {
            held: None for held in self._active if not held.settled(self._heads.get(held.place.bucket_id, 0))
        }
