"""The buckets of one subscription: where each is, and which of them join, leave and are renamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from relay_tornado.delivery.bound_consumers import BoundConsumers
from relay_tornado.delivery.dispatch import Place
from relay_tornado.delivery.notices import Notices
from relay_tornado.delivery.receipts import Held
from relay_tornado.delivery.shared import Shared
from relay_tornado.delivery.subscription import MOST_ENDED, Reached, Subscription
from relay_tornado.errors import Invalid
from relay_tornado.ids import format_id
from relay_tornado.model import Bucket, BucketId, Earliest, Event, Position, Token
from relay_tornado.wire import control, frames

NONE: Final[dict[BucketId, None]] = {}
"""Shared, since there are thousands of deliveries."""


class Buckets:
    """The base of a delivery. `notices` are told to the client before its next events, `consumers` keep its positions;
    they are None if the client keeps them."""

    __slots__ = (
        "_dirty",
        "_expected",
        "_joining",
        "_places",
        "_shared",
        "consumers",
        "notices",
        "over",
        "subscription",
    )

    def __init__(
        self, shared: Shared, subscription: Subscription, consumers: BoundConsumers | None, *, extended: bool
    ) -> None:
        self.subscription = subscription
        self.notices = Notices(wanted=extended)
        self.consumers = consumers
        self.over = False
        """Whether nothing more is written."""
        self._shared = shared
        self._places: dict[BucketId, Place] = {}
        self._dirty: dict[BucketId, None] = {}
        """The buckets that may have something to read, in turn."""
        self._expected = NONE
        """Buckets that are being placed."""
        self._joining: dict[BucketId, Position] = {}
        """Buckets that fit the subscription and have no place yet, each with where it begins."""

    def _go_on(self) -> None:
        """Something is to be done: by the delivery, once it has begun."""
        raise NotImplementedError

    def expect(self, bucket_ids: Iterable[BucketId]) -> None:
        """These buckets are being placed, so they are not to join."""
        self._expected = dict.fromkeys((*self._expected, *bucket_ids))

    def positions(self) -> dict[BucketId, Reached]:
        """What was written, by bucket: 0 for a new bucket that has not been placed yet."""
        joining = {bucket_id: Reached(0) for bucket_id, position in self._joining.items() if position == Earliest()}
        return joining | {place.bucket_id: Reached(place.seq, place.output) for place in self._places.values()}

    def reached(self) -> Mapping[BucketId, str]:
        """By bucket, the id of the last event written or passed over. Buckets with an untold gap, or between the copies
        of an event, are left out."""
        places = [place for place in self._places.values() if not (place.output or self.notices.gaps(place.bucket_id))]
        return {place.bucket_id: format_id(place.epoch, place.seq) for place in places}

    def moved(self) -> Mapping[str, str]:
        """As `reached`, but by bucket name, only what moved since the last call, and including what is being
        written."""
        moved = {}
        for place in self._places.values():
            seq, epoch = place.told()
            if seq != place.pinged and epoch and not self.notices.gaps(place.bucket_id):
                place.pinged = seq
                moved[self._shared.directory.name(place.bucket_id)] = format_id(epoch, seq)
        return moved

    def reaches(self, bucket_id: BucketId, event: Event) -> bool:
        """Whether this event's copies are for this subscriber if they pass its filter, already written or not. A
        subscriber with outputs "none" does not count, as it only looks at events."""
        if (self.over and bucket_id not in self._expected) or self.subscription.request.outputs == "none":
            return False
        place = self._places.get(bucket_id)
        if place is None:
            if bucket_id not in self._joining and bucket_id not in self._expected:
                return False
        elif place.began >= event.seq and (self.consumers is None or not self.consumers.expects(bucket_id, event.seq)):
            return False
        return True

    def join(self, bucket: Bucket, *, new: bool) -> None:
        """The bucket fits the subscription now. A new bucket is read from its first event, another one from the
        position that was requested for it."""
        known = any(bucket.id in those for those in (self._places, self._expected, self._joining))
        if known or not self.subscription.wants(bucket):
            return
        self._joining[bucket.id] = Earliest() if new else self.subscription.begins(bucket)
        self._go_on()

    def keep(self, bucket_id: BucketId) -> None:
        """The bucket's record has changed: a durable token may have a position in it now."""
        consumers = self.consumers
        if consumers is not None and bucket_id in self._places and consumers.lacks(bucket_id):
            consumers.astray[bucket_id] = None
            self._go_on()

    def renamed(self, bucket_id: BucketId) -> None:
        """Lets the next ping tell the bucket's position under its new name. Another bucket may get the old name, and
        its position would replace this one in a client that keeps positions by name."""
        if bucket_id in self._places:
            self._places[bucket_id].pinged = -1

    def leave(self, bucket_id: BucketId) -> None:
        """The bucket was deleted or left the token's scope: ends delivery in it, and tells an extended client."""
        if self._drop(bucket_id):
            self._tell(frames.bucket_deleted(self._shared.directory.name(bucket_id), bucket_id))

    def rescope(self, token: Token) -> None:
        """Takes over the token's changed record."""
        before, self.subscription = self.subscription.token, replace(self.subscription, token=token)
        if before.buckets == token.buckets:
            return  # thousands may be called, each with thousands of buckets
        for bucket_id in [*self._places, *self._joining]:
            if not token.reads(bucket_id):
                self.leave(bucket_id)
        for bucket in self._shared.directory.gained(before, token):
            self.join(bucket, new=False)

    def unsubscribe(self, request: control.Unsubscribe) -> None:
        """Ends delivery in these buckets for good, also if they are renamed. Each is named by its current name, by the
        name that it had when delivery began in it, or by its id. Raises Invalid, and changes nothing, if no more names
        can be remembered."""
        names = frozenset(request.buckets)
        known = [*self._places, *self._joining]
        ended = [bucket_id for bucket_id in known if not names or self._is_named(bucket_id, names)]
        subscription = self.subscription.without(names, ended)
        if subscription.names is None and sum(map(len, subscription.ended)) > MOST_ENDED:
            raise Invalid("too many names were unsubscribed here: subscribe again, to those that you want", "buckets")
        self.subscription = subscription
        for bucket_id in ended:
            self._drop(bucket_id)

    def _is_named(self, bucket_id: BucketId, names: frozenset[str]) -> bool:
        place = self._places.get(bucket_id)
        return (
            bucket_id in names
            or self._shared.directory.name(bucket_id) in names
            or (place is not None and place.name in names)
        )

    def lose(self, ends: Mapping[BucketId, int]) -> None:
        """The logs of these buckets may have gone back to these heads. This delivery has ended: its successor tells."""
        for bucket_id, head in ends.items():
            if bucket_id in self._places:
                self._places[bucket_id].lose(head)

    def going_on(self) -> Mapping[BucketId, Held | None]:
        """What its successor continues, by bucket: its part in each consumer by receipt, whose position may be behind
        its own; None if it read the bucket without a consumer."""
        if self.consumers is not None and self.consumers.binding.kind == "client":
            return dict(self.consumers.held)
        return {
            bucket_id: None if self.consumers is None else self.consumers.held.get(bucket_id)
            for bucket_id in self._places
        }

    def _drop(self, bucket_id: BucketId) -> bool:
        """Ends delivery in a bucket. Returns False if there was none."""
        self._joining.pop(bucket_id, None)
        self._dirty.pop(bucket_id, None)
        place = self._places.get(bucket_id)
        if place is not None:
            place.open = False
            self._shared.dispatcher.remove(place)
        self._let_go(bucket_id)
        return self._places.pop(bucket_id, None) is not None

    def _let_go(self, bucket_id: BucketId) -> None:
        """Drops a bucket's consumer, which was opened or about to be."""
        if self.consumers is not None:
            self.consumers.leave(bucket_id)

    def _tell(self, payload: bytes) -> None:
        self.notices.add(payload)
        if self.notices:
            self._go_on()
