"""SQLite files beside relay.db that can be rebuilt (search.db, series.db): an unusable one is made anew."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from relay_tornado.model import MIB
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.space import disk_of
from relay_tornado.storage.start import secure

T = TypeVar("T")

_LEAST: Final = MIB
"""Bytes that have to be free to open such a file, and to write points. What is left of a full disk is for relay.db; and
without room for the index of a WAL, the kernel may end the process (`wal_index`)."""

_NICENESS: Final = 10
"""Niceness of the threads that write such files. Not more, since such a thread can be delayed while it holds the
GIL."""


def has_room(path: Path) -> bool:
    """Whether the disk has so much room that the file at `path` may take some of it. Raises OSError."""
    return disk_of(wal_of(path).parent).free >= _LEAST


async def writer(path: Path, begin: Callable[[sqlite3.Connection], T]) -> tuple[Connection, T]:
    """A connection for writing, whose thread runs at a low priority, and what `begin` returned on it. Raises
    sqlite3.Error, OSError, also if the disk is full, and what `begin` raises."""
    if not has_room(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    secure(path)
    connection = await Connection.writer(path)
    try:
        await connection.run(lambda raw: _give_way())
        return connection, await connection.run(begin)
    except BaseException:
        await connection.close()
        raise


def _give_way() -> None:
    thread = threading.get_native_id()
    # On other systems a thread has no niceness of its own.
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def prepare(raw: sqlite3.Connection, name: str, version: int, schema: str) -> None:
    """Creates missing tables. Raises sqlite3.DatabaseError if the file is unusable."""
    raw.execute("PRAGMA synchronous = NORMAL")
    raw.execute("PRAGMA wal_autocheckpoint = 1000")
    found = raw.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise sqlite3.DatabaseError(f"{name} is of version {found}")
    if not found:
        raw.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")


def transact(raw: sqlite3.Connection, job: Callable[[sqlite3.Connection], T]) -> T:
    """Runs the job in a transaction. An error of the job rolls it back, and is raised."""
    with raw:
        raw.execute("BEGIN IMMEDIATE")
        return job(raw)
