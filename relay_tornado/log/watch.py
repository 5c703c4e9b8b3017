"""Registrations for news of events, by bucket or for all buckets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from relay_tornado.low_memory import try_log
from relay_tornado.model import BucketId

Wake: TypeAlias = Callable[[BucketId], None]

_log = structlog.get_logger(__name__)


class Watches:
    """All registrations. `head` returns the newest published seq of a bucket, 0 if there is no such log."""

    def __init__(self, head: Callable[[BucketId], int]) -> None:
        self.head = head
        self._all: set[Registration] = set()
        self._of: dict[BucketId, set[Registration]] = {}

    def add(self, bucket_ids: Collection[BucketId] | None, wake: Wake) -> Registration:
        """Registers for the buckets, or (None) for all, future ones too."""
        watch = Registration(self, None if bucket_ids is None else frozenset(bucket_ids), wake)
        if watch.buckets is None:
            self._all.add(watch)
        else:
            for bucket_id in watch.buckets:
                self._of.setdefault(bucket_id, set()).add(watch)
        return watch

    def wake(self, bucket_id: BucketId) -> None:
        """Calls every watcher of the bucket, even if one of them raises. Raises MemoryError if memory was short for
        one; then all have to be called again."""
        lacking: MemoryError | None = None
        for watches in (self._of.get(bucket_id), self._all):
            if not watches:
                continue
            for watch in tuple(watches):
                if watch.closed:
                    continue
                try:
                    watch.call(bucket_id)
                except MemoryError as error:
                    lacking = error
                except Exception:
                    try_log(_log.exception, "wake_failed", bucket=bucket_id)
        if lacking is not None:
            raise lacking

    def remove(self, watch: Registration) -> None:
        self._all.discard(watch)
        for bucket_id in watch.buckets or ():
            left = self._of.get(bucket_id)
            if left is not None:
                left.discard(watch)
                if not left:
                    del self._of[bucket_id]


@dataclass(eq=False, slots=True)
class Registration:
    """One registration (`log.contract.Watch`)."""

    _watches: Watches
    buckets: frozenset[BucketId] | None
    call: Wake
    closed: bool = False

    def head(self, bucket_id: BucketId) -> int:
        return self._watches.head(bucket_id)

    def close(self) -> None:
        self.closed = True
        self._watches.remove(self)
