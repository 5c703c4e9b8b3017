"""Notices logs that grow far beyond their retention between two passes of housekeeping."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from relay_tornado.errors import BucketGone
from relay_tornado.log.contract import EventLog
from relay_tornado.model import MIB, Bucket, BucketId

_MUCH: Final = 8 * MIB
_SHARE: Final = 8
"""A log is trimmed early once it has grown by so many bytes (`_MUCH`), and by a `_SHARE`th, since it was trimmed."""


class Growth:
    """Which buckets got events, and how large their logs were after the last trim."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._came: dict[BucketId, None] = {}
        self._after: dict[BucketId, int] = {}

    def came(self, bucket_id: BucketId) -> None:
        """The bucket got events."""
        self._came[bucket_id] = None

    def take(self) -> Sequence[BucketId]:
        """The buckets that got events since the last call."""
        came = list(self._came)
        self._came.clear()
        return came

    def trimmed(self, bucket_id: BucketId) -> None:
        """The bucket's log was trimmed, as far as consumers that are waited for allowed it."""
        try:
            self._after[bucket_id] = self._log.held(bucket_id).bytes
        except BucketGone:
            self._after.pop(bucket_id, None)

    def is_due(self, bucket: Bucket) -> bool:
        """Whether the bucket's log is beyond its limit on events or bytes, and has grown much since the last trim.
        Raises BucketGone."""
        held, keep, after = self._log.held(bucket.id), bucket.retention, self._after.get(bucket.id, 0)
        if held.bytes - after <= max(_MUCH, after // _SHARE):
            return False
        if keep.max_events is not None and held.events > keep.max_events:
            return True
        limits = keep.max_bytes, keep.hard_max_bytes if keep.wait_for_consumers else None
        return any(limit is not None and held.bytes > limit for limit in limits)

    def forget(self, there: Collection[BucketId]) -> None:
        """Forgets the buckets that are not there any more."""
        for gone in self._after.keys() - there:
            del self._after[gone]
