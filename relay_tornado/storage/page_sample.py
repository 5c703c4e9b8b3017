"""Some pages of the file, which show that it was written over right before a checkpoint.

Between the look at the file and its first write, SQLite sorts and syncs the WAL. A file that is written over then gets
the WAL's pages, among them those by which `overwrite_check` recognises another file.

Invariants:
- A checkpoint changes no page of the file that is not in the WAL. If one of these changes meanwhile, another program
  wrote it. (It may make the file longer by pages that are not in the WAL: those of no content.)
- If the WAL is not the same before and after, another program committed meanwhile, and may have made checkpoints: then
  the pages say nothing.
- The pages lie around one that an earlier checkpoint copied, as an older copy has others there.
"""

from __future__ import annotations

import os

from relay_tornado.storage.wal_index import Frames, WalIndex

_PAGES = 16


class PageSample:
    """`take` is called right before a checkpoint, `changed` right after it. Both raise OSError."""

    def __init__(self, descriptor: int, page: int, index: WalIndex) -> None:
        """Of the open file with this page size, and its WAL's index."""
        self._descriptor = descriptor
        self._page = page
        self._index = index
        self._first = 0
        """How many pages are before them."""
        self._wal: Frames | None = None
        self._content = b""

    def take(self) -> None:
        """Reads the pages."""
        self._wal = None  # if this fails, an earlier sample says nothing
        wal = self._index.read()
        self._content = self._read()
        self._wal = wal

    def changed(self) -> bool:
        """Whether one that is not in the WAL has changed. False if that is unknown, as where another program has
        committed meanwhile."""
        if self._wal is None:
            return False
        copied, content = self._index.pages(self._wal), self._read()
        # Last, so that both are those of this WAL: another program may commit and make a checkpoint at any moment.
        if not copied or self._index.read() != self._wal or not self._index.is_there():
            return False
        changed = content != self._content and any(
            self._first + place + 1 not in copied and self._at(content, place) != self._at(self._content, place)
            for place in range(min(len(content), len(self._content)) // self._page)
        )
        self._first = max(sorted(copied)[len(copied) // 2] - _PAGES // 2, 0)
        return changed

    def _read(self) -> bytes:
        return os.pread(self._descriptor, _PAGES * self._page, self._first * self._page)

    def _at(self, content: bytes, place: int) -> bytes:
        return content[place * self._page : (place + 1) * self._page]
