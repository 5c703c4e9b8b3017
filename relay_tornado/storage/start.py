"""Checks and preparations before a database is opened for writing.

The file is compared with the witness through a read-only connection, which changes neither it nor the WAL. On a loss,
the WAL is first copied aside for examination.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from relay_tornado import __version__
from relay_tornado.errors import NO_DESCRIPTOR, NotWritable, StartupError
from relay_tornado.model import MIB
from relay_tornado.steps import Steps
from relay_tornado.storage import database_files, migrate, partial_copy, permissions, wal_check, wal_index
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.connection import keep_statements_in_memory, opened
from relay_tornado.storage.damage import code_of, unquoted
from relay_tornado.storage.database_files import beside, size_of, wal_of
from relay_tornado.storage.halt import Halt
from relay_tornado.storage.witness import Loss, Stamp, Witness, read_stamp

_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_JOURNAL = struct.Struct(">16s I 4x I")
"""The magic and two numbers, the file's original size in pages, and the page size
(https://www.sqlite.org/fileformat2.html, 3)."""
_FIRST_PAGES = 2
"""Pages by which a file grows at most before it gets a WAL."""

CONDEMNED = "or its WAL was written over while a relay ran, and it may have pages of both files"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the witness may continue from its stamp, and the loss that it proves."""

    holds: bool
    loss: Loss | None = None


def check(path: Path) -> None:
    """Checks what lies there, and creates the file, or rolls it back, before any connection is made. Raises
    StartupError, sqlite3.Error or OSError."""
    check_condemned(path)  # first: what the others advise would go on with its pages
    wal_check.check(path)
    check_there(path)
    secure(path)
    roll_back(path)


def examine(path: Path, steps: Steps, halt: Halt | None = None) -> tuple[Witness, Verdict]:
    """Opens the witness beside `path` and compares it with the file, before anything is changed. Logs the outcome, and
    tells `steps` what it does.

    Raises NewerSchema, StartupError (also if the file is damaged by what is lost, or is lost itself), sqlite3.Error or
    OSError, and Halted.
    """
    found = look(path)
    place = path.with_name(witnesses.NAME)
    missing, noted = not place.exists(), witnesses.notes_copies(place)
    witness = Witness.open(place)
    try:
        stamp = witness.read()
        return witness, _judge(path, found, stamp, missing, noted, steps, halt or Halt())
    except BaseException:
        witness.close()
        raise


def _judge(
    path: Path, found: Stamp | None, stamp: Stamp | None, missing: bool, noted: bool, steps: Steps, halt: Halt
) -> Verdict:
    if found is None:
        if stamp is not None and stamp.appended:
            raise StartupError(
                f"{path} is missing or empty, and {witnesses.NAME} beside it counts {stamp.appended} events that were "
                f"stored there: put {path.name} back, or restore a backup into another directory. To begin with "
                f"nothing, move {witnesses.NAME} away."
            )
        return Verdict(holds=False)
    if stamp is None or stamp.database != found.database:
        event = "witness_missing" if missing else "witness_damaged" if stamp is None else "witness_of_another_database"
        _log.warning(event, path=str(path), consequence="a loss before this start can't be noticed; it is made anew")
        return Verdict(holds=False)
    loss = witnesses.loss(stamp, found)
    partial_copy.check(path, lost=loss is not None, noted=noted, steps=steps, halt=halt)
    if loss is None:
        return Verdict(holds=True)
    _log.error(
        "committed_work_lost",
        path=str(path),
        commits=loss.commits,
        events=loss.events,
        wal_copy=_keep_wal(path, steps, halt),
        cause="a damaged disk or file, or an older copy that was restored",
    )
    return Verdict(holds=False, loss=loss)


def look(path: Path) -> Stamp | None:
    """How much was committed to the file; None if it is empty. Does not change it.
    Raises NewerSchema, StartupError or sqlite3.Error.
    """
    wal_check.check_not_empty(path)
    with unquoted(), opened(path) as raw:
        if migrate.check(raw, path, migrate.latest()) == 0:
            return None
        return read_stamp(raw)


def _keep_wal(path: Path, steps: Steps, halt: Halt) -> str | None:
    """Copies the WAL aside, completely or not at all, unless an earlier start that failed has done it. Returns the
    copy's path; None if there is none. Raises Halted."""
    source = wal_of(path)
    if not size_of(source):
        return None
    steps.begin("copying the write-ahead log aside, as committed events are missing")
    try:
        for earlier in source.parent.glob(f"{glob.escape(source.name)}.lost-*"):
            with contextlib.suppress(OSError):  # one that can't be read is none
                if _same(source, earlier, halt):
                    database_files.sync(earlier)  # that start may have been killed before it did
                    return str(earlier)
        copy, descriptor = database_files.create_free(source, "lost")
        try:
            with os.fdopen(descriptor, "wb") as kept, source.open("rb") as wal:
                shutil.copyfileobj(_UntilHalted(wal, halt), kept)
            database_files.sync(copy)
            halt.check()  # this may have taken long, and the next start makes a copy, too
        except BaseException:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)  # a part of it is of no use, and takes the space that the relay needs
            raise
    except OSError as error:
        _log.error("wal_not_copied", error=str(error))
        return None
    return str(copy)


def _same(one: Path, other: Path, halt: Halt) -> bool:
    """Whether two files have the same content. Raises OSError and Halted."""
    if size_of(one) != size_of(other):
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while (part := _UntilHalted(first, halt).read(MIB)) == second.read(MIB):
            if not part:
                return True
    return False


class _UntilHalted:
    """A file whose `read` raises Halted once the start was stopped."""

    def __init__(self, file: BinaryIO, halt: Halt) -> None:
        self._file = file
        self._halt = halt

    def read(self, size: int = -1, /) -> bytes:
        self._halt.check()
        return self._file.read(size)


def prepare(raw: sqlite3.Connection, path: Path, halted: Callable[[], bool], steps: Steps) -> Stamp:
    """Creates the schema in a new file, or migrates an older one unless `halted`, and tells `steps` what it does. Runs
    on the writer's connection.

    Raises NewerSchema, StartupError or sqlite3.Error.
    """
    if migrate.check(raw, path, migrate.latest()) == 0:
        migrate.create(raw)
        # The file then holds its id and a count, so that a WAL that is lost before the next checkpoint is noticed.
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    else:
        migrate.migrate(raw, path, migrate.steps(), halted, steps)
        raw.execute("UPDATE meta SET version = ? WHERE version <> ?", (__version__, __version__))
    keep_statements_in_memory(raw)
    return read_stamp(raw)


def check_there(path: Path) -> None:
    """Raises StartupError if `path` is a symlink to a file that existed at an earlier start and is missing now: its
    disk is not mounted, and a new file would be created in the empty mount point. Raises NotWritable if the path is too
    long, and OSError."""
    if (long := permissions.too_long(path)) is not None:
        raise NotWritable(f"{path} can't be opened: {long}.")
    witness = path.with_name(witnesses.NAME)
    if path.is_symlink() and not path.exists() and witnesses.peek(witness) is not None:
        raise StartupError(
            f"{path} is a symlink to {path.readlink()}, which is not there: mount the disk that it is on; or, to begin "
            f"with an empty one, move {witness} away."
        )


def check_condemned(path: Path) -> None:
    """Raises StartupError if a relay found that the file was written over after it had copied its WAL into it, and
    OSError. A file that is missing or empty is none of that."""
    if condemned(path):
        raise StartupError(f"{path} {CONDEMNED}: {advice_if_condemned(path)}.")


def condemned(path: Path) -> bool:
    """Whether `check_condemned` refuses the file. Raises OSError."""
    return bool(size_of(path)) and witnesses.condemned(path.with_name(witnesses.NAME))


def advice_if_condemned(path: Path) -> str:
    """What to do about a file that is `condemned`."""
    return (
        "restore a backup, as in docs/operations.md; or, to go on with what relay check finds in it, move "
        f"{path.with_name(witnesses.NAME)} away"
    )


def roll_back(path: Path) -> None:
    """Rolls back what an interrupted start left unfinished before the file had a WAL: until then a read-only connection
    can't read it. Nothing is copied from a WAL. Raises sqlite3.Error and OSError, and StartupError if the rollback
    journal is another file's."""
    journal = beside(path, "-journal")
    try:
        with journal.open("rb") as file:
            head = file.read(_JOURNAL.size)
    except FileNotFoundError:
        return
    if head.startswith(_JOURNAL_MAGIC) and len(head) == _JOURNAL.size:
        pages, page = _JOURNAL.unpack(head)[1:]
        if abs(path.stat().st_size - pages * page) > _FIRST_PAGES * page:
            raise StartupError(
                f"{journal} does not belong to {path}, and would cut it to {pages} pages: move it away, and start again"
            )
    with unquoted(), opened(path) as last, opened(path, "rw") as raw:
        raw.execute("SELECT 1 FROM sqlite_schema").fetchone()
        # The last connection that is closed copies a WAL into the file, if it may write.
        last.execute("SELECT 1 FROM sqlite_schema").fetchone()


def secure(path: Path) -> None:
    """Creates the file if it is missing, and makes it readable by its owner alone; SQLite gives the files beside it the
    same rights. Creates the WAL's index, too, where `wal_index` has to: no connection of this process may be open.
    Raises OSError."""
    new = not path.exists()
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)
    if new:  # SQLite syncs the file's content; its directory entry is left to us
        folder = wal_of(path).parent
        database_files.sync(folder)
        database_files.sync(folder.absolute().parent)
    wal_index.create(path)


def refusal(path: Path, error: sqlite3.Error | OSError) -> StartupError:
    """The error to report if the database could not be opened."""
    code = code_of(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or permissions.descriptors_lack():
        return StartupError(f"{path} can't be opened: {NO_DESCRIPTOR}.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or number in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EISDIR,
    ):
        mend = permissions.READ_ONLY if number == errno.EROFS else permissions.advice(path.parent)
        if mend is not None:
            return NotWritable(f"{path} can't be opened for writing ({error}): {mend}")
        return NotWritable(
            f"{path} can't be opened for writing ({error}): the user that runs the relay needs the right to write to "
            "it and to its directory, or choose another directory with --data."
        )
    if isinstance(error, OSError) and number == errno.EAGAIN:
        return StartupError(f"{path} can't be opened: {error.strerror}.")
    # SQLite reports no other error if there is no room for the WAL's index.
    no_index = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE
    if code == sqlite3.SQLITE_FULL or number == errno.ENOSPC or no_index:
        return StartupError(f"there is no room for {path} ({error}): free some space and start again.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StartupError(
            f"{path} is damaged or no database ({error}): move it away together with {wal_check.companions(path)},"
            " which fit no other file; then restore a backup (relay restore), or start with an empty one."
        )
    return StartupError(
        f"{path} can't be opened ({error}). Check the disk and the space on it, or choose another "
        "directory with --data."
    )
