"""The index of a WAL (relay.db-shm): what is read from it, and how it is created on btrfs.

SQLite maps the index into memory, and changes it also to read. If there is no space for a change, the kernel ends the
process that changes a mapped page (SIGBUS). So all of the index has its place on the disk before it is used; and where
the file system writes each change to a new place, the index is a file that is changed in place.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from relay_tornado.storage import database_files, no_cow
from relay_tornado.storage.database_files import beside

HEAD = 32
"""Bytes of the WAL's header."""
_WRITTEN = 4096
"""Of so many bytes of the index, SQLite writes one to give them a place."""
FRAME_HEAD = 24
"""Bytes before each page of the WAL."""

# https://www.sqlite.org/walformat.html: the index begins with two copies of its header, in the machine's byte order.
_HEADER = struct.Struct("=12x B x H I I 8x 8s 8x")
"""Whether the index is initialized, the page size, the number of frames in the WAL, the number of pages in the
database, and the WAL's salts."""
_COPIED = struct.Struct("=I")
"""What follows the two: the number of frames that are copied into the file."""
_PAGES = struct.Struct("=136x 4062I")
"""The first block of the index: before its hash table, the numbers of the pages in the first frames."""
_CONNECTED = 128
"""The byte of the index on which each process with a connection holds a shared lock: UNIX_SHM_DMS of
https://www.sqlite.org/src/file/src/os_unix.c."""


class Frames(NamedTuple):
    """The `number` of frames in the WAL, its salts, and how many pages the file has once they are copied into it."""

    number: int
    salts: bytes
    whole: int


class WalIndex:
    """The open index. It may be closed only after SQLite has closed the database: closing any descriptor of a file
    releases all locks that the process has on it."""

    def __init__(self, path: Path, page: int) -> None:
        """Of the database at `path` with this page size, which has just been opened. Raises OSError, also if the disk
        has no room for all of the index."""
        self._path = beside(path, "-shm")
        self._page = page
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        _give_places(self._descriptor)
        # Mapped as SQLite does it: some network file systems read something else than what a mapping holds.
        self._map = mmap.mmap(self._descriptor, _PAGES.size, mmap.MAP_SHARED, mmap.PROT_READ)

    def is_there(self) -> bool:
        """Whether the path still names this file. If not, the file says nothing of the WAL. Raises OSError."""
        return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), self._path.stat())

    def read(self) -> Frames | None:
        """None if the WAL has no frames, or the index is being written."""
        head = self._map[: 2 * _HEADER.size]
        if head[: _HEADER.size] != head[_HEADER.size :]:
            return None
        made, page, frames, whole, salts = _HEADER.unpack_from(head)
        return (
            Frames(frames, salts, whole) if made and frames and page == self._page & 0xFFFF | self._page >> 16 else None
        )

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

    def length(self) -> int:
        """Bytes that the database has with its WAL, and the file once that is copied into it; 0 if that is unknown."""
        frames = self.read()
        return 0 if frames is None else frames.whole * self._page

    def pages(self, frames: Frames) -> set[int]:
        """The numbers of the pages in these frames; empty if they are too many for the first block."""
        numbers: tuple[int, ...] = _PAGES.unpack_from(self._map)
        return set(numbers[: frames.number]) if frames.number <= len(numbers) else set()

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor is not None:
            self._map.close()
            os.close(self._descriptor)
            self._descriptor = None


def _give_places(descriptor: int) -> None:
    """Has each page of the index have a place on the disk in which it can be changed. SQLite writes one byte of each
    4 KiB, which is not enough for a file system with smaller blocks. Raises OSError if there is no room."""
    size = os.fstat(descriptor).st_size
    try:
        if no_cow.has_flag(descriptor):
            os.fsync(descriptor)
        elif os.fstatvfs(descriptor).f_bsize < _WRITTEN and not database_files.has_places(descriptor, size):
            os.posix_fallocate(descriptor, 0, size)  # where it is no call of the kernel, it would write zeros
    except AttributeError:  # on macOS
        pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise


def create(path: Path) -> None:
    """Has the index of the database at `path` changed in place, if the file system has a flag for that: creates it, or
    empties one that nobody uses. No connection of this process may be open. If it fails, SQLite uses the index as it
    is."""
    index = beside(path, "-shm")
    with suppress(OSError, AttributeError):  # O_TMPFILE is Linux's
        # Another program may open the index as soon as it has its name, so it gets the name last.
        descriptor = os.open(index.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if no_cow.set_flag(descriptor):
                # With src_dir_fd, the kernel follows the link to the open file.
                os.link(f"/proc/self/fd/{descriptor}", index, src_dir_fd=descriptor)
        except FileExistsError:
            _renew(index)
        finally:
            os.close(descriptor)


def _renew(index: Path) -> None:
    """Empties an index without the flag, as SQLite does when the first connection is made, and sets the flag. Raises
    OSError, also if another program has a connection."""
    descriptor = os.open(index, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not no_cow.has_flag(descriptor):
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CONNECTED)
            os.ftruncate(descriptor, 0)
            no_cow.set_flag(descriptor)
    finally:
        os.close(descriptor)
