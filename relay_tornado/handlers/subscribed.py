"""What is told of a client that is subscribed, over a WebSocket or a stream."""

from __future__ import annotations

from collections.abc import Mapping

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.model import BucketId


class Subscribed:
    """Its delivery, once it has one."""

    __slots__ = ("_delivery",)

    _delivery: Delivery | None

    @property
    def buckets(self) -> frozenset[BucketId]:
        """What it is subscribed to now."""
        return frozenset(() if self._delivery is None else self._delivery.positions())

    @property
    def positions(self) -> Mapping[BucketId, int]:
        """By bucket, the seq of the last event written or passed over."""
        return {} if self._delivery is None else {key: at.seq for key, at in self._delivery.positions().items()}
