"""Checks whether the disk has room for more events, well before it is full: on a full disk not even deleting works."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from relay_tornado.storage.database_files import wal_of

_INTERVAL = 1.0
"""Seconds after which the file system is looked at again, unless events may have used up the room before."""

_COPIES = 2
"""Events are written twice: to the WAL, and by a checkpoint to the file."""

_TRIES = 10

_EXT4_OWN = 4096, 40
"""The most blocks that ext4 keeps free for itself, and of how many it is one at most (of 50 with those for its own
structures): nobody has them for content."""

_log = structlog.get_logger(__name__)


class Disk(NamedTuple):
    """A file system: its bytes, and those that are free for the relay's user."""

    size: int
    free: int

    def least(self, reserve: int) -> int:
        """Bytes that have to stay free: the reserve, but at most an eighth of the file system."""
        return min(reserve, self.size // 8)


def disk_of(path: Path) -> Disk:
    """The file system that holds the path. Raises OSError."""
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def writable(path: Path) -> int:
    """Bytes that this process can still write to the file system that holds the path: as root also those that ext4
    keeps for root, which are not `free`. Raises OSError."""
    found = os.statvfs(path)
    blocks = found.f_bavail
    # btrfs, which counts no inodes, keeps none for root: what is not available there is for its own structures.
    if os.geteuid() == 0 and found.f_files:
        most, share = _EXT4_OWN
        blocks = max(blocks, found.f_bfree - min(most, found.f_blocks // share))
    return blocks * found.f_frsize


def share_space(one: Path, other: Path) -> bool:
    """Whether two paths are on one file system. Subvolumes of a btrfs are different devices, but have the same free
    bytes. Raises OSError."""
    if one.stat().st_dev == other.stat().st_dev:
        return True
    for _ in range(_TRIES):
        before, free = disk_of(one).free, disk_of(other).free
        if before == disk_of(one).free:  # nothing was written meanwhile
            return free == before
    return False


def free_pages(raw: sqlite3.Connection) -> tuple[int, int]:
    """The bytes of the file's free pages, and the bytes of the file."""
    page = int(raw.execute("PRAGMA page_size").fetchone()[0])
    free = int(raw.execute("PRAGMA freelist_count").fetchone()[0])
    return free * page, int(raw.execute("PRAGMA page_count").fetchone()[0]) * page


class Space:
    """Free space beside a database. What a checkpoint has yet to copy from the WAL counts as taken: it needs the same
    space in the file."""

    def __init__(
        self,
        database: Path,
        reserve: int,
        clock: Callable[[], float] = time.monotonic,
        uncopied: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`uncopied` returns the bytes of the WAL that are not in the file yet; None, if they are unknown, is all of
        it."""
        self._wal = wal_of(database)
        self._directory = self._wal.parent
        self.reserve = reserve
        self._uncopied = uncopied
        self._clock = clock
        self._next_look = float("-inf")
        self._accepted = 0
        self._enough_for = 0
        """Bytes that may be accepted before the next look."""
        self._low = False
        self.free = 0
        """Bytes that were free for the relay's user at the last look."""
        self.wal = 0
        """Bytes of the WAL at the last look."""
        self.pending = 0
        """Those of them that a checkpoint had yet to copy."""
        self.least = 0
        """Space is low if the free bytes, less the pending ones, are not above this."""

    @property
    def room(self) -> int:
        """By how many bytes the disk was above the limit at the last look; negative if it was below."""
        return self.free - self.pending - self.least

    def low(self, coming: int = 0, waiting: int = 0) -> bool:
        """Whether less is free than the reserve (an eighth of a small file system).

        `coming` are the bytes to be accepted now, `waiting` those that were accepted and are not written yet. Quick:
        looks once a second, or earlier if the events since the last look may have used up the room.
        """
        self._accepted += coming
        now = self._clock()
        if now >= self._next_look or (self._accepted > self._enough_for and not self._low):
            self._next_look = now + _INTERVAL
            self._look(coming + waiting)
        return self._low

    def _look(self, waiting: int) -> None:
        try:
            disk = disk_of(self._directory)
            wal = self._wal.stat().st_size if self._wal.exists() else 0
        except OSError:
            return
        except TypeError as error:  # raised by Python if there is no memory to convert a path
            raise MemoryError from error
        self.free = disk.free
        self.least = least = disk.least(self.reserve)
        self.wal = wal
        uncopied = self._uncopied()
        self.pending = wal if uncopied is None else min(wal, uncopied)
        self._accepted = waiting
        self._enough_for = self.room // _COPIES
        # Once low, it stays low until there is clearly room again, so that it does not alternate with each event.
        low = self.room - _COPIES * waiting <= (least // 8 if self._low else 0)
        if low != self._low:
            self._low = low
            if low:
                _log.error("disk_space_low", free=self.free, wal=wal, reserve=least, directory=str(self._directory))
            else:
                _log.info("disk_space_back", free=self.free, wal=wal, reserve=least, directory=str(self._directory))
