"""series.db: named time series in two resolutions.

Every 10 seconds each series gets a point, which is kept for a day; each 5 minutes are summed up in one point, which is
kept for a month. Series of counts (`SPARSE`) have no point for 0: a missing point means 0 if `CLOCK` has a point at
that time, as the relay ran then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from relay_tornado.model import DAY
from relay_tornado.storage import sidecar

NAME: Final = "series.db"
VERSION: Final = 1

FINE: Final = 10
COARSE: Final = 300
"""Seconds between two points."""
KEPT: Final = {FINE: DAY, COARSE: 31 * DAY}
"""For how many seconds points are kept."""
MOST_POINTS: Final = 4_000_000
"""The most points of both resolutions together, about 20 bytes each. Beyond it the oldest are deleted earlier."""

CLOCK: Final = "events"
"""The series that always has a point."""

_SUMS: Final = ("errors:", "bucket:")
_GREATEST: Final = ("commit_p99", "lag", "lag:")
SPARSE: Final = ("errors:", "bucket:", "lag:")

_SCHEMA: Final = """
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE point (
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    series INTEGER NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (step, at, series)
) STRICT, WITHOUT ROWID;
"""


def prepare(raw: sqlite3.Connection) -> None:
    """Creates the tables if they are missing. Raises sqlite3.DatabaseError if the file is unusable."""
    sidecar.prepare(raw, NAME, VERSION, _SCHEMA)


def write(raw: sqlite3.Connection, at: int, values: Mapping[str, float]) -> None:
    """Writes the points of a time (a multiple of `FINE`), sums up the 5 minutes that are over, and deletes points that
    are too old. Counts, and events per second, are added to those of an earlier write for the same time."""
    sidecar.transact(raw, lambda raw: _write(raw, at, values))


def _write(raw: sqlite3.Connection, at: int, values: Mapping[str, float]) -> None:
    _insert(raw, FINE, at, values)
    for slot in _to_sum_up(raw, at):
        _insert(raw, COARSE, slot, _summed(raw, slot))
    if at % COARSE == 0:
        for step, kept in KEPT.items():
            raw.execute("DELETE FROM point WHERE step = ? AND at < ?", (step, at - kept))
        _bound(raw)
        raw.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM point)")


def _insert(raw: sqlite3.Connection, step: int, at: int, values: Mapping[str, float]) -> None:
    raw.executemany("INSERT OR IGNORE INTO series (name) VALUES (?)", [(name,) for name in values])
    raw.executemany(
        "INSERT INTO point SELECT ?, ?, id, ? FROM series WHERE name = ?"
        " ON CONFLICT DO UPDATE SET value = excluded.value + iif(?, value, 0)",
        [
            (step, at, value, name, name.startswith(_SUMS) or (name == "events" and step == FINE))
            for name, value in values.items()
        ],
    )


def _to_sum_up(raw: sqlite3.Connection, now: int) -> Sequence[int]:
    """The beginnings of the 5 minutes that are over and not summed up yet."""
    # A point in the future comes from a clock that was wrong.
    newest = raw.execute("SELECT max(at) FROM point WHERE step = ? AND at < ?", (COARSE, now)).fetchone()[0]
    oldest = raw.execute("SELECT min(at) FROM point WHERE step = ?", (FINE,)).fetchone()[0]
    first = (oldest if newest is None else newest + COARSE) // COARSE * COARSE
    rows = raw.execute(
        "SELECT DISTINCT at / ?1 * ?1 FROM point WHERE step = ?2 AND at >= ?3 AND at < ?4",
        (COARSE, FINE, first, now // COARSE * COARSE),
    )
    return [row[0] for row in rows]


def _summed(raw: sqlite3.Connection, slot: int) -> Mapping[str, float]:
    rows = raw.execute(
        "SELECT name, avg(value), max(value), sum(value) FROM point JOIN series ON series.id = point.series"
        " WHERE step = ? AND at >= ? AND at < ? GROUP BY name",
        (FINE, slot, slot + COARSE),
    )
    return {name: _chosen(name, mean, greatest, total) for name, mean, greatest, total in rows}


def _chosen(name: str, mean: float, greatest: float, total: float) -> float:
    """The value that represents several points of a series: their sum, the greatest, or the mean."""
    if name.startswith(_SUMS):
        return total
    return greatest if name.startswith(_GREATEST) else mean


def _bound(raw: sqlite3.Connection) -> None:
    surplus = raw.execute("SELECT count(*) FROM point").fetchone()[0] - MOST_POINTS
    if surplus > 0:
        for step in (FINE, COARSE):
            end = raw.execute(
                "SELECT at FROM point WHERE step = ? ORDER BY at LIMIT 1 OFFSET ?", (step, surplus // 2)
            ).fetchone()
            if end is not None:
                raw.execute("DELETE FROM point WHERE step = ? AND at <= ?", (step, end[0]))


def read(
    raw: sqlite3.Connection, first: int, last: int, step: int, names: Sequence[str], prefixes: Sequence[str]
) -> dict[str, list[float | None]]:
    """The points of the series with these names or prefixes, in slots of `step` seconds from `first` up to and without
    `last` (both multiples of `step`). None means that the relay did not measure."""
    source = COARSE if step >= COARSE else FINE
    wanted = [name for (name,) in raw.execute("SELECT name FROM series ORDER BY name")]
    wanted = [name for name in wanted if name in names or name.startswith(tuple(prefixes))]
    slots = (last - first) // step
    found: dict[str, list[float | None]] = {name: [None] * slots for name in (*names, *wanted)}
    seen: list[float | None] = [None] * slots
    marks = ", ".join("?" * (len(wanted) + 1))
    rows = raw.execute(
        f"SELECT name, (at - ?) / ?, avg(value), max(value), sum(value) FROM point"  # noqa: S608 - question marks only
        f" JOIN series ON series.id = point.series WHERE step = ? AND at >= ? AND at < ? AND name IN ({marks})"
        " GROUP BY name, 2",
        (first, step, source, first, last, CLOCK, *wanted),
    )
    for name, slot, mean, greatest, total in rows:
        if name == CLOCK:
            seen[slot] = 0.0
        if name in found:
            found[name][slot] = _chosen(name, mean, greatest, total)
    for name, values in found.items():
        if name.startswith(SPARSE):
            found[name] = [zero if value is None else value for value, zero in zip(values, seen, strict=True)]
    return found
