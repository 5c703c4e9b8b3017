"""Notices that another program has written over the open file or its WAL, as `cp` onto it does.

Invariants:
- With a WAL, only a checkpoint writes the file, and other programs make hardly any. So the file is looked at only
  before and after the relay's own checkpoints. If nothing changed since the last look, that is all.
- Changed times, changed rights or another program's checkpoint prove nothing. These do, read without the WAL: other
  first bytes, which never change in a file; another database id; or fewer commits than before. What can't be read
  proves nothing.
- A WAL was written over if it is shorter than its index says, begins with other salts, or has a hole in which a frame
  should be: SQLite writes it without one, and one is left where it was cut and then continued at its old end. A
  checkpoint would copy its content into the file and damage it. If only frames behind its header were changed, that is
  not noticed.
- A file that is written over right before a checkpoint shows it right after that alone (`page_sample`). So does a WAL;
  if the checkpoint wrote into the file, it may have copied pages of the wrong one.
- Once proven, the verdict stays, whatever the file holds later.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import suppress
from pathlib import Path

from relay_tornado.storage import disk_check
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.page_sample import PageSample
from relay_tornado.storage.wal_check import in_file, stamp_in
from relay_tornado.storage.wal_index import FRAME_HEAD, HEAD, Frames, WalIndex
from relay_tornado.storage.witness import Stamp

_FIRST = 20
"""Bytes that hold SQLite's name, the page size, and that there is a WAL (a backup has none)."""

_WAL_HEADER = struct.Struct("16x 8s 8x")
"""The WAL's header (https://www.sqlite.org/walformat.html): its salts."""
_SALTS = slice(8, 16)
"""The WAL's salts in what is before each of its pages."""


class OverwriteCheck:
    """The content of a file without its WAL, and the WAL's header. `written_over` is the name of the file that was
    written over, "" if none was.

    The descriptors of the file and of the WAL's `index` may be closed only after SQLite has closed the file: closing
    any descriptor of a file releases all locks that the process has on it."""

    def __init__(self, path: Path, descriptor: int, raw: sqlite3.Connection, stamp: Stamp) -> None:
        """`descriptor` and `raw` have just opened it, and `raw` read `stamp`. Raises sqlite3.Error and OSError."""
        self.written_over = ""
        self._path = path
        self._descriptor: int | None = descriptor
        self._page: int = raw.execute("PRAGMA page_size").fetchone()[0]
        self._root = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()[0]
        self._first = os.pread(descriptor, _FIRST, 0)
        self._known = Stamp(stamp.database, 0, 0)
        self._times: tuple[int, int, int] | None = None
        self.index = WalIndex(path, self._page)
        self._sample = PageSample(descriptor, self._page, self.index)
        self.look()

    def look(self) -> None:
        """Looks again. Blocks as long as the disk does. Raises no error of the disk."""
        if not self.written_over and self._descriptor is not None:
            if self._is_another():
                self.written_over = self._path.name
            elif self._has_another_wal():
                self.written_over = wal_of(self._path).name

    def before_checkpoint(self) -> None:
        """Right before a checkpoint."""
        with suppress(Exception):
            self._sample.take()

    def after_checkpoint(self) -> bool:
        """Looks again, right after the checkpoint. Returns whether the file or its WAL was written over while that ran,
        or right before, and it wrote into the file: then the file may have pages of both."""
        if self.written_over:
            return False
        wrote = False
        with suppress(Exception):  # as of the disk
            if self._sample.changed():
                self.written_over = self._path.name
            wrote = bool(self.written_over) or self._times_now() != self._times
        self.look()  # records what the checkpoint has written
        return wrote and bool(self.written_over)

    def disk_fails(self) -> bool:
        """Whether the disk fails to read the file: see `disk_check`."""
        return self._descriptor is not None and disk_check.fails(self._descriptor)

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self.index.close()
            self._descriptor = None

    def _times_now(self) -> tuple[int, int, int]:
        assert self._descriptor is not None
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _is_another(self) -> bool:
        assert self._descriptor is not None
        try:
            times = self._times_now()
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
            if not self.index.is_there():
                return False
            index = self.index.read()
            with wal_of(self._path).open("rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(_WAL_HEADER.size)
                lacks = index is not None and self._lacks_a_frame(file.fileno(), index)
            if index is None or index != self.index.read():
                return False  # another program is writing
            return size < self._end(index.number) or _WAL_HEADER.unpack(head) != (index.salts,) or lacks
        except Exception:  # a missing WAL is noticed by `location_check`
            return False

    def _lacks_a_frame(self, descriptor: int, frames: Frames) -> bool:
        """Whether there is a hole in the WAL, and not the header of the frame that should begin or end in it. Some file
        systems store zeros within a page as a hole."""
        try:
            hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
        except OSError:
            return False  # the file system does not know
        within = max(hole - HEAD, 0) // (FRAME_HEAD + self._page)  # the hole may begin behind this frame's header
        heads = (
            os.pread(descriptor, FRAME_HEAD, self._end(frame))
            for frame in range(within, min(within + 2, frames.number))
        )
        return any(head[_SALTS] != frames.salts for head in heads)

    def _end(self, frames: int) -> int:
        """Where the WAL ends with so many frames, and the next one begins."""
        return HEAD + frames * (FRAME_HEAD + self._page)

    def _contradicts(self, said: Stamp) -> bool:
        return said.database != self._known.database or said.commits < self._known.commits
