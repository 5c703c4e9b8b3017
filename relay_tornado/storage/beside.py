"""SQLite files beside relay.db that hold nothing of their own: whatever is wrong with one, it is made anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def prepare(raw: sqlite3.Connection, name: str, version: int, schema: str) -> None:
    """Makes the tables where there are none. Raises sqlite3.DatabaseError where the file is of no use."""
    raw.execute("PRAGMA synchronous = NORMAL")
    raw.execute("PRAGMA wal_autocheckpoint = 1000")
    found = raw.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise sqlite3.DatabaseError(f"{name} is of version {found}")
    if not found:
        raw.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")


def transact(raw: sqlite3.Connection, job: Callable[[sqlite3.Connection], T]) -> T:
    """Runs the job in a transaction; what it raises undoes it, and comes out."""
    raw.execute("BEGIN IMMEDIATE")
    try:
        result = job(raw)
        raw.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise
    return result


def remove(path: Path) -> None:
    """Takes a file away, which is closed."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
