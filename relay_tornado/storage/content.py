"""Whether somebody else has written over the file that is open, as `cp` onto it does.

Invariants:
- With a WAL nothing but a checkpoint writes the file, and hardly any is made by others. So the file is looked at around
  the relay's own alone; where it is as the last look found it, that is all.
- Whatever else may have been done to it (its times, its rights, a checkpoint by another program) proves nothing. What
  does, with no WAL before it: its first bytes, which never change; the database's id; and a count of commits below one
  that it had before. What can't be read proves nothing, either.
- Once proven it stays so, whatever lies there later.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from relay_tornado.storage.wal import in_file, stamp_in
from relay_tornado.storage.witness import Stamp

_FIRST = 20
"""SQLite's name, the size of a page, and that there is a WAL, as there is none of a backup."""


class Content:
    """What a file holds without its WAL. Its descriptor may be closed only once SQLite has closed the file: closing any
    lets go of all locks that the process has on it."""

    def __init__(self, path: Path, descriptor: int, raw: sqlite3.Connection, stamp: Stamp) -> None:
        """`descriptor` and `raw` have just opened it, and `raw` read `stamp`. Raises sqlite3.Error and OSError."""
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
        """Whether it was written over. Blocks while the disk does, and raises nothing of it."""
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
                # A page that another program copies just now may be half of it, and a VACUUM by hand moves tables.
                said, _ = in_file(self._path)
                if self._contradicts(said):
                    return True
        except Exception:  # of a build of SQLite that lacks what is used for it, too; the next look may go well
            return False
        self._times, self._known = times, said
        return False

    def _contradicts(self, said: Stamp) -> bool:
        return said.database != self._known.database or said.commits < self._known.commits
