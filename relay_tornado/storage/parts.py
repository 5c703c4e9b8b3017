"""The files that a database consists of: one that it is copied into is made for its owner alone, and whatever is
removed is so with what SQLite put beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ENDS: Final = ("", "-journal", "-wal", "-shm")
"""What SQLite puts behind a file's name; also beside a copy that is made, for a moment, where its source says WAL."""


def create(path: Path) -> int:
    """Opens a new file. One that is there may be another user's, who has it open, or lead to another file: that is no
    place for a copy. Raises OSError."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def remove(path: Path) -> None:
    """Removes it, where it is there, with what is beside it. Raises OSError."""
    for end in ENDS:
        path.with_name(path.name + end).unlink(missing_ok=True)
