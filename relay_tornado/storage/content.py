"""Notices that another program has written over the open file, as `cp` onto it does.

Invariants:
- With a WAL, only a checkpoint writes the file, and other programs make hardly any. So the file is looked at only
  before and after the relay's own checkpoints. If nothing changed since the last look, that is all.
- Changed times, changed rights or another program's checkpoint prove nothing. These do, read without the WAL: other
  first bytes, which never change in a file; another database id; or fewer commits than before. What can't be read
  proves nothing.
- Once proven, the verdict stays, whatever the file holds later.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from relay_tornado.storage.wal import in_file, stamp_in
from relay_tornado.storage.witness import Stamp

_FIRST = 20
"""Bytes that hold SQLite's name, the page size, and that there is a WAL (a backup has none)."""


class Content:
    """The content of a file without its WAL. Its descriptor may be closed only after SQLite has closed the file:
    closing any descriptor of a file releases all locks that the process has on it."""

    def __init__(self, path: Path, descriptor: int, raw: sqlite3.Connection, stamp: Stamp) -> None:
        """`descriptor` and `raw` have just opened the file; `raw` read `stamp`. Raises sqlite3.Error and OSError."""
        self.written_over = False
        self._path = path
        self._descriptor: int | None = descriptor
        self._page = raw.execute("PRAGMA page_size").fetchone()[0]
        self._root = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()[0]
        self._first = os.pread(descriptor, _FIRST, 0)
        self._known = Stamp(stamp.database, 0, 0)
        self._times: tuple[int, int, int] | None = None
        self.look()

    def look(self) -> bool:
        """Whether the file was written over. Blocks as long as the disk does. Raises no error of the disk."""
        self.written_over = self.written_over or self._is_another()
        return self.written_over

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_another(self) -> bool:
        if self._descriptor is None:
            return False
        try:
            found = os.fstat(self._descriptor)
            times = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if times == self._times:
                return False
            if os.pread(self._descriptor, _FIRST, 0) != self._first:
                return True
            said = stamp_in(os.pread(self._descriptor, self._page, (self._root - 1) * self._page))
            if self._contradicts(said):
                # The page may be half written by another program's checkpoint, or moved by a manual VACUUM.
                said, _ = in_file(self._path)
                if self._contradicts(said):
                    return True
        except Exception:  # also if this build of SQLite lacks what is used; the next look may succeed
            return False
        self._times, self._known = times, said
        return False

    def _contradicts(self, said: Stamp) -> bool:
        return said.database != self._known.database or said.commits < self._known.commits
