"""search.db: the postings of events' texts in segments, and which events of each bucket are indexed.

A segment is a contentless FTS5 table of what was indexed during some time, so that the oldest postings can be dropped
at once. A rowid is made of the bucket's key and the event's seq. `place` says which seqs of a bucket are indexed, in
the same transaction as their rows; `part` says which of them each segment has. Results are checked against the log
afterwards, so a surplus row does no harm.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from relay_tornado.storage import sidecar
from relay_tornado.storage.space import free_pages

NAME: Final = "search.db"
VERSION: Final = 1
"""A file of another version is made anew."""

_SHIFT: Final = 40
MOST_SEQ: Final = (1 << _SHIFT) - 1
_AT_ONCE: Final = 8
"""Rows per statement: some 2 ms of work."""
_VACUUM: Final = 4096
"""Pages that are given back to the disk in one step."""

# `trigram` finds text within words. Without positions (`detail`) the index takes a quarter of the space, and finds a
# little too much: the check against the event removes that. Python folds the case before.
_SEGMENT: Final = (
    "CREATE VIRTUAL TABLE s{} USING"
    " fts5(text, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')"
)
_SCHEMA: Final = """
CREATE TABLE place (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    low INTEGER NOT NULL,
    high INTEGER NOT NULL
) STRICT;
CREATE TABLE segment (id INTEGER PRIMARY KEY AUTOINCREMENT, bytes INTEGER NOT NULL, backwards INTEGER NOT NULL) STRICT;
CREATE TABLE part (
    segment INTEGER NOT NULL,
    key INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    newest REAL NOT NULL,
    PRIMARY KEY (segment, key)
) STRICT, WITHOUT ROWID;
"""


class Place(NamedTuple):
    """What is indexed of a bucket: the seqs `low` to `high`, none if high < low. `epoch` is that of `high`."""

    key: int
    epoch: str
    low: int
    high: int


class Part(NamedTuple):
    """What a segment has of a bucket; `newest` is the unix time at which its newest event was received."""

    segment: int
    first: int
    last: int
    newest: float


class Row(NamedTuple):
    """The text of one event to be indexed."""

    seq: int
    text: str


class Stretch(NamedTuple):
    """The rows of the events `first` to `last` (none if first > last). `newest` is when the newest of these events was
    received, whether it has a row or not."""

    first: int
    last: int
    rows: list[Row]
    newest: float

    @property
    def characters(self) -> int:
        return sum(len(row.text) for row in self.rows)


class State:
    """The file's content without the postings, in memory."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.parts: dict[int, list[Part]] = {}
        """By the bucket's key, oldest first."""
        self.segments: dict[int, tuple[int, bool]] = {}
        """Bytes of text, and whether it grows towards older events."""

    def add(self, key: int, segment: int, stretch: Stretch) -> None:
        """Records what `insert` did."""
        parts = self.parts.setdefault(key, [])
        for index, part in enumerate(parts):
            if part.segment == segment:
                first, last = min(part.first, stretch.first), max(part.last, stretch.last)
                parts[index] = Part(segment, first, last, max(part.newest, stretch.newest))
                return
        parts.append(Part(segment, stretch.first, stretch.last, stretch.newest))
        parts.sort(key=lambda part: part.first)


def prepare(raw: sqlite3.Connection, path: Path) -> State:
    """Creates the tables if they are missing, and loads the state. Raises sqlite3.DatabaseError if the file is
    unusable."""
    raw.execute("PRAGMA cache_size = -8192")
    sidecar.prepare(raw, path.name, VERSION, _SCHEMA)
    return load(raw)


def load(raw: sqlite3.Connection) -> State:
    """Reads the state from the file."""
    state = State()
    for bucket, *place in raw.execute("SELECT bucket, key, epoch, low, high FROM place").fetchall():
        state.places[bucket] = Place(*place)
    for key, *part in raw.execute("SELECT key, segment, first, last, newest FROM part ORDER BY first").fetchall():
        state.parts.setdefault(key, []).append(Part(*part))
    for segment, size, backwards in raw.execute("SELECT id, bytes, backwards FROM segment").fetchall():
        state.segments[segment] = (size, bool(backwards))
    return state


def begin_bucket(raw: sqlite3.Connection, bucket: str, epoch: str, low: int, high: int) -> int:
    """Begins a bucket of which nothing is indexed, and forgets what was indexed before. Returns its new key."""
    forget_bucket(raw, bucket)
    made = raw.execute("INSERT INTO place (bucket, epoch, low, high) VALUES (?, ?, ?, ?)", (bucket, epoch, low, high))
    return int(made.lastrowid or 0)


def move(raw: sqlite3.Connection, bucket: str, epoch: str, low: int, high: int) -> None:
    """Sets what is indexed of a bucket: the seqs `low` to `high`."""
    raw.execute("UPDATE place SET epoch = ?, low = ?, high = ? WHERE bucket = ?", (epoch, low, high, bucket))


def begin_segment(raw: sqlite3.Connection, backwards: bool) -> int:
    """Creates a segment. Returns its number."""
    segment = int(raw.execute("INSERT INTO segment (bytes, backwards) VALUES (0, ?)", (backwards,)).lastrowid or 0)
    raw.execute(_SEGMENT.format(segment))
    return segment


def insert(raw: sqlite3.Connection, segment: int, key: int, stretch: Stretch, rest: Callable[[], None]) -> None:
    """Adds a stretch of a bucket, whose rows ascend. Calls `rest` after each statement."""
    rows = stretch.rows
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        values = [value for row in some for value in (key << _SHIFT | row.seq, row.text)]
        places = ", ".join(["(?, ?)"] * len(some))
        raw.execute(f"INSERT INTO s{segment} (rowid, text) VALUES {places}", values)  # noqa: S608 - numbers only, as below
        rest()
    raw.execute(
        "INSERT INTO part VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET"
        " first = min(first, ?3), last = max(last, ?4), newest = max(newest, ?5)",
        (segment, key, stretch.first, stretch.last, stretch.newest),
    )
    raw.execute("UPDATE segment SET bytes = bytes + ? WHERE id = ?", (stretch.characters, segment))


def forget_bucket(raw: sqlite3.Connection, bucket: str) -> None:
    """Forgets a bucket that is gone."""
    raw.execute("DELETE FROM part WHERE key IN (SELECT key FROM place WHERE bucket = ?)", (bucket,))
    raw.execute("DELETE FROM place WHERE bucket = ?", (bucket,))


def cut(raw: sqlite3.Connection, key: int, first: int, last: int) -> None:
    """Limits what the segments have of a bucket to the events `first` to `last`."""
    raw.execute("DELETE FROM part WHERE key = ? AND (last < ? OR first > ?)", (key, first, last))
    raw.execute("UPDATE part SET first = max(first, ?), last = min(last, ?) WHERE key = ?", (first, last, key))


def empty_segments(raw: sqlite3.Connection) -> list[int]:
    """The segments that no bucket uses."""
    empty = raw.execute("SELECT id FROM segment WHERE id NOT IN (SELECT segment FROM part)").fetchall()
    return [row[0] for row in empty]


def oldest_segment(raw: sqlite3.Connection) -> int | None:
    """The segment whose newest event is the oldest; None if there is none."""
    row = raw.execute("SELECT segment FROM part GROUP BY segment ORDER BY max(newest) LIMIT 1").fetchone()
    return None if row is None else int(row[0])


def drop_segment(raw: sqlite3.Connection, segment: int) -> None:
    """Drops a segment. Its events, and older ones of the same buckets, no longer count as indexed."""
    for key, last in raw.execute("SELECT key, last FROM part WHERE segment = ?", (segment,)).fetchall():
        raw.execute("DELETE FROM part WHERE key = ? AND last <= ?", (key, last))
        raw.execute("UPDATE place SET low = max(low, ?) WHERE key = ?", (last + 1, key))
    raw.execute("DELETE FROM part WHERE segment = ?", (segment,))
    raw.execute("DELETE FROM segment WHERE id = ?", (segment,))
    raw.execute(f"DROP TABLE s{segment}")


def used(raw: sqlite3.Connection) -> int:
    """The bytes of the file that are in use."""
    free, size = free_pages(raw)
    return size - free


def give_back(raw: sqlite3.Connection, keep: int) -> None:
    """If more than `keep` bytes of the file are free, makes it smaller, by a bounded step."""
    if free_pages(raw)[0] > keep:
        raw.executescript(f"PRAGMA incremental_vacuum({_VACUUM})")


def find(
    raw: sqlite3.Connection, parts: Sequence[Part], key: int, match: str, first: int, last: int, limit: int
) -> list[int]:
    """The seqs from `first` to `last` whose text may match the expression: at most `limit`, newest first."""
    found: list[int] = []
    for part in reversed(parts):
        low, high = max(part.first, first), min(part.last, last)
        if low > high:
            continue
        rows = raw.execute(
            f"SELECT rowid FROM s{part.segment} WHERE s{part.segment} MATCH ? AND rowid BETWEEN ? AND ?"  # noqa: S608
            " ORDER BY rowid DESC LIMIT ?",
            (match, key << _SHIFT | low, key << _SHIFT | high, limit - len(found)),
        ).fetchall()
        found += [row[0] & MOST_SEQ for row in rows]
        if len(found) >= limit:
            break
    return found
