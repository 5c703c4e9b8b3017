"""Copies a relay's database into another file, in two ways.

`in_steps` is for a file that is written to meanwhile. VACUUM INTO and SQLite's online backup read in one long
transaction, which prevents checkpoints: the WAL grows, and commits become slower. So the big tables, whose rows are
only added and deleted, are copied in steps, each in a short transaction, and what came meanwhile in further passes,
which pause less and less: a copy ends however fast rows come. A last transaction makes up for the rows that were added
and deleted since, and copies the small tables.

`by_pages` is for a file that nobody writes to: it copies the pages unchanged.

Both write to the disk in small portions, since one big sync at the end would delay every commit. If a relay runs on the
source directory, both pause after each step for several times as long as the step took, 10 s at most.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from relay_tornado.errors import NoSpace
from relay_tornado.model import MIB
from relay_tornado.storage import migrate
from relay_tornado.storage.connection import uri
from relay_tornado.storage.damage import code_of, sound
from relay_tornado.storage.lock import serves
from relay_tornado.storage.space import free_pages

Progress: TypeAlias = Callable[[str, int, int], None]
"""Takes the progress: what is being done, how much of it is done, and how much there is in all."""

PAGES = 64
"""Pages in one step: 256 KiB."""
STEP = 0.003
"""Seconds that one step of rows should take."""
SYNC = MIB // 8
"""Bytes after which the written data is synced to the disk."""
REST_FACTORS = (6.0, 3.0, 1.0, 0.0)
"""How long to pause after each step beside a relay, as a multiple of the time that the step took: in the first pass
over the rows, and in each of those that may follow."""
_LONGEST_REST = 10.0
"""In seconds. A step that waited for the disk for minutes, as while a file server restarts, burdened nobody."""

_BIG = ("event", "delivery")
_COPYING = "copying"
_STILL = (
    "EXISTS (SELECT 1 FROM main.delivery AS now WHERE now.id = delivery.id AND now.log = delivery.log"
    " AND now.seq = delivery.seq AND now.output = delivery.output AND now.at = delivery.at)"
)


def _find_sync_file_range() -> Callable[[int], None]:
    """Linux's sync_file_range, by ctypes, as Python does not have it. Unlike fdatasync it does not flush the disk's
    cache, which every commit would wait for."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return os.fdatasync
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def write(descriptor: int) -> None:
        if call(descriptor, 0, 0, _WAIT_WRITE_WAIT) != 0:
            os.fdatasync(descriptor)

    return write


_WAIT_WRITE_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER
write_out = _find_sync_file_range()


class Pace:
    """The work between two steps of copying from `directory`: syncs, reports progress, pauses."""

    def __init__(self, directory: Path, descriptor: int, total: int, progress: Progress) -> None:
        self._directory = directory
        self._descriptor = descriptor
        self._total = total
        self._progress = progress
        self.rest_factor = REST_FACTORS[0]
        self._synced = 0
        self._resumed = time.monotonic()

    def step(self) -> float:
        """Syncs, and pauses if a relay runs now. Returns how many seconds the step took."""
        took = time.monotonic() - self._resumed
        written = os.fstat(self._descriptor).st_size
        if written - self._synced >= SYNC:
            self._synced = written
            write_out(self._descriptor)
            self._progress(_COPYING, min(written, self._total), self._total)
        if serves(self._directory, unknown=True):
            time.sleep(min((time.monotonic() - self._resumed) * self.rest_factor, _LONGEST_REST))
        self._resumed = time.monotonic()
        return took


def in_steps(
    raw: sqlite3.Connection, directory: Path, part: Path, descriptor: int, progress: Progress, room: int
) -> None:
    """Copies the database behind `raw`, of `directory`, into the empty file `part`, open as `descriptor`, and syncs it.

    The copy is a state that the database was in, with everything that was committed before the call. Raises NoSpace if
    the copy needs more than `room` bytes, sqlite3.Error and OSError.
    """
    pace = _pace(raw, directory, part, descriptor, progress, room)
    with _attached(raw, part):
        columns = _make_tables(raw)
        ends = {table: [0] for table in _BIG if table in columns}
        for pace.rest_factor in REST_FACTORS:
            if sum(_rows(raw, table, columns[table], ends[table], pace) for table in ends) <= len(ends):
                break
        with raw:
            raw.execute("BEGIN")
            _make_up(raw, columns, ends)
        _make_rest(raw)
    os.fsync(descriptor)


@contextlib.contextmanager
def _attached(raw: sqlite3.Connection, part: Path) -> Iterator[None]:
    raw.execute("ATTACH ? AS copy", (uri(part, "rw"),))
    try:
        # Nobody else sees this file before it is complete, and `in_steps` syncs it.
        raw.execute("PRAGMA copy.synchronous = OFF")
        raw.execute("PRAGMA copy.journal_mode = OFF")
        yield
    finally:
        raw.execute("DETACH copy")


def _make_tables(raw: sqlite3.Connection) -> dict[str, str]:
    """Creates the source's tables in the copy. Returns the columns of each as SQL."""
    raw.execute(f"PRAGMA copy.page_size = {raw.execute('PRAGMA main.page_size').fetchone()[0]}")
    raw.execute(f"PRAGMA copy.auto_vacuum = {raw.execute('PRAGMA main.auto_vacuum').fetchone()[0]}")
    columns = {}
    for name, sql in _objects(raw, "table"):
        raw.execute(_in_copy(sql, "TABLE"))
        columns[name] = ", ".join(row[1] for row in raw.execute(f"PRAGMA main.table_info({name})"))
    return columns


def _make_rest(raw: sqlite3.Connection) -> None:
    for kind in ("index", "trigger"):
        for _, sql in _objects(raw, kind):
            raw.execute(_in_copy(sql, kind.upper()))
    raw.execute(f"PRAGMA copy.user_version = {raw.execute('PRAGMA main.user_version').fetchone()[0]}")


def _objects(raw: sqlite3.Connection, kind: str) -> Sequence[tuple[str, str]]:
    sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = ? AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    return [sound(row, tuple[str, str]) for row in raw.execute(sql, (kind,)).fetchall()]


def _in_copy(sql: str, kind: str) -> str:
    """Turns `CREATE TABLE x` into `CREATE TABLE copy.x`. SQLite stores these first words in one form."""
    for start in (f"CREATE {kind} ", f"CREATE UNIQUE {kind} "):
        if sql.startswith(start):
            return f"{start}copy.{sql.removeprefix(start)}"
    raise sqlite3.DatabaseError(f"the schema holds something unknown: {sql[:40]}")


def _rows(raw: sqlite3.Connection, table: str, columns: str, ends: list[int], pace: Pace) -> int:
    """Copies the rows that are there now, in the order of rowids from the last of `ends` on, in steps, and adds the
    last rowid of each step to `ends`. Returns how many steps there were."""
    insert = (
        f"INSERT INTO copy.{table} (rowid, {columns}) SELECT rowid, {columns} FROM main.{table}"  # noqa: S608
        " WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
    )
    (until,) = raw.execute(f"SELECT coalesce(max(rowid), 0) FROM main.{table}").fetchone()  # noqa: S608
    limit, steps = 64, 0
    while True:
        steps += 1
        copied = raw.execute(insert, (ends[-1], until, limit)).rowcount
        if copied > 0:
            ends.append(raw.execute(f"SELECT max(rowid) FROM copy.{table}").fetchone()[0])  # noqa: S608
        took = pace.step()
        if copied < limit:
            return steps
        limit = max(min(int(limit * STEP / max(took, 1e-6)), 2 * limit, 8192), 8)


def _make_up(raw: sqlite3.Connection, columns: Mapping[str, str], ends: Mapping[str, Sequence[int]]) -> None:
    """Copies the newest rows of the big tables and all small tables, and deletes the rows that left meanwhile."""
    for table, names in columns.items():
        condition = f" WHERE rowid > {ends[table][-1]}" if table in ends else ""
        rowid = "rowid, " if table in ends else ""
        raw.execute(
            f"INSERT INTO copy.{table} ({rowid}{names}) SELECT {rowid}{names} FROM main.{table}{condition}"  # noqa: S608
        )
    raw.execute("DELETE FROM copy.sqlite_sequence")
    raw.execute("INSERT INTO copy.sqlite_sequence SELECT * FROM main.sqlite_sequence")
    # Events leave oldest first.
    for (log,) in raw.execute("SELECT DISTINCT log FROM copy.event").fetchall():
        first = raw.execute("SELECT min(seq) FROM main.event WHERE log = ?", (log,)).fetchone()[0]
        raw.execute("DELETE FROM copy.event WHERE log = ? AND seq < coalesce(?, 9e18)", (log, first))
    if "delivery" in columns:
        _make_up_deliveries(raw, columns["delivery"], ends["delivery"])


def _make_up_deliveries(raw: sqlite3.Connection, columns: str, ends: Sequence[int]) -> None:
    """Corrects the copied deliveries. An id is reused only after it and all higher ids were deleted. So if the last row
    of a step is unchanged, none of its ids was reused; the rows of other steps are compared one by one."""
    raw.execute("DELETE FROM copy.delivery WHERE id NOT IN (SELECT id FROM main.delivery)")
    for step in pairwise(ends):
        if raw.execute(f"SELECT 1 FROM copy.delivery WHERE id = ? AND {_STILL}", step[1:]).fetchone():  # noqa: S608
            continue
        raw.execute(f"DELETE FROM copy.delivery WHERE id > ? AND id <= ? AND NOT {_STILL}", step)  # noqa: S608
        raw.execute(
            f"INSERT OR IGNORE INTO copy.delivery ({columns}) SELECT {columns} FROM main.delivery"  # noqa: S608
            " WHERE id > ? AND id <= ?",
            step,
        )


def by_pages(
    raw: sqlite3.Connection, directory: Path, part: Path, descriptor: int, progress: Progress, room: int
) -> None:
    """Like `in_steps`, but copies the pages unchanged, in one read transaction."""
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous = OFF")
        target.execute("PRAGMA journal_mode = OFF")
        raw.execute("BEGIN")
        try:
            raw.execute("SELECT 1 FROM main.meta").fetchone()  # from here on, others' commits are not seen
            pace = _pace(raw, directory, part, descriptor, progress, room)
            raw.backup(target, pages=PAGES, progress=lambda *_: pace.step() and None)
        finally:
            raw.execute("ROLLBACK")
        migrate.to_one_file(target)  # a file without a WAL can be read from read-only media
    os.fsync(descriptor)


def refusal(error: sqlite3.Error, descriptor: int, path: Path) -> OSError | None:
    """The OSError behind an I/O error of SQLite, named for `path`: a quota, or a limit on the file's size. None if the
    file can be written. Trying that makes the file larger."""
    if code_of(error) != sqlite3.SQLITE_IOERR:
        return None
    try:
        for _ in range(2):  # the first write may be cut short at the limit, without an error
            os.pwrite(descriptor, bytes(MIB), os.fstat(descriptor).st_size)
        os.fsync(descriptor)
    except OSError as found:
        found.filename = str(path)
        return found
    return None


def _pace(raw: sqlite3.Connection, directory: Path, part: Path, descriptor: int, progress: Progress, room: int) -> Pace:
    """The pace of a copy. Raises NoSpace if it needs more than `room` bytes."""
    _, needed = free_pages(raw)
    if needed > room:
        raise no_room(part, f": {needed} bytes are needed, {max(room, 0)} may be used")
    return Pace(directory, descriptor, needed, progress)


def no_room(part: Path, numbers: str = "") -> NoSpace:
    return NoSpace(f"there is no room for a copy in {part.parent}{numbers}. Free some space, or choose another disk")
