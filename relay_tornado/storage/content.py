"""Notices that another program has written over the open file, as `cp` onto it does.

Invariants:
- With a WAL, only a checkpoint writes the file, and other programs make hardly any. So the file is looked at only
  before and after the relay's own checkpoints. If nothing changed since the last look, that is all.
- Changed times, changed rights or another program's checkpoint prove nothing. These do, read without the WAL: other
  first bytes, which never change in a file; another database id; or fewer commits than before. What can't be read
  proves nothing.
- A WAL is another one where it is shorter than its index has it, or begins with other salts: what is copied from it
  would spoil the file. What was written over behind its head, and is as long as it was, is not noticed.
- Once proven, the verdict stays, whatever the file holds later.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

from relay_tornado.storage.wal import in_file, stamp_in
from relay_tornado.storage.whereabouts import beside, wal_of
from relay_tornado.storage.witness import Stamp

_FIRST = 20
"""Bytes that hold SQLite's name, the page size, and that there is a WAL (a backup has none)."""

# https://www.sqlite.org/walformat.html: the index begins with its head, twice; the numbers are as the machine has them.
_INDEX = struct.Struct("=12x B x H I 12x 8s 8x")
"""Whether it is made, the size of a page, how many frames are in the WAL, file; that one's salts."""
_HEAD = struct.Struct("16x 8s 8x")
"""Of the WAL: its salts."""
_FRAME = 24
"""Bytes before each page in it."""


class Content:
    """What a file holds without its WAL. Its descriptor, and that of the WAL's index, may be closed only once SQLite
    has closed the file: closing any lets go of all locks that the process has on it. `written_over` is the name of
    what was, "" for nothing."""

    def __init__(self, path: Path, descriptor: int, raw: sqlite3.Connection, stamp: Stamp) -> None:
        """`descriptor` and `raw` have just opened it, and `raw` read `stamp`. Raises sqlite3.Error and OSError."""
        self.written_over = ""
        self._path = path
        self._descriptor: int | None = descriptor
        self._page = raw.execute("PRAGMA page_size").fetchone()[0]
        self._root = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()[0]
        self._first = os.pread(descriptor, _FIRST, 0)
        self._known = Stamp(stamp.database, 0, 0)
        self._times: tuple[int, int, int] | None = None
        self._index = os.open(beside(path, "-shm"), os.O_RDONLY | os.O_CLOEXEC)
        self.look()

    def look(self) -> str:
        """What was written over. Blocks as long as the disk does. Raises no error of the disk."""
        if not self.written_over and self._descriptor is not None:
            if self._is_another():
                self.written_over = self._path.name
            elif self._has_another_wal():
                self.written_over = wal_of(self._path).name
        return self.written_over

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            os.close(self._index)
            self._descriptor = None

    def _is_another(self) -> bool:
        assert self._descriptor is not None
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

    def _has_another_wal(self) -> bool:
        try:
            index = self._read_index()
            with wal_of(self._path).open("rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(_HEAD.size)
            if index is None or index != self._read_index():
                return False  # another program writes just now
            frames, salts = index
            return size < _HEAD.size + frames * (_FRAME + self._page) or _HEAD.unpack(head) != (salts,)
        except Exception:  # it is the whereabouts' matter where there is none
            return False

    def _read_index(self) -> tuple[int, bytes] | None:
        """How many frames there are, and their salts; None where there are none, or it is being written."""
        head = os.pread(self._index, 2 * _INDEX.size, 0)
        if head[: _INDEX.size] != head[_INDEX.size :]:
            return None
        made, page, frames, salts = _INDEX.unpack_from(head)
        return (frames, salts) if made and frames and page == self._page & 0xFFFF | self._page >> 16 else None

    def _contradicts(self, said: Stamp) -> bool:
        return said.database != self._known.database or said.commits < self._known.commits
