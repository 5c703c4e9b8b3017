"""The index of a WAL (relay.db-shm), read as SQLite does: what it says of the WAL."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from relay_tornado.storage.location_check import beside

HEAD = 32
"""Bytes of the WAL's header."""
FRAME_HEAD = 24
"""Bytes before each page of the WAL."""

# https://www.sqlite.org/walformat.html: the index begins with two copies of its header, in the machine's byte order.
_HEADER = struct.Struct("=12x B x H I 12x 8s 8x")
"""Whether the index is initialized, the page size, the number of frames in the WAL, and the WAL's salts."""
_COPIED = struct.Struct("=I")
"""What follows the two: the number of frames that are copied into the file."""


class Frames(NamedTuple):
    """The `number` of frames in the WAL, and its salts."""

    number: int
    salts: bytes


class WalIndex:
    """The open index. It may be closed only after SQLite has closed the database: closing any descriptor of a file
    releases all locks that the process has on it."""

    def __init__(self, path: Path, page: int) -> None:
        """Of the database at `path` with this page size, which has just been opened. Raises OSError."""
        self._path = beside(path, "-shm")
        self._page = page
        self._descriptor: int | None = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        # Mapped as SQLite does it: some network file systems read something else than what a mapping holds.
        length = 2 * _HEADER.size + _COPIED.size
        self._map = mmap.mmap(self._descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ)

    def is_there(self) -> bool:
        """Whether the path still names this file. If not, the file says nothing of the WAL. Raises OSError."""
        return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), self._path.stat())

    def read(self) -> Frames | None:
        """None if the WAL has no frames, or the index is being written."""
        head = self._map[: 2 * _HEADER.size]
        if head[: _HEADER.size] != head[_HEADER.size :]:
            return None
        made, page, frames, salts = _HEADER.unpack_from(head)
        return Frames(frames, salts) if made and frames and page == self._page & 0xFFFF | self._page >> 16 else None

    def uncopied(self) -> int | None:
        """Bytes of the WAL that a checkpoint has yet to copy into the file; None if that is unknown. Never raises."""
        try:
            frames = self.read()
            copied: int = _COPIED.unpack_from(self._map, 2 * _HEADER.size)[0]
            if frames is None or copied > frames.number or not self.is_there():
                return None
        except (OSError, ValueError):  # removed, or closed
            return None
        return (frames.number - copied) * (FRAME_HEAD + self._page)

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor is not None:
            self._map.close()
            os.close(self._descriptor)
            self._descriptor = None
