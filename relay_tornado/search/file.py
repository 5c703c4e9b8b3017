"""search.db: the postings of events' texts in segments, and up to where each bucket is in them.

A segment is an FTS5 table of its own without content, of everything that was indexed for a while, so that the oldest
leave at once, as a whole. A row's number is its bucket's key and its seq. `place` tells which seqs of a bucket are
indexed, in the same transaction as their rows; `part` which of them each segment has. What is found is looked at in the
log afterwards, so a row too many does no harm.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from relay_tornado.storage import beside
from relay_tornado.storage.space import free_pages

NAME: Final = "search.db"
VERSION: Final = 1
"""Of another one the file is made anew."""

_SHIFT: Final = 40
MOST_SEQ: Final = (1 << _SHIFT) - 1
_AT_ONCE: Final = 8
"""Rows a statement: some 2 ms of work."""
_VACUUM: Final = 4096
"""Pages that are given back to the disk in one step."""

# `trigram` finds texts in the middle of words. Without positions (`detail`) it takes a quarter of the space, and finds
# a little too much, which the look at the event sorts out. Case is folded before, as Python does.
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
    """What of a bucket is indexed: the seqs `low` to `high`, none where high < low. `epoch` is that of `high`."""

    key: int
    epoch: str
    low: int
    high: int


class Part(NamedTuple):
    """What a segment has of a bucket; `newest` is when its last event was received."""

    segment: int
    first: int
    last: int
    newest: float


class Row(NamedTuple):
    """One event to be indexed."""

    seq: int
    text: str


class Stretch(NamedTuple):
    """The rows of the events `first` to `last` (none: first > last), and when the newest of these was received, whether
    it has a row or not."""

    first: int
    last: int
    rows: list[Row]
    newest: float

    @property
    def characters(self) -> int:
        return sum(len(row.text) for row in self.rows)


class State:
    """All that is known of the file's content but the postings."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.parts: dict[int, list[Part]] = {}
        """By a bucket's key, oldest first."""
        self.segments: dict[int, tuple[int, bool]] = {}
        """Bytes of text, and whether it grows towards older events."""

    def add(self, key: int, segment: int, stretch: Stretch) -> None:
        """What `insert` did."""
        parts = self.parts.setdefault(key, [])
        for index, part in enumerate(parts):
            if part.segment == segment:
                first, last = min(part.first, stretch.first), max(part.last, stretch.last)
                parts[index] = Part(segment, first, last, max(part.newest, stretch.newest))
                return
        parts.append(Part(segment, stretch.first, stretch.last, stretch.newest))
        parts.sort(key=lambda part: part.first)


def prepare(raw: sqlite3.Connection, path: Path) -> State:
    """Makes the tables where there are none. Raises sqlite3.DatabaseError where the file is of no use."""
    raw.execute("PRAGMA cache_size = -8192")
    beside.prepare(raw, path.name, VERSION, _SCHEMA)
    return load(raw)


def load(raw: sqlite3.Connection) -> State:
    """Reads it."""
    state = State()
    for bucket, *place in raw.execute("SELECT bucket, key, epoch, low, high FROM place").fetchall():
        state.places[bucket] = Place(*place)
    for key, *part in raw.execute("SELECT key, segment, first, last, newest FROM part ORDER BY first").fetchall():
        state.parts.setdefault(key, []).append(Part(*part))
    for segment, size, backwards in raw.execute("SELECT id, bytes, backwards FROM segment").fetchall():
        state.segments[segment] = (size, bool(backwards))
    return state


def begin_bucket(raw: sqlite3.Connection, bucket: str, epoch: str, low: int, high: int) -> int:
    """A bucket of which nothing is indexed; what there was of it is out of reach. Returns its key."""
    forget_bucket(raw, bucket)
    made = raw.execute("INSERT INTO place (bucket, epoch, low, high) VALUES (?, ?, ?, ?)", (bucket, epoch, low, high))
    return int(made.lastrowid or 0)


def move(raw: sqlite3.Connection, bucket: str, epoch: str, low: int, high: int) -> None:
    """What is indexed of a bucket is `low` to `high` now."""
    raw.execute("UPDATE place SET epoch = ?, low = ?, high = ? WHERE bucket = ?", (epoch, low, high, bucket))


def begin_segment(raw: sqlite3.Connection, backwards: bool) -> int:
    """Returns its number."""
    segment = int(raw.execute("INSERT INTO segment (bytes, backwards) VALUES (0, ?)", (backwards,)).lastrowid or 0)
    raw.execute(_SEGMENT.format(segment))
    return segment


def insert(raw: sqlite3.Connection, segment: int, key: int, stretch: Stretch, rest: Callable[[], None]) -> None:
    """Adds a stretch of a bucket, whose rows ascend; `rest` is called in between."""
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
    """A bucket is there no more."""
    raw.execute("DELETE FROM part WHERE key IN (SELECT key FROM place WHERE bucket = ?)", (bucket,))
    raw.execute("DELETE FROM place WHERE bucket = ?", (bucket,))


def cut(raw: sqlite3.Connection, key: int, first: int, last: int) -> None:
    """Of a bucket only the events `first` to `last` are there (any more)."""
    raw.execute("DELETE FROM part WHERE key = ? AND (last < ? OR first > ?)", (key, first, last))
    raw.execute("UPDATE part SET first = max(first, ?), last = min(last, ?) WHERE key = ?", (first, last, key))


def empty_segments(raw: sqlite3.Connection) -> list[int]:
    """Those that nobody can find anything in."""
    empty = raw.execute("SELECT id FROM segment WHERE id NOT IN (SELECT segment FROM part)").fetchall()
    return [row[0] for row in empty]


def oldest_segment(raw: sqlite3.Connection) -> int | None:
    """The one whose newest event is the oldest."""
    row = raw.execute("SELECT segment FROM part GROUP BY segment ORDER BY max(newest) LIMIT 1").fetchone()
    return None if row is None else int(row[0])


def drop_segment(raw: sqlite3.Connection, segment: int) -> None:
    """Takes a segment out, and what it had out of what is indexed: what is older than that is not looked for either."""
    for key, last in raw.execute("SELECT key, last FROM part WHERE segment = ?", (segment,)).fetchall():
        raw.execute("DELETE FROM part WHERE key = ? AND last <= ?", (key, last))
        raw.execute("UPDATE place SET low = max(low, ?) WHERE key = ?", (last + 1, key))
    raw.execute("DELETE FROM part WHERE segment = ?", (segment,))
    raw.execute("DELETE FROM segment WHERE id = ?", (segment,))
    raw.execute(f"DROP TABLE s{segment}")


def used(raw: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    free, size = free_pages(raw)
    return size - free


def give_back(raw: sqlite3.Connection, keep: int) -> None:
    """Makes the file smaller where more than `keep` bytes in it are free, by a bounded step."""
    if free_pages(raw)[0] > keep:
        raw.executescript(f"PRAGMA incremental_vacuum({_VACUUM})")


def find(
    raw: sqlite3.Connection, parts: Sequence[Part], key: int, match: str, first: int, last: int, limit: int
) -> list[int]:
    """The newest seqs from `first` to `last` whose text may fit the expression, newest first, `limit` at most."""
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
