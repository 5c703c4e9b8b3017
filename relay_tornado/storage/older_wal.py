"""Handles a WAL that ends before the file beside it: SQLite would copy its older pages over newer ones.

SQLite takes every WAL beside a file for the file's own. An older one comes there by a copy, a restore or a sync of
single files. Or it is the file's own, and a damaged frame ends it early.

Invariants:
- `meta.commits` grows with each transaction. Let F be its value in the file without the WAL, L its value with the WAL,
  and C its value when a checkpoint last had copied the whole WAL into the file and synced it. The witness holds C.
- The file's own, undamaged WAL has L >= F, wherever a checkpoint was interrupted: a checkpoint writes into the file
  only what the WAL holds, after a sync of the WAL. So such a WAL is used as ever, whatever C is.
- With L < F, the WAL is put aside if C = F: the file has every transaction up to C, and SQLite itself forgets a WAL
  that is copied and synced. So this WAL holds nothing that the file lacks.
- C is cleared before each checkpoint, so after a kill it is there only if none was interrupted. It is also cleared when
  the witness starts afresh, as after a loss. It is synced later, so a power loss may leave an earlier one. Other
  programs and older relays make checkpoints without it.
- With L < F and any other C, a checkpoint may have been interrupted, and the file may have some newer pages and need
  what the WAL has lost: the start is refused, and nothing is changed.
- F is read before L, so that a checkpoint of another program in between can't make F the larger one.
- A WAL that another program has open is not put aside: that program reads the older pages, and if it may write, it
  copies them into the file when it is the last one to close it. The start waits for it, and holds a shared lock
  meanwhile, so that it is not the last one. After that, F and L are read again. In the end the start is refused.
- Where F or L can't be read for a reason that may pass, such as a lock or a failing disk, the start fails: if it went
  on, SQLite might be able to read the older pages a moment later, and copy them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from relay_tornado.errors import StartupError
from relay_tornado.storage import database_files
from relay_tornado.storage.connection import opened
from relay_tornado.storage.damage import code_of, malformed, unquoted
from relay_tornado.storage.database_files import beside, size_of, wal_of
from relay_tornado.storage.halt import Halt
from relay_tornado.storage.wal_check import in_file
from relay_tornado.storage.witness import NAME, Stamp, peek_copied, read_stamp

# https://www.sqlite.org/src/file/src/os.h: the bytes of the file that each connection of a WAL database holds a shared
# lock on.
_SHARED = 0x40000002
_SHARED_SIZE = 510

_LOCK = struct.Struct("hhqqi4x")
"""Linux's `struct flock` on 64 bits: type, whence, start, length, process."""

_PATIENCE = 10.0
"""Seconds that a start waits for another program."""
_PAUSE = 0.05
"""Seconds between two looks whether it has ended."""

_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
)
"""SQLite's errors that do not come from the content and may have passed a moment later. If one has not, the start fails
anyway."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OlderWal:
    """What the file says without its WAL and, less, with it."""

    without: Stamp
    found: Stamp


def find(path: Path) -> OlderWal | None:
    """The WAL beside `path` if it ends before the file; None if it does not, or if that can't be read. Changes
    nothing."""
    with contextlib.suppress(sqlite3.Error):
        return _compare(path)
    return None


def _compare(path: Path) -> OlderWal | None:
    """Does what `find` does. Raises sqlite3.Error."""
    if not size_of(wal_of(path)):
        return None
    with unquoted():
        without = _without_wal(path)
        found = _with_wal(path)
    if without.database != found.database or found.commits >= without.commits:
        return None
    return OlderWal(without, found)


def _without_wal(path: Path) -> Stamp:
    try:
        return in_file(path)[0]
    except sqlite3.OperationalError as error:
        if code_of(error) == sqlite3.SQLITE_IOERR:  # the WAL may have the page that the disk can't read
            raise malformed(str(error)) from error
        raise


def _with_wal(path: Path) -> Stamp:
    with opened(path, timeout=_PATIENCE) as raw:
        # Without this, SQLite refuses to read an older and smaller database whose first page is the newer file's.
        raw.execute("PRAGMA writable_schema = ON")
        return read_stamp(raw)


def _find_surely(path: Path) -> OlderWal | None:
    """Does what `find` does, twice if need be: with a writable schema, SQLite reports a disk that can't read the schema
    for a moment as a missing table. Raises sqlite3.Error for a reason that may pass."""
    for _ in range(2):
        try:
            return _compare(path)
        except sqlite3.Error as error:
            if code_of(error) in _PASSING:
                raise
    return None


async def put_aside(path: Path, halt: Halt) -> None:
    """Renames a WAL that ends before the file and holds nothing that the file lacks, and logs it.

    No connection of this process may be open. Waits for other programs that have the file open, and may be cancelled
    meanwhile. Raises StartupError if the WAL ends before the file and might hold what the file lacks, or if another
    program keeps the file open; sqlite3.Error and OSError.
    """
    deadline = time.monotonic() + _PATIENCE
    while (older := await halt.run(partial(_find_surely, path))) is not None:
        wal, shm = wal_of(path), beside(path, "-shm")
        if peek_copied(path.with_name(NAME)) != older.without:
            raise StartupError(
                f"{describe(path, older)}. Put the right one back; or, to go on without it, move it away together with "
                f"{shm.name}, and run relay check before the next start: without it, {path.name} may be damaged."
            )
        with _alone(path) as descriptor:
            if descriptor is None:
                kept = database_files.move_aside(wal, "older")
                database_files.sync(wal.parent)
                _log.warning(
                    "older_wal_put_aside",
                    path=str(path),
                    kept=str(kept),
                    wal_ends_at_commit=older.found.commits,
                    file_ends_at_commit=older.without.commits,
                    cause="an older relay.db-wal was put beside relay.db, or the disk damaged it",
                    consequence="none: relay.db has everything that is in it",
                )
                return
            await _wait(descriptor, path, older, deadline)


def describe(path: Path, older: OlderWal) -> str:
    """What was found, without a full stop."""
    return (
        f"{wal_of(path)} ends at commit {older.found.commits}, and {path} at {older.without.commits}: an older "
        f"{wal_of(path).name} was put there, or it is damaged"
    )


@contextmanager
def _alone(path: Path) -> Iterator[int | None]:
    """None if no other process has the file open; then none can open it until the end. Else a descriptor of the file.
    Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield None if _lock(descriptor, fcntl.LOCK_EX) else descriptor
    finally:
        os.close(descriptor)


async def _wait(descriptor: int, path: Path, older: OlderWal, deadline: float) -> None:
    """Returns when no other process has the file open. Raises StartupError at the deadline, and OSError."""
    told = False
    while not _lock(descriptor, fcntl.LOCK_EX):
        _lock(descriptor, fcntl.LOCK_SH)
        pid, name = _holder(descriptor)
        if not told:
            told = True
            _log.warning(
                "start_waits",
                path=str(path),
                reason=f"{name} has it open beside an older {wal_of(path).name}",
                seconds=_PATIENCE,
            )
        if time.monotonic() > deadline:
            how = f"kill -9 {pid}" if pid else "SIGKILL"
            raise StartupError(
                f"{describe(path, older)}. The relay puts it aside, but {name} has {path.name} open. End that program "
                f"with {how}: when it closes {path.name}, it may copy the older pages into it. Then start again."
            )
        await asyncio.sleep(_PAUSE)


def _lock(descriptor: int, kind: int) -> bool:
    """Locks what each connection has locked; False if another process's lock prevents that. Raises OSError."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES
        return False
    return True


def _holder(descriptor: int) -> tuple[int, str]:
    """A process that has the file open, and what to call it; 0 if it is unknown, as one in another container."""
    pid = 0
    with contextlib.suppress(OSError, struct.error):
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _SHARED, _SHARED_SIZE, 0)
        pid = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[-1]
    if pid <= 0:
        return 0, "another program"
    try:
        return pid, f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()})"
    except OSError:  # as where /proc hides other users' processes
        return pid, f"process {pid}"
