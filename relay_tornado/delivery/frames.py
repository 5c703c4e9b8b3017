"""Events as WebSocket frames: each is encoded once, however many subscribers get it, and cached within a budget.

The copies of an event, one for each output that it goes to, are cached as one entry: their frames, joined in order of
n.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from relay_tornado.copies import Outputs, Subjects
from relay_tornado.errors import BucketGone
from relay_tornado.model import Bucket, BucketId, Event
from relay_tornado.registry.contract import Registry
from relay_tornado.rules import Rules
from relay_tornado.wire import frames, websocket

_OVERHEAD: Final = 150
"""Bytes that a cached frame costs besides its content: its object, its entry and its turn."""


class _Kept:
    """The frames of one bucket by its current record: of its events' copies (`frames`), and of the events themselves,
    whatever its outputs are (`events`)."""

    __slots__ = ("bucket", "events", "frames", "inputs", "outputs")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.inputs = {each.id: each.name for each in bucket.inputs}
        self.outputs = Outputs(bucket)
        self.frames: dict[int, bytes] = {}
        self.events: dict[int, bytes] = {}

    def itself(self, event: Event, truncate: bool = False, attempt: int = 1) -> bytes:
        """The frame of the event itself."""
        name = self.inputs.get(event.input_id, "")
        return websocket.text(frames.webhook(event, self.bucket, name, truncate=truncate, attempt=attempt))

    def copies(
        self, event: Event, subjects: Subjects, after: int = 0, truncate: bool = False, attempt: int = 1
    ) -> bytes:
        """The joined frames of the event's copies for outputs above number `after`; empty if there are none."""
        if self.outputs.plain and event.target is None:
            return b"" if after else self.itself(event, truncate, attempt)
        copies = self.outputs.of(event, subjects, after)
        if not copies:
            return b""
        name = self.inputs.get(event.input_id, "")
        return b"".join(map(websocket.text, frames.webhooks(event, self.bucket, name, copies, truncate, attempt)))


class FrameCache:
    """Caches complete WebSocket frames by bucket and seq, at most `budget` bytes, and evicts the oldest first.

    Every method raises BucketGone if the registry has no such bucket.
    """

    def __init__(self, registry: Registry, budget: int) -> None:
        self._registry = registry
        self._budget = budget
        self._buckets: dict[BucketId, _Kept] = {}
        self._turns: deque[tuple[dict[int, bytes], int]] = deque()
        self._stale = 0
        """How many of the turns belong to frames that were dropped."""
        self._subjects = Subjects()
        self.size = 0
        """Bytes in use."""

    def frame(self, bucket_id: BucketId, event: Event, *, keep: bool = True) -> bytes:
        """The joined frames of an event's copies; empty if it has none. Cached if `keep`: others may want them."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        frame = kept.frames.get(event.seq)
        if frame is None:
            frame = kept.copies(event, self._subjects)
            if keep:
                self._keep(kept.frames, event.seq, frame)
        return frame

    def event(self, bucket_id: BucketId, event: Event, *, keep: bool = True) -> bytes:
        """The frame of the event itself, whatever outputs, rules and `stream` are."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        if kept.outputs.plain and event.target is None:
            return self.frame(bucket_id, event, keep=keep)
        frame = kept.events.get(event.seq)
        if frame is None:
            frame = kept.itself(event)
            if keep:
                self._keep(kept.events, event.seq, frame)
        return frame

    def own(
        self,
        bucket_id: BucketId,
        event: Event,
        *,
        itself: bool = False,
        after: int = 0,
        truncate: bool = False,
        attempt: int = 1,
    ) -> bytes:
        """As `frame`, or as `event` with `itself`, but for one subscriber: only copies for outputs above number
        `after`, without the body if `truncate`, and with the `attempt` if that is the second or a later one."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        if itself:
            return kept.itself(event, truncate, attempt)
        return kept.copies(event, self._subjects, after, truncate, attempt)

    def numbers(self, bucket_id: BucketId, event: Event) -> Sequence[int]:
        """The numbers of the outputs that an event goes to through connected clients, in order; 0 is the event
        itself."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        if kept.outputs.plain and event.target is None:
            return (0,)
        return [copy.n for copy in kept.outputs.of(event, self._subjects)]

    def passes(self, event: Event, filter: Rules) -> bool:
        """Whether an event passes a subscriber's filter."""
        return filter.matches(self._subjects.of(event))

    def slow(self, bucket_id: BucketId) -> bool:
        """Whether making this bucket's frames may take long, since its rules look into the events."""
        kept = self._buckets.get(bucket_id) or self._enter(bucket_id)
        return kept.outputs.ruled

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket, an input or an output of it has changed, so its frames are no longer valid."""
        kept = self._buckets.pop(bucket_id, None)
        if kept is None:
            return
        for gone in (kept.frames, kept.events):
            self.size -= sum(len(frame) + _OVERHEAD for frame in gone.values())
            self._stale += len(gone)
            gone.clear()
        if self._stale > len(self._turns) // 2:
            # Not for each of thousands of buckets that change at the same time.
            self._turns = deque((those, seq) for those, seq in self._turns if seq in those)
            self._stale = 0

    def _enter(self, bucket_id: BucketId) -> _Kept:
        bucket = self._registry.get("bucket", bucket_id)
        if bucket is None:
            raise BucketGone(bucket_id)
        kept = self._buckets[bucket_id] = _Kept(bucket)
        return kept

    def _keep(self, those: dict[int, bytes], seq: int, frame: bytes) -> None:
        self.size += len(frame) + _OVERHEAD
        those[seq] = frame
        self._turns.append((those, seq))
        while self.size > self._budget:
            oldest, number = self._turns.popleft()
            gone = oldest.pop(number, None)
            if gone is None:
                self._stale -= 1
            else:
                self.size -= len(gone) + _OVERHEAD
