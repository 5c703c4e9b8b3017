"""Events as WebSocket frames: each is encoded once, however many subscribers get it, and kept within a budget."""

from __future__ import annotations

from collections import deque
from typing import Final

from relay_tornado.errors import BucketGone
from relay_tornado.model import Bucket, BucketId, Event
from relay_tornado.registry.contract import Registry
from relay_tornado.wire import frames, websocket

_OVERHEAD: Final = 150
"""What a kept frame costs beside its own bytes: its object, its entry and its turn."""


class _Kept:
    """The frames of one bucket as it is named and furnished now."""

    __slots__ = ("bucket", "frames", "inputs")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.inputs = {each.id: each.name for each in bucket.inputs}
        self.frames: dict[int, bytes] = {}


class FrameCache:
    """Whole WebSocket frames by bucket and seq, at most `budget` bytes of them, oldest out first."""

    def __init__(self, registry: Registry, budget: int) -> None:
        self._registry = registry
        self._budget = budget
        self._buckets: dict[BucketId, _Kept] = {}
        self._turns: deque[tuple[_Kept, int]] = deque()
        self.size = 0
        """Bytes in use."""

    def frame(self, bucket_id: BucketId, event: Event, *, keep: bool = True) -> bytes:
        """The frame of an event of this bucket, kept for others unless nobody else may want it.

        Raises BucketGone where the registry has no such bucket.
        """
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        frame = kept.frames.get(event.seq)
        if frame is None:
            frame = websocket.text(frames.webhook(event, kept.bucket, kept.inputs.get(event.input_id, "")))
            if keep:
                self._keep(kept, event.seq, frame)
        return frame

    def truncated(self, bucket_id: BucketId, event: Event) -> bytes:
        """The frame without the event's body, for a subscriber whose `max_body` it is over. Raises BucketGone."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        name = kept.inputs.get(event.input_id, "")
        return websocket.text(frames.webhook(event, kept.bucket, name, truncate=True))

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket or an input of it has changed, so that its frames are not true any more."""
        kept = self._buckets.pop(bucket_id, None)
        if kept is not None and kept.frames:
            self.size -= sum(len(frame) + _OVERHEAD for frame in kept.frames.values())
            self._turns = deque(turn for turn in self._turns if turn[0] is not kept)

    def _enter(self, bucket_id: BucketId) -> _Kept:
        bucket: Bucket | None = self._registry.get("bucket", bucket_id)
        if bucket is None:
            raise BucketGone(bucket_id)
        kept = self._buckets[bucket_id] = _Kept(bucket)
        return kept

    def _keep(self, kept: _Kept, seq: int, frame: bytes) -> None:
        self.size += len(frame) + _OVERHEAD
        kept.frames[seq] = frame
        self._turns.append((kept, seq))
        while self.size > self._budget:
            oldest, number = self._turns.popleft()
            self.size -= len(oldest.frames.pop(number)) + _OVERHEAD
