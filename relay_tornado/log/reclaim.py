"""The SQL that removes old events, in steps small enough to run between appends, and that finds a time in a log.

Each step is one transaction that raises `first` and deletes the events below it, so the file never claims events that
it does not hold, and an interrupted trim needs no repair.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from relay_tornado.log import consumer_rows, rows
from relay_tornado.log.state import excess_bytes, keep_from_count
from relay_tornado.model import MIB, Retention

STEP_EVENTS = 256
STEP_BYTES = 8 * MIB

_LOG = "SELECT first, head, bytes FROM log WHERE id = ? AND dropped = 0"
_FIRST_KEPT = """
WITH run AS (
    SELECT seq, size, sum(size) OVER (ORDER BY seq) AS total FROM event WHERE log = :log AND seq BETWEEN :first AND :end
)
SELECT min(seq) FROM run WHERE (seq >= :oldest AND total - size >= :excess) OR (total > :most AND total > size)
"""
_DROPPED_END = """
WITH run AS (
    SELECT seq, size, sum(size) OVER (ORDER BY seq) AS total
    FROM (SELECT seq, size FROM event WHERE log = :log ORDER BY seq LIMIT :events)
)
SELECT max(seq) FROM run WHERE total <= :most OR total = size
"""
_DROPPED_DIGESTS = """
DELETE FROM dedupe WHERE log = :log AND hash IN (SELECT hash FROM dedupe WHERE log = :log LIMIT :most)
"""
_OLD_DIGESTS = """
DELETE FROM dedupe
WHERE log = :log AND hash IN (SELECT hash FROM dedupe WHERE log = :log AND until < :now LIMIT :most)
"""
_OLD_DELIVERIES = """
DELETE FROM delivery WHERE id IN (
    WITH run AS (
        SELECT delivery.id, sum(length(body)) OVER (ORDER BY delivery.id) AS total, length(body) AS size
        FROM (
            SELECT id FROM delivery WHERE log = :log AND seq < (SELECT first FROM log WHERE id = :log)
            ORDER BY seq LIMIT 256
        ) JOIN delivery USING (id)
    )
    SELECT id FROM run WHERE total <= :most OR total = size
)
"""
_BYTES = "SELECT coalesce(sum(size), 0) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of a step: the log's new `first`, the events and bytes removed, and whether all is `done`."""

    first: int
    events: int
    bytes: int
    done: bool


def delete_oldest(raw: sqlite3.Connection, log: int, keep: Retention, oldest: int, floor: int | None) -> Step | None:
    """Removes up to 256 events or 8 MiB (at least one event) that `keep` does not keep, or that are below `oldest`.

    Events from `floor` on stay. Returns None if the log is gone.
    """
    row = raw.execute(_LOG, (log,)).fetchone()
    if row is None:
        return None
    first, head, held = row
    stop = head + 1 if floor is None else min(head + 1, floor)
    oldest = max(oldest, keep_from_count(head, keep))
    excess = excess_bytes(held, keep)
    end = min(first + STEP_EVENTS, stop) - 1
    if end < first or (first >= oldest and not excess):
        return Step(first, 0, 0, True)
    bounds = {"log": log, "first": first, "end": end, "oldest": oldest, "excess": excess, "most": STEP_BYTES}
    kept = raw.execute(_FIRST_KEPT, bounds).fetchone()[0]
    new = end + 1 if kept is None else kept
    left = held if new > head else min(raw.execute(_BYTES, (log, first, new - 1)).fetchone()[0], held)
    raw.execute("UPDATE log SET first = ?, bytes = bytes - ? WHERE id = ?", (new, left, log))
    # Events below a damaged `first` were not meant to be removed.
    raw.execute("DELETE FROM event WHERE log = ? AND seq BETWEEN ? AND ?", (log, first, new - 1))
    done = new >= stop or (new >= oldest and not excess_bytes(held - left, keep))
    return Step(new, new - first, left, done)


def drop(raw: sqlite3.Connection, log: int) -> None:
    """Marks a log as dropped: its rows may be removed, and its epochs are unknown at once."""
    raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0 WHERE id = ? AND dropped = 0", (log,))
    raw.execute("DELETE FROM epoch WHERE log = ?", (log,))


def delete_dropped(raw: sqlite3.Connection, log: int) -> bool:
    """Removes up to 256 rows or 8 MiB of a dropped log, and at the end the log itself. Returns whether that is done."""
    end = raw.execute(_DROPPED_END, {"log": log, "events": STEP_EVENTS, "most": STEP_BYTES}).fetchone()[0]
    if end is not None:
        raw.execute("DELETE FROM event WHERE log = ? AND seq <= ?", (log, end))
        return False
    if raw.execute(_DROPPED_DIGESTS, {"log": log, "most": STEP_EVENTS}).rowcount:
        return False
    if not forget_deliveries(raw, log) or not consumer_rows.forget_dropped(raw, log):
        return False
    raw.execute("DELETE FROM log WHERE id = ? AND dropped = 1", (log,))
    return True


def has_old_deliveries(raw: sqlite3.Connection, log: int) -> bool:
    """Whether there are results of removed events."""
    row = raw.execute(
        "SELECT 1 FROM delivery WHERE log = ? AND seq < (SELECT first FROM log WHERE id = ?) LIMIT 1", (log, log)
    ).fetchone()
    return row is not None


def forget_deliveries(raw: sqlite3.Connection, log: int) -> bool:
    """Removes up to 256 results or 8 MiB (at least one) of removed events. Returns whether that is done. Rows that
    exist only in a damaged index can't be removed, and stay."""
    gone = raw.execute(_OLD_DELIVERIES, {"log": log, "most": STEP_BYTES}).rowcount
    return not gone or not has_old_deliveries(raw, log)


def has_old_digests(raw: sqlite3.Connection, log: int, now: float) -> bool:
    """Whether there are digests whose window is over."""
    row = raw.execute("SELECT 1 FROM dedupe WHERE log = ? AND until < ? LIMIT 1", (log, now)).fetchone()
    return row is not None


def forget_digests(raw: sqlite3.Connection, log: int, now: float) -> bool:
    """Removes up to 256 digests whose window is over. Returns whether that is done."""
    return raw.execute(_OLD_DIGESTS, {"log": log, "now": now, "most": STEP_EVENTS}).rowcount < STEP_EVENTS


_TIMES = (
    "SELECT seq, CASE typeof(received_at) WHEN 'real' THEN received_at END FROM event"
    " WHERE log = ? AND seq BETWEEN ? AND ? ORDER BY seq"
)


def seek(raw: sqlite3.Connection, log: int, first: int, head: int, time: float) -> int:
    """The seq before the first event from `first` to `head` that was received at or after `time`, by bisection.

    Times never decrease, so an event counts as older only if two of three are: itself and its two neighbours. Otherwise
    one damaged time would make everything before it look old.
    """

    def look(start: int, end: int, order: str = "") -> tuple[int, bool]:
        """The seq of the first of some events (the last, by `order`), and whether it is older. An event or a time that
        can't be read is not older: damage must not cause a removal."""
        row = rows.one(raw, f"{_TIMES} {order} LIMIT 1", log, start, end)
        if row is None or row[0] not in range(start, end + 1):
            return end if order else start, False
        return row[0], row[1] is not None and row[1] < time

    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        seq, old = look(middle, head)
        before = seq == first or look(first, seq - 1, "DESC")[1]
        after = seq < head and look(seq + 1, head)[1]
        if old + before + after < 2:
            high = middle
        else:
            low = seq + 1
    while low > first:
        seq, old = look(first, low - 1, "DESC")
        if old:
            break
        low = seq
    return low - 1
