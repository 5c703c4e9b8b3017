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
- F is read before L, so that a checkpoint of another program in between can't make F the larger one. While another
  program has the file open, the WAL's index that it shares is that of another WAL: then the start is refused, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay_tornado.errors import StartupError
from relay_tornado.storage import migrate
from relay_tornado.storage.connection import uri
from relay_tornado.storage.damage import unquoted
from relay_tornado.storage.location_check import beside, size_of, wal_of
from relay_tornado.storage.wal_check import in_file
from relay_tornado.storage.witness import NAME, Stamp, peek_copied, read_stamp

# https://www.sqlite.org/src/file/src/os.h: the bytes of the file that each connection of a WAL database holds a shared
# lock on.
_SHARED = 0x40000002
_SHARED_SIZE = 510

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OlderWal:
    """What the file says without its WAL and, less, with it."""

    without: Stamp
    found: Stamp


def find(path: Path) -> OlderWal | None:
    """The WAL beside `path` if it ends before the file; None if it does not, or if that can't be read. Changes
    nothing."""
    if not size_of(wal_of(path)):
        return None
    try:
        with unquoted():
            without = in_file(path)[0]
            found = _with_wal(path)
    except (sqlite3.Error, TypeError):
        return None
    if without.database != found.database or found.commits >= without.commits:
        return None
    return OlderWal(without, found)


def _with_wal(path: Path) -> Stamp:
    with contextlib.closing(sqlite3.connect(uri(path, "ro"), uri=True)) as raw:
        # Without this, SQLite refuses to read an older and smaller database whose first page is the newer file's.
        raw.execute("PRAGMA writable_schema = ON")
        return read_stamp(raw)


def put_aside(path: Path) -> None:
    """Renames a WAL that ends before the file and holds nothing that the file lacks, and logs it.

    No connection of this process may be open. Raises StartupError if the WAL ends before the file and might hold what
    the file lacks, or if another program has the file open, and OSError.
    """
    older = find(path)
    if older is None:
        return
    wal, shm = wal_of(path), beside(path, "-shm")
    if peek_copied(path.with_name(NAME)) != older.without:
        raise StartupError(
            f"{describe(path, older)}. Put the right one back; or, to go on without it, move it away together with "
            f"{shm.name}, start again, and let relay check say whether {path.name} is whole."
        )
    with _alone(path) as alone:
        if not alone:
            raise StartupError(
                f"{describe(path, older)}. The relay puts it aside, but another program has {path.name} open: end that "
                "program, and start again."
            )
        kept = _free_name(wal)
        wal.rename(kept)
        migrate.sync(wal.parent)
    _log.warning(
        "older_wal_put_aside",
        path=str(path),
        kept=str(kept),
        wal_ends_at_commit=older.found.commits,
        file_ends_at_commit=older.without.commits,
        cause="an older relay.db-wal was put beside relay.db, or the disk damaged it",
        consequence="none: relay.db has everything that is in it",
    )


def describe(path: Path, older: OlderWal) -> str:
    """What was found, without a full stop."""
    return (
        f"{wal_of(path)} ends at commit {older.found.commits}, and {path} at {older.without.commits}: an older "
        f"{wal_of(path).name} was put there, or it is damaged"
    )


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process has the file open; then none can open it until the end. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody holds it
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _free_name(wal: Path) -> Path:
    name = f"{wal.name}.older-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    kept, number = wal.with_name(name), 1
    while kept.exists():
        number += 1
        kept = wal.with_name(f"{name}-{number}")
    return kept
