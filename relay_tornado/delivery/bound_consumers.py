"""The consumers that one subscription is bound to, by bucket: its acks, its receipts, and the gaps that it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from relay_tornado.delivery.consumer_binding import ConsumerBinding, Opened, open_bound
from relay_tornado.delivery.dispatch import Place
from relay_tornado.delivery.group import Groups
from relay_tornado.delivery.in_flight import InFlight, Member, Receiver
from relay_tornado.delivery.receipts import Held, Receipt, Receipts
from relay_tornado.delivery.shared import Shared
from relay_tornado.log.ledgers import Ledger
from relay_tornado.log.lineage import epoch_at
from relay_tornado.model import BucketId, Gap
from relay_tornado.wire.acks import Ack, Nak

_ASKED: Final = 4
"""Pings after gaps that are remembered until their pong; the newest one is after everything that was told."""

_Told = tuple[Ledger, Sequence[Gap]]
"""A consumer and some of its gaps."""


class BoundConsumers:
    """A subscription's consumers: with explicit acks in `members`, by receipt in `held`, each bucket in one of them at
    most. A consumer is `opened` before anything else is done with it, and is closed last.

    `astray` are buckets whose consumer by receipt was moved or deleted by somebody else, and buckets in which its
    durable token has a consumer now that it does not use yet.

    A client counts as told of a gap once it has answered a ping that was sent after it, as it has then read it. Until
    then the next subscriber is told of the gap, too: a connection that dies in between hides it from nobody.
    """

    __slots__ = (
        "_asked",
        "_groups",
        "_in_flight",
        "_ping",
        "_receipt",
        "_receipts",
        "_shared",
        "_telling",
        "astray",
        "binding",
        "held",
        "members",
        "opened",
        "strayed",
    )

    def __init__(
        self,
        shared: Shared,
        groups: Groups,
        receipts: Receipts,
        binding: ConsumerBinding,
        max_in_flight: int,
        ping: Callable[[bytes], None],
        before: BoundConsumers | None = None,
    ) -> None:
        """`ping` writes a protocol ping after everything that was written; `before` are those of the subscription that
        this one replaces, if it has any."""
        self.binding = binding
        self.opened: Opened = {}
        self.members: dict[BucketId, Member] = {}
        self.held: dict[BucketId, Held] = {}
        self.astray: dict[BucketId, None] = {}
        self.strayed: Callable[[], None] = lambda: None
        """Called when a bucket is astray; set by the delivery."""
        self._shared = shared
        self._groups = groups
        self._receipts = receipts
        self._in_flight: InFlight = InFlight(max_in_flight, None if before is None else before._in_flight)
        self._receipt = Receipt(ping)
        self._ping = ping
        self._telling: list[_Told] = []
        self._asked: list[tuple[bytes, list[_Told]]] = []

    def enter(
        self,
        receiver: Receiver,
        place: Place,
        ledger: Ledger,
        before: BoundConsumers | None,
        generation: int | None = None,
    ) -> bool:
        """Joins an open consumer. The place is at its position in this generation (None: the current one). Takes over
        what the connection has in flight of the same consumer as `before`. Returns whether a group serves the place. If
        this fails, the caller has to `leave`."""
        bucket_id = place.bucket_id
        if ledger.terms.receipt:
            held = self.held[bucket_id] = Held(self._receipt, ledger, place)
            self._receipts.add(held, partial(self._astray, bucket_id))
            if generation is not None:
                held.generation = generation
            self._astray(bucket_id)
            return False
        group = self._groups.of(ledger, place)
        member = self.members[bucket_id] = Member(group, receiver, self._in_flight, place)
        group.join(member)
        old = None if before is None else before.members.get(bucket_id)
        if before is not None and old is not None and old.group is group:
            before.leave(bucket_id, member)
        return True

    def begin(self) -> None:
        """The answer to subscribe is out: the client's pongs are for this subscription from now on."""
        self._receipt.begun = True

    def lacks(self, bucket_id: BucketId) -> bool:
        """Whether the durable token has a consumer in the bucket that this subscription does not use."""
        return self.binding.kind == "token" and bucket_id not in self.held and self.binding.has(bucket_id)

    def leave(self, bucket_id: BucketId, heir: Member | None = None) -> None:
        """Leaves the bucket's consumer: its events in flight go to the `heir`, or to others, at once. May be repeated,
        and has to be if it fails."""
        self.astray.pop(bucket_id, None)
        member = self.members.get(bucket_id)
        if member is not None:
            member.group.leave(member, heir)
            del self.members[bucket_id]
        held = self.held.get(bucket_id)
        if held is not None:
            self._receipts.remove(held)
            del self.held[bucket_id]
        ledger = self.opened.get(bucket_id)
        if ledger is not None:
            self._shared.ledgers.close(ledger)
            del self.opened[bucket_id]

    def close(self) -> None:
        """Leaves all consumers. May be repeated, and has to be if it fails."""
        for bucket_id in list(self.opened):
            self.leave(bucket_id)

    def expects(self, bucket_id: BucketId, seq: int) -> bool:
        """Whether a consumer with explicit acks has this event in flight, or is still to hand it out."""
        member = self.members.get(bucket_id)
        return member is not None and member.group.ledger.progress.expects(seq)

    async def follow(self, place: Place, receiver: Receiver) -> bool:
        """Follows a consumer that is astray to its new position, or joins one that it lacks. Returns False if the
        consumer was deleted; then it has been left.

        Raises BucketGone and Unavailable.
        """
        bucket_id = place.bucket_id
        self.astray.pop(bucket_id, None)
        held = self.held.get(bucket_id)
        if held is None:
            await self._take_part(place, receiver)
        elif held.ledger.gone:
            self.leave(bucket_id)
            return False
        elif held.moved_away():
            bounds = await self._shared.log.bounds(bucket_id)
            if place.open:
                seq = min(held.ledger.progress.floor, bounds.head)
                place.move(seq, epoch_at(bounds.epochs, seq))
                self._receipts.begin(held)
        return True

    async def _take_part(self, place: Place, receiver: Receiver) -> None:
        """Joins the durable token's consumer in a bucket that was read without one."""
        ledger = await open_bound(self._shared.ledgers, self.binding, place.bucket_id, self.opened)
        if ledger is not None and place.open and not receiver.over and self.lacks(place.bucket_id):
            self.enter(receiver, place, ledger, None)
        else:
            self.leave(place.bucket_id)

    def overtaken(self, bucket_id: BucketId, first: int, gap: Gap | None) -> bool:
        """The bucket's log holds nothing below `first`, or lacks `gap`, before everything was delivered. A consumer by
        receipt meets this as a gap. Returns whether the gap was logged and counted as the consumer's."""
        held = self.held.get(bucket_id)
        if held is None or held.ledger.gone or held.moved_away():
            return False
        ledger = held.ledger
        ledger.trim(first)
        # Other connections may have met it before, and continued after it.
        new = gap is not None and (gap.to_seq is None or gap.to_seq > ledger.progress.floor)
        if gap is not None and new and gap.reason != "retention":
            ledger.met(gap, self._shared.ledgers.clock())
        return gap is not None and ledger.has_met(gap)

    def settle(self, request: Ack | Nak) -> bool:
        """Executes a client's ack or nak. Returns False if the event is not in flight here."""
        if isinstance(request, Ack):
            return self._in_flight.ack(request.id, all=request.all)
        return self._in_flight.nak(request.id, request.delay)

    def tell(self, bucket_id: BucketId) -> None:
        """The next write tells the client of all the consumer's gaps that no client was told of."""
        ledger = self.opened.get(bucket_id)
        if ledger is not None and ledger.untold:
            self._telling.append((ledger, ledger.untold))

    def ask(self) -> None:
        """The gaps were written: sends a ping after them, to find out whether they are read."""
        if self._telling:
            payload = os.urandom(8)
            self._asked = [*self._asked[-_ASKED + 1 :], (payload, self._telling)]
            self._telling = []
            self._ping(payload)

    def ponged(self, payload: bytes) -> None:
        """The client sent a pong."""
        read = 1 + next((index for index, asked in enumerate(self._asked) if asked[0] == payload), -1)
        for _, told in self._asked[:read]:
            for ledger, gaps in told:
                self._shared.ledgers.told(ledger, gaps)
        del self._asked[:read]
        self._receipt.ponged(payload)

    def _astray(self, bucket_id: BucketId) -> None:
        held = self.held.get(bucket_id)
        if held is not None and (held.ledger.gone or held.moved_away()):
            self.astray[bucket_id] = None
            self.strayed()
