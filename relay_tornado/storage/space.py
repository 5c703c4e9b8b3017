"""Whether the disk has room for more events, known well before it is full: a full one can't even delete."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from relay_tornado.storage.whereabouts import wal_of

_INTERVAL = 1.0
"""Seconds between two looks at the file system, at most."""

_COPIES = 2
"""What is taken in is written twice: to the WAL, and by a checkpoint to the file."""

_log = structlog.get_logger(__name__)


class Disk(NamedTuple):
    """A file system: how many bytes it has, and how many are free for the relay's user."""

    size: int
    free: int

    def least(self, reserve: int) -> int:
        """Bytes that are to stay free: the reserve, but of a small one an eighth at most."""
        return min(reserve, self.size // 8)


def disk_of(path: Path) -> Disk:
    """The file system that holds the path. Raises OSError."""
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def free_pages(raw: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the file that hold nothing, and bytes of the file."""
    page = int(raw.execute("PRAGMA page_size").fetchone()[0])
    free = int(raw.execute("PRAGMA freelist_count").fetchone()[0])
    return free * page, int(raw.execute("PRAGMA page_count").fetchone()[0]) * page


class Space:
    """Free space beside a database. What lies in the WAL is counted as taken: a checkpoint will need it again."""

    def __init__(self, database: Path, reserve: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._wal = wal_of(database)
        self._directory = self._wal.parent
        self._reserve = reserve
        self._clock = clock
        self._next_look = float("-inf")
        self._accepted = 0
        self._enough_for = 0
        """How many bytes may be taken in before the next look."""
        self._low = False
        self.free = 0
        """Bytes that the file system had left for the relay's user at the last look."""
        self.wal = 0
        """Bytes of the WAL then."""
        self.least = 0
        """Bytes of free space, less the WAL, below which it is low."""

    @property
    def room(self) -> int:
        """How many bytes the disk could lose at the last look before it is low; below 0 where it was."""
        return self.free - self.wal - self.least

    def low(self, coming: int = 0, waiting: int = 0) -> bool:
        """Whether less is free than the reserve (an eighth of a small file system).

        `coming` are the bytes that are to be taken in now, `waiting` those that were taken in and are not written yet.
        Quick: looks once a second, and where what came since the last look may have used up the room.
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
        except TypeError as error:  # what Python says of a path where there is no memory to convert it
            raise MemoryError from error
        self.free = disk.free
        self.least = least = disk.least(self._reserve)
        self.wal = wal
        self._accepted = waiting
        self._enough_for = self.room // _COPIES
        # Once low it stays so until there is clearly room again, or it would go to and fro with each event.
        low = self.room - _COPIES * waiting < (least // 8 if self._low else 0)
        if low != self._low:
            self._low = low
            if low:
                _log.error("disk_space_low", free=self.free, wal=wal, reserve=least, directory=str(self._directory))
            else:
                _log.info("disk_space_back", free=self.free, wal=wal, reserve=least, directory=str(self._directory))
