"""Opens a relay's file read-only: one that a relay serves, one that none serves, or a backup.

No lock of the relay is needed: readers see a committed state, and disturb no writer. Read transactions should be short
all the same, as a long one prevents the WAL from being reused.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from relay_tornado.errors import NotFound, StartupError
from relay_tornado.storage import migrate, older_wal, permissions, wal_check
from relay_tornado.storage.connection import uri
from relay_tornado.storage.damage import decode, unquoted
from relay_tornado.storage.database import NAME
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.lock import read_owner, serves
from relay_tornado.storage.sqlite_compat import check_sqlite, guard_schema

_ELSEWHERE: Final = (
    "If a relay runs on it, read RelayNotReady in docs/operations.md before you stop it; else try another copy."
)
"""What to do if the relay.db of a data directory can't be read."""

_COPY: Final = "Try another copy."
"""What to do if another file, such as a backup, can't be read."""


def locate(place: Path) -> Path:
    """The relay's file at `place`, which is that file or its directory. Raises NotFound."""
    path = place / NAME if place.is_dir() else place
    if not path.is_file():
        raise NotFound(f"there is no {path}: name the relay's directory with --data or RELAY_DATA, or a backup's file")
    return path


def open_file(path: Path) -> sqlite3.Connection:
    """Returns a read-only connection to a relay's file of this or an older schema, in autocommit.

    Columns that an older file lacks read as their defaults. Raises StartupError (or its subclass NewerSchema) if the
    file can't be read.
    """
    check_sqlite()
    with contextlib.ExitStack() as opened:
        try:
            wal_check.check_not_empty(path)
            _check_wal(path)
            raw = opened.enter_context(contextlib.closing(_connect(path)))
            found = migrate.check(raw, path, migrate.latest())
            if found == 0:
                raise StartupError(f"{path} is empty: no relay has written to it (yet).")
            _check_tables(raw, path)
            if found < migrate.latest():
                _complete(raw)
        except sqlite3.Error as error:
            mend = permissions.too_long(path) or (permissions.advice(path.parent) if path.name == NAME else None)
            advice = _ELSEWHERE if path.name == NAME else _COPY
            why = mend or f"it is damaged, no relay's file, or another user's. {advice}"
            raise StartupError(f"{path} can't be read ({error}): {why}") from error
        opened.pop_all()
    return raw


def _check_wal(path: Path) -> None:
    """Raises StartupError if the WAL is another file's or ends before the file, and no relay has it open: what SQLite
    reads then is a mixture. A relay that is being started may still wait until the WAL can be put aside."""
    if path.name != NAME or serves(path.parent, unknown=True):
        return
    with contextlib.suppress(OSError):  # what can't be read, SQLite reports
        wal_check.check(path)
    if (older := older_wal.find(path)) is not None:
        raise StartupError(f"{older_wal.describe(path, older)}. relay serve puts it aside, or says what to do.")


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _prepared(uri(path, "ro"))
    except sqlite3.OperationalError:
        # In WAL mode SQLite creates files beside it. If it can't, and nobody writes to the file, it needs none.
        if read_owner(path.parent) is not None or size_of(wal_of(path)):
            raise
        return _prepared(uri(path, "ro&immutable=1"))


def _prepared(address: str) -> sqlite3.Connection:
    raw = sqlite3.connect(address, uri=True, isolation_level=None)
    raw.text_factory = decode
    try:
        guard_schema(raw)
        raw.execute("PRAGMA cell_size_check = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
        with unquoted():
            raw.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except BaseException:
        raw.close()
        raise
    return raw


def _check_tables(raw: sqlite3.Connection, path: Path) -> None:
    """Raises StartupError if a view has the name of a table: its rows may have no end."""
    views = {name.lower() for (name,) in raw.execute("SELECT name FROM main.sqlite_schema WHERE type = 'view'")}
    if not views:
        return
    with contextlib.closing(migrate.empty(migrate.latest())) as now:
        for (table,) in now.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"):
            if table in views:
                raise StartupError(
                    f"{path} has a view in the place of the table {table}: no relay made it so. Try another copy."
                )


def _complete(raw: sqlite3.Connection) -> None:
    """Hides the tables of an older schema behind temporary views that have the columns of later versions."""
    with contextlib.closing(migrate.empty(migrate.latest())) as now:
        for (table,) in now.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"):
            there = [row[1] for row in raw.execute(f"PRAGMA main.table_info({table})")]
            if not there:
                continue
            later = [row for row in now.execute(f"PRAGMA table_info({table})") if row[1] not in there]
            if later:
                # Events are read by rowid, which a view does not have.
                rowid = ["rowid"] if table == "event" else []
                columns = [*rowid, *there, *(f"{row[4] or 'NULL'} AS {row[1]}" for row in later)]
                raw.execute(f"CREATE TEMP VIEW {table} AS SELECT {', '.join(columns)} FROM main.{table}")  # noqa: S608
