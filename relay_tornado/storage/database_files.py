"""The files of a database and of its copies: their names and sizes, and how they are created, synced and removed.

A copy's file is created for its owner alone. What is kept for examination gets a name that is free."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

ENDS: Final = ("", "-journal", "-wal", "-shm")
"""What SQLite appends to a file's name, briefly also for a new copy whose source has a WAL."""

_BLOCK: Final = 512
"""Bytes that `st_blocks` counts as one, on Linux."""


def beside(path: Path, end: str) -> Path:
    """The path of SQLite's file with this suffix (`-journal`, say): beside the database itself if `path` is a
    symlink."""
    real = path.resolve() if os.path.islink(path) else path  # noqa: PTH114  # Path.is_symlink raises for want of rights
    return real.with_name(real.name + end)


def wal_of(path: Path) -> Path:
    """The path of a database's WAL."""
    return beside(path, "-wal")


def size_of(path: Path) -> int | None:
    """A file's bytes; None if they can't be read, or if there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def has_places(descriptor: int, size: int) -> bool:
    """Whether an open file has so many bytes, and each a place on the disk in which it can be changed. To be asked
    before `posix_fallocate`, which on xfs needs free space even if it has nothing to do. Raises OSError."""
    found = os.fstat(descriptor)
    return found.st_size >= size and found.st_blocks * _BLOCK >= found.st_size


def create(path: Path) -> int:
    """Opens a new file. An existing one might be open in another user's process, or be a link to another file, so it is
    no place for a copy. Raises OSError."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def free_name(path: Path, why: str) -> Path:
    """A path beside this one that no file has: its name, `why` it is kept, and the time."""
    name = f"{path.name}.{why}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    kept, number = path.with_name(name), 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{name}-{number}")
    return kept


def create_free(path: Path, why: str) -> tuple[Path, int]:
    """Opens a new file with a `free_name`, and returns its path, too. A file that another program creates there at this
    moment stays. Raises OSError."""
    while True:
        with contextlib.suppress(FileExistsError):
            kept = free_name(path, why)
            return kept, create(kept)


def move_aside(path: Path, why: str) -> Path:
    """Renames a file to a `free_name`, and returns that. A file that another program creates there at this moment
    stays. Raises OSError."""
    kept, descriptor = create_free(path, why)
    os.close(descriptor)
    try:
        path.rename(kept)  # over the empty file just created, which holds the name
    except OSError:  # and nothing else: a Ctrl-C may come behind the renaming
        with contextlib.suppress(OSError):
            kept.unlink()
        raise
    return kept


def remove(path: Path) -> None:
    """Removes the file, if it exists, and the files beside it. Raises OSError."""
    for end in ENDS:
        path.with_name(path.name + end).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync of a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
