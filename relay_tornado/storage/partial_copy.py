"""A file into which a part of its WAL was copied before that WAL lost its end, or all of it.

A checkpoint copies page by page. One that is interrupted leaves pages of different commits in the file, and so does one
that a reader holds back: it leaves out pages which were changed again since. With its own WAL the file is whole
all the same. Without it events can be missing in the middle of a log, and nothing else may show that.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from relay_tornado.errors import StartupError
from relay_tornado.steps import Steps
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.connection import opened
from relay_tornado.storage.damage import is_damage, unquoted
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.halt import Halt
from relay_tornado.storage.wal_check import in_file

DAMAGED = "is damaged, as its write-ahead log had more when a part of it was copied"


def check(path: Path, *, lost: bool, noted: bool, steps: Steps, halt: Halt) -> None:
    """Raises StartupError if the file is such a one. Reads all of it if it may be: if commits were `lost`, or there is
    no WAL, and the witness, if it `noted` what was copied, does not say that the file is whole. Changes nothing.
    If it is halted meanwhile, raises sqlite3.OperationalError or Halted."""
    wal = wal_of(path)
    if not lost and (size_of(wal) or not noted):
        return
    witness = path.with_name(witnesses.NAME)
    with contextlib.suppress(sqlite3.Error):
        if witnesses.peek_copied(witness) == in_file(path)[0]:
            return
    steps.begin("checking relay.db, as its write-ahead log has lost something")
    sound = _is_sound(path, halt)
    halt.check()  # some versions of SQLite that are interrupted report damage instead
    if not sound:
        raise StartupError(
            f"{path} {DAMAGED}: put the right {wal.name} back, if it is there; or restore a backup, as in "
            f"docs/operations.md; or, to go on with what relay check finds in it, move {witness} away."
        )


def _is_sound(path: Path, halt: Halt) -> bool:
    try:
        with unquoted(), opened(path) as raw, halt.interrupting(raw):
            return bool(raw.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise
