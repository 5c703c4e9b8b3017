"""Whether the file that is open still lies where it was opened.

One that is deleted, moved or replaced takes writes as before, and nobody finds them after the next start.
"""

from __future__ import annotations

from pathlib import Path


def wal_of(path: Path) -> Path:
    """Where SQLite puts a database's WAL: beside the file itself, where `path` is a symlink to it."""
    real = path.resolve() if path.is_symlink() else path
    return real.with_name(f"{real.name}-wal")


class Whereabouts:
    """Of a database, and of the WAL beside it, which is there once something was committed."""

    def __init__(self, path: Path) -> None:
        """`path` was opened just now. Raises OSError where it is not there."""
        self._path = path
        self._wal = wal_of(path)
        found = path.stat()
        self._known = {path: (found.st_dev, found.st_ino)}

    def closed(self) -> None:
        """The database is being opened anew: who closes it last deletes the WAL, and who opens it makes another."""
        self._known.pop(self._wal, None)

    def missing(self, *, committed: bool = False) -> str:
        """The name of what is not where it was, "" where all is; `committed`: the WAL is there, for once. Quick, and
        from any thread."""
        known = self._known
        for path in (self._path, self._wal):
            if path is self._wal and not committed and path not in known:
                continue
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return path.name
            except OSError:
                continue  # it can't be told
            place = (found.st_dev, found.st_ino)
            if known.setdefault(path, place) != place:
                return path.name
        return ""
