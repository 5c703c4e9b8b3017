"""Whether the file that is open still lies where it was opened.

One that is deleted, moved or replaced takes writes as before, and nobody finds them after the next start.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

_SETTLED = 0.1
_SETTLED_SECONDS = 3.0
"""Seconds after which another change of a directory has another time: file systems keep it to 10 ms or so, where it
is no whole second, and to 2 s at worst."""


def beside(path: Path, end: str) -> Path:
    """Where SQLite puts what has this end (`-journal`, say): beside the database itself, where `path` is a symlink."""
    real = path.resolve() if os.path.islink(path) else path  # noqa: PTH114  # Path.is_symlink raises for want of rights
    return real.with_name(real.name + end)


def wal_of(path: Path) -> Path:
    """Where SQLite puts a database's WAL."""
    return beside(path, "-wal")


def size_of(path: Path) -> int | None:
    """A file's bytes; None where that can't be known, as where it is not there (any more)."""
    try:
        return path.stat().st_size
    except OSError:
        return None


class _Folder(NamedTuple):
    device: int
    inode: int
    changed_at: int
    """When something in it was made, removed or renamed last, in nanoseconds."""

    def settled(self) -> bool:
        """Whether its next change will show."""
        age = time.time() - self.changed_at / 1e9
        return age > (_SETTLED if self.changed_at % 1_000_000_000 else _SETTLED_SECONDS)


class Whereabouts:
    """Of a database, and of the WAL beside it, which is there once something was committed.

    Where nothing changed in their directory, nothing was taken from it. So only that is looked at after a commit:
    Linux keeps the times of a file that somebody has looked at more exactly, and the next sync of the WAL would write
    them, too, which takes half as long again on an ext4 that has no journal.
    """

    def __init__(self, path: Path) -> None:
        """`path` was opened just now. Raises OSError where it is not there."""
        self._path = path
        self._wal = wal_of(path)
        found = path.stat()
        self._known = {path: (found.st_dev, found.st_ino)}
        # What a symlink leads to may be taken away in any directory on the way.
        self._folder = None if path.is_symlink() else path.parent
        self._settled: _Folder | None = None

    def closed(self) -> None:
        """The database is about to be closed and opened anew: who closes it last deletes the WAL, and who opens it
        makes another."""
        self._known.pop(self._wal, None)
        self._settled = None

    def missing(self, *, committed: bool = False) -> str:
        """The name of what is not where it was, "" where all is; `committed`: the WAL is there, for once. Quick, and
        from any thread."""
        folder = self._look_at_folder()
        if folder is not None and folder == self._settled:
            return ""
        self._settled = None
        found = 0
        for path in (self._path, self._wal):
            if path is self._wal and not committed and path not in self._known:
                continue
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return path.name
            except OSError:
                continue  # it can't be told
            place = (status.st_dev, status.st_ino)
            if self._known.setdefault(path, place) != place:
                return path.name
            found += 1
        if found == 2 and folder is not None and folder.settled():
            self._settled = folder
        return ""

    def _look_at_folder(self) -> _Folder | None:
        """None where it can't be told."""
        if self._folder is None:
            return None
        try:
            status = self._folder.stat()
        except OSError:
            return None
        return _Folder(status.st_dev, status.st_ino, status.st_mtime_ns)
