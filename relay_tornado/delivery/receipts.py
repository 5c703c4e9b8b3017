"""Consumers that are moved by receipt: the pong to a ping that went out behind events says that they were read.

Invariants:
- A ping goes out behind everything that its positions name; the position of a ping is stored when the pong of the next
  one has come back. So an application that answers a ping before it has dealt with what came before it has one
  interval more, and an event that the client's library never read is sent again.
- A ping's payload is random, so that a pong that nobody asked for moves nothing.
- The furthest receipt counts: a slower connection moves nothing back. A receipt from before a seek counts for nothing,
  nor does one that comes when the connection has left the consumer: nobody tells it then that there was a seek.
- A position counts by whole events: all copies are out.
- A receipt of what the file lost says nothing of the events that get those seqs.
- What left the log is no gap while a connection that was given it may still say that it was read.
- A subscription has no ping out before it has begun: until then a pong reaches the one before it.
- A connection has few pings unanswered, and each names only what moved since the one before it. One clock serves all
  connections, and looks at those alone whose bucket has something new, or that are not done yet.
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
"""Most pings of one connection that have no pong yet."""

_Moved = list[tuple["Held", int, int]]
"""How far a position was, and in which generation of its consumer."""


class Held:
    """One connection's position in one bucket, and the consumer that it moves.

    `generation` is that of the consumer's position at which delivery began. `pinged` is how far the last ping was
    behind: what a subscription before this one wrote here has no ping of this one.
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
        """Whether somebody has moved the consumer to another position."""
        return self.ledger.progress.generation != self.generation

    def begin(self) -> None:
        """The place has a position of the consumer as it is now."""
        self.generation = self.ledger.progress.generation
        self.pinged = self.ledger.progress.floor

    def settled(self, head: int) -> bool:
        """Whether there is nothing to come, and everything that came is known to have been read."""
        floor = self.ledger.progress.floor
        return self.ledger.gone or (self.place.seq >= head and floor >= self.place.seq)

    def read(self, seq: int, generation: int) -> None:
        """The client has read everything up to there, as things were in that generation."""
        ledger = self.ledger
        if self.left or ledger.gone or generation != ledger.progress.generation:
            return
        if ledger.progress.advance(seq):
            ledger.save()


class Receipt:
    """One connection's pings, oldest first: the payload, and how far each position was that had moved."""

    __slots__ = ("_answered", "_ping", "_pings", "begun")

    def __init__(self, ping: Callable[[bytes], None]) -> None:
        """`ping` writes a protocol ping with this payload behind everything that was written."""
        self.begun = False
        self._ping = ping
        self._pings: deque[tuple[bytes, _Moved]] = deque()
        self._answered = False
        """Whether the oldest was."""

    def tick(self, those: list[Held]) -> None:
        """Sends a ping where one of these positions has moved since the last one, or the last one needs one behind
        it."""
        if not self.begun or len(self._pings) - self._answered >= _UNANSWERED:
            return
        moved = [
            (held, held.place.seq, held.generation)
            for held in those
            if held.place.seq > held.pinged and held.place.lost is None and not held.moved_away()
        ]
        if not moved and not (self._pings and self._pings[-1][1]):
            return
        payload = os.urandom(8)
        self._pings.append((payload, moved))
        for held, seq, _ in moved:
            held.pinged = seq
        self._ping(payload)

    def lose(self, held: Held, head: int) -> None:
        """Of what the pings say of this position only that counts which lies up to `head`."""
        for _, moved in self._pings:
            moved[:] = [(each, min(seq, head) if each is held else seq, since) for each, seq, since in moved]
        held.pinged = min(held.pinged, head)

    def ponged(self, payload: bytes) -> None:
        """A pong came; one to a ping of somebody else's is none of ours."""
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
    """All connections that have receipts, and their clock."""

    def __init__(self, head: Callable[[BucketId], int]) -> None:
        """`head` gives a bucket's newest published seq."""
        self._head = head
        self._held: dict[BucketId, dict[Held, None]] = {}
        self._heads: dict[BucketId, int] = {}
        self._active: dict[Held, None] = {}
        self._timer = Timer(self._tick)

    def add(self, held: Held, moved: Callable[[], None]) -> None:
        """From now on the connection's receipts move the consumer; its place is at a position of its own. `moved` is
        called when somebody else has moved or deleted it. Where it fails, it is to be removed."""
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
        """The place is at another position of the consumer."""
        held.begin()
        self._active[held] = None

    def lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log may end at `head` again: other events will have the seqs of what came after it."""
        for held in self._held.get(bucket_id, ()):
            held.receipt.lose(held, head)

    def connections(self, ledger: Ledger) -> int:
        """How many connections move this consumer now."""
        return sum(held.ledger is ledger for held in self._held.get(ledger.key.bucket_id, ()))

    def _given(self, ledger: Ledger) -> int:
        """How far connections that move this consumer were given events."""
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
