"""Messages to a client besides its events, sent before the next write."""

from __future__ import annotations

from collections.abc import Sequence

from relay_tornado.model import BucketId, Gap
from relay_tornado.wire import frames, websocket


class Notices:
    """Messages of the relay's extensions, only if `wanted` (the client asked for them), and the gaps among them."""

    __slots__ = ("_frames", "_gaps", "wanted")

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._frames: list[bytes] = []
        # None takes less memory than an empty dict, and there are thousands of these.
        self._gaps: dict[BucketId, list[Gap]] | None = None

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, payload: bytes) -> None:
        """Adds a message."""
        if self.wanted:
            self._frames.append(websocket.text(payload))

    def gap(self, bucket_id: BucketId, name: str, gap: Gap) -> None:
        """Adds a gap of the bucket with this name."""
        self.add(frames.gap(name, gap))
        if self.wanted:
            self._gaps = {} if self._gaps is None else self._gaps
            self._gaps.setdefault(bucket_id, []).append(gap)

    def gaps(self, bucket_id: BucketId) -> Sequence[Gap]:
        """A bucket's gaps that are still to be told."""
        return () if self._gaps is None else self._gaps.get(bucket_id, ())

    def take(self) -> list[bytes]:
        """Removes and returns all messages, which are written now."""
        taken = self._frames
        if taken:
            self._frames, self._gaps = [], None
        return taken
