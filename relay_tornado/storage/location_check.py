"""Checks whether the open file is still where it was opened.

A file that is deleted, moved or replaced can still be written, but the next start does not find what was written.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from relay_tornado.storage.database_files import wal_of

_SETTLED = 0.1
_SETTLED_SECONDS = 3.0
"""Seconds after which a further change of a directory gives it another modification time: file systems store it to 10
ms or so if it has fractions, and to 2 s at worst."""


class _Folder(NamedTuple):
    device: int
    inode: int
    changed_at: int
    """When a file in it was last created, removed or renamed, in nanoseconds."""

    def settled(self) -> bool:
        """Whether its next change will give it another time."""
        age = time.time() - self.changed_at / 1e9
        return age > (_SETTLED if self.changed_at % 1_000_000_000 else _SETTLED_SECONDS)


class LocationCheck:
    """The places of a database and of its WAL, which exists once something was committed.

    If nothing changed in their directory, both are still there. So after a commit only the directory is looked at. A
    look at the WAL would cost more: Linux keeps more exact times for a file that was looked at, and the next sync of
    the WAL would write them, too, which takes half as long again on an ext4 without a journal.
    """

    def __init__(self, path: Path) -> None:
        """`path` was opened just now. Raises OSError if it is not there."""
        self._path = path
        self._wal = wal_of(path)
        found = path.stat()
        self._known = {path: (found.st_dev, found.st_ino)}
        # The target of a symlink may be moved away in any directory on its path.
        self._folder = None if path.is_symlink() else path.parent
        self._settled: _Folder | None = None

    def closed(self) -> None:
        """The database is about to be closed and reopened: the last connection that closes it deletes the WAL, and the
        next one creates another."""
        self._known.pop(self._wal, None)
        self._settled = None

    def missing(self, *, committed: bool = False) -> str:
        """The name of the file that is not where it was; "" if both are. `committed`: the WAL must exist now. Quick,
        and may be called on any thread."""
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
                continue  # unknown
            place = (status.st_dev, status.st_ino)
            if self._known.setdefault(path, place) != place:
                return path.name
            found += 1
        if found == 2 and folder is not None and folder.settled():
            self._settled = folder
        return ""

    def _look_at_folder(self) -> _Folder | None:
        """None if it is unknown."""
        if self._folder is None:
            return None
        try:
            status = self._folder.stat()
        except OSError:
            return None
        return _Folder(status.st_dev, status.st_ino, status.st_mtime_ns)
