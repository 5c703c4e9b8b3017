"""Whether the disk has room for more events, known well before it is full: a full one can't even delete."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

_INTERVAL = 1.0
"""Seconds between two looks at the file system, at least."""

_log = structlog.get_logger(__name__)


class Space:
    """Free space beside a database. What lies in the WAL is counted as taken: a checkpoint will need it again."""

    def __init__(self, database: Path, reserve: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = database.parent
        self._wal = database.with_name(database.name + "-wal")
        self._reserve = reserve
        self._clock = clock
        self._looked = float("-inf")
        self._low = False

    def low(self) -> bool:
        """Whether less is free than the reserve (an eighth of a small file system). Quick: looks once a second."""
        now = self._clock()
        if now - self._looked >= _INTERVAL:
            self._looked = now
            self._look()
        return self._low

    def _look(self) -> None:
        try:
            disk = os.statvfs(self._directory)
            wal = self._wal.stat().st_size if self._wal.exists() else 0
        except OSError:
            return
        free = disk.f_bavail * disk.f_frsize
        least = min(self._reserve, disk.f_blocks * disk.f_frsize // 8)
        low = free - wal < least
        if low != self._low:
            self._low = low
            if low:
                _log.error("disk_space_low", free=free, wal=wal, reserve=least, directory=str(self._directory))
            else:
                _log.info("disk_space_back", free=free, wal=wal, reserve=least, directory=str(self._directory))
