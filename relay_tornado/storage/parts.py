"""A file that a database is copied into: a new one, for its owner alone, and removed with what SQLite put beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ENDS: Final = ("", "-journal", "-wal", "-shm")
"""What SQLite puts behind a file's name; also beside one that is made, for a moment, where its source says WAL."""


def create(path: Path) -> int:
    """Opens a new file. One that is there may be another user's, who has it open, or lead to another file: that is no
    place for a copy. Raises OSError."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def remove(path: Path) -> None:
    """Removes it, where it is there, with what is beside it. Raises OSError."""
    for end in ENDS:
        path.with_name(path.name + end).unlink(missing_ok=True)
