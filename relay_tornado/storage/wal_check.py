"""Checks whether the WAL beside a database is its own, from the bytes, before SQLite opens them.

SQLite takes any WAL beside a file for the file's own, and deletes it if the file is empty. A WAL begins when all
earlier commits are in the file, and each transaction increments `meta.commits`. So if the first transaction in the WAL
is neither the next one after the file's nor one of those in the file, the WAL is another file's. Paths and inodes are
not considered: a directory may be moved and copied as a whole.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

from relay_tornado.errors import StartupError
from relay_tornado.storage.connection import opened
from relay_tornado.storage.damage import unquoted
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.witness import NAME, Stamp, read_stamp

# https://www.sqlite.org/fileformat2.html
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_ORDERS = {0x377F0682: "<II", 0x377F0683: ">II"}
_MAGIC = b"SQLite format 3\0"
_VERSIONS = slice(18, 20)
_PAGE_SIZES = {1 << power for power in range(9, 17)}


def check(path: Path) -> None:
    """Raises StartupError if the WAL beside `path` is not its own, and OSError. Changes nothing."""
    check_not_empty(path)
    wal = wal_of(path)
    if not size_of(wal):
        return
    with path.open("rb") as file:
        header = file.read(100)
    if header.startswith(_MAGIC) and header[_VERSIONS] == b"\1\1":
        raise StartupError(
            f"{wal} does not belong to {path}, which is a backup or a copy that needs none: {_without(path)}"
        )
    # If something can't be read, SQLite reports that better; some builds lack what `stamp_in` uses.
    with contextlib.suppress(sqlite3.Error, AttributeError), unquoted():
        found, root = in_file(path)
        first = _first(wal, root)
        if first is not None and (first.database != found.database or first.commits > found.commits + 1):
            raise StartupError(
                f"{wal} does not belong to {path}: it begins at commit {first.commits}, but the file ends at "
                f"{found.commits}, so the file is an older copy, or another relay's. Put back the WAL's own file, or, "
                f"{_without(path)}"
            )


def check_not_empty(path: Path) -> None:
    """Raises StartupError if there is a WAL beside a file that is missing or empty: SQLite would delete it."""
    wal = wal_of(path)
    if size_of(wal) and not size_of(path):
        how = "is empty" if path.exists() else "is missing"
        raise StartupError(
            f"{path} {how}, and {wal} has what was committed to it last: put the file back, or, {_without(path)}"
        )


def companions(path: Path) -> str:
    """The names of the files that have to be moved with the file."""
    wal = wal_of(path).name
    return f"{wal}, {wal.removesuffix('-wal')}-shm and {NAME}"


def _without(path: Path) -> str:
    return f"to go on without what is only in the WAL, move {companions(path)} away together."


def in_file(path: Path) -> tuple[Stamp, int]:
    """The stamp in the file without its WAL, and the number of its page. Raises sqlite3.Error."""
    with opened(path, "ro&immutable=1") as raw:
        # Without this, SQLite refuses to read a file that an interrupted checkpoint has not made as long as it should.
        raw.execute("PRAGMA writable_schema = ON")
        row = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("no table meta")
        return read_stamp(raw), row[0]


def _first(wal: Path, root: int) -> Stamp | None:
    """The stamp on the page `root` after the first complete transaction in the WAL that wrote it; None if there is
    none."""
    with wal.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        magic, _, size, _, *salts, _, _ = _HEADER.unpack(head)
        order = _ORDERS.get(magic)
        if order is None or size not in _PAGE_SIZES:
            return None
        sums = _sum(order, head[:24], (0, 0))
        written = None
        while len(frame := file.read(_FRAME.size + size)) == _FRAME.size + size:
            number, committed, *rest = _FRAME.unpack_from(frame)
            sums = _sum(order, frame[_FRAME.size :], _sum(order, frame[:8], sums))
            if rest != [*salts, *sums]:
                break  # later frames are from an earlier use of the WAL file, or damaged
            if number == root:
                written = frame[_FRAME.size :]
            if committed and written is not None:
                return stamp_in(written)
    return None


def _sum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(order, data):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def stamp_in(page: bytes) -> Stamp:
    """The stamp in a page of the table `meta`, which is put into a database of its own. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.execute(f"PRAGMA page_size = {len(page)}")
        raw.execute("CREATE TABLE meta (one INTEGER PRIMARY KEY, id TEXT, commits INTEGER, appended INTEGER)")
        raw.deserialize(raw.serialize()[: len(page)] + page)
        return read_stamp(raw)
