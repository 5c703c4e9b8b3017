"""What a socket is told beside its events, before whatever is written to it next."""

from __future__ import annotations

from collections.abc import Sequence

from relay_tornado.model import BucketId, Gap
from relay_tornado.wire import frames, websocket


class Notices:
    """Frames of our own, for `wanted` only, whoever asked for such; and which gaps are among them, by bucket."""

    __slots__ = ("_frames", "_gaps", "wanted")

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._frames: list[bytes] = []
        # None is smaller than an empty dict, and there are thousands of these.
        self._gaps: dict[BucketId, list[Gap]] | None = None

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, payload: bytes) -> None:
        """This is to be told."""
        if self.wanted:
            self._frames.append(websocket.text(payload))

    def gap(self, bucket_id: BucketId, name: str, gap: Gap) -> None:
        """This gap of a bucket, of this name, is to be told."""
        self.add(frames.gap(name, gap))
        if self.wanted:
            self._gaps = {} if self._gaps is None else self._gaps
            self._gaps.setdefault(bucket_id, []).append(gap)

    def gaps(self, bucket_id: BucketId) -> Sequence[Gap]:
        """Those of a bucket that are still to be told."""
        return () if self._gaps is None else self._gaps.get(bucket_id, ())

    def take(self) -> list[bytes]:
        """All that is to be told, which is written now."""
        taken = self._frames
        if taken:
            self._frames, self._gaps = [], None
        return taken
