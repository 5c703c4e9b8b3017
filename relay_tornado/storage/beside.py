"""SQLite files beside relay.db that hold nothing of their own: whatever is wrong with one, it is made anew."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from relay_tornado.storage.connection import Connection
from relay_tornado.storage.start import secure

T = TypeVar("T")

_NICENESS: Final = 10
"""Of the threads that write such files. Not more: one may be kept waiting with the interpreter's lock in its hands."""


async def writer(path: Path) -> Connection:
    """A connection for writing, whose thread gives way to all others. Raises sqlite3.Error."""
    secure(path)
    connection = await Connection.writer(path)
    try:
        await connection.run(lambda raw: _give_way())
    except BaseException:
        await connection.close()
        raise
    return connection


def _give_way() -> None:
    thread = threading.get_native_id()
    # Elsewhere a thread has no niceness of its own.
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


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
    with raw:
        raw.execute("BEGIN IMMEDIATE")
        return job(raw)
