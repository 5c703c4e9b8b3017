"""Loads what the file says of all logs, at the start and after an error: their bounds, sizes and epochs."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from relay_tornado.ids import new_epoch
from relay_tornado.model import BucketId, Epoch


class Row(NamedTuple):
    """A row of the table `log`."""

    key: int
    bucket_id: BucketId
    first: int
    head: int
    bytes: int
    last_at: float


class Loaded(NamedTuple):
    """What the file says of all logs. `damaged` are those of which it does not say what they hold."""

    live: list[Row]
    epochs: dict[int, list[Epoch]]
    dropped: list[int]
    damaged: list[int]


# Damage makes a number a text, or nothing, and a time infinite. Without the last two a log can be read, and at worst
# takes no events.
_LOGS = (
    "SELECT id, bucket, first, head, iif(typeof(bytes) = 'integer', bytes, 0),"
    " iif(typeof(last_at) = 'real' AND abs(last_at) < 9e999, last_at, 0.0),"
    " typeof(first) = 'integer' AND typeof(head) = 'integer'"
    " FROM log WHERE dropped = 0"
)
_EPOCHS = (
    "SELECT log, epoch, from_seq FROM epoch WHERE typeof(epoch) = 'text' AND typeof(from_seq) = 'integer'"
    " ORDER BY log, from_seq, rowid"
)


def load(raw: sqlite3.Connection) -> Loaded:
    """Reads it. Raises sqlite3.Error."""
    rows = raw.execute(_LOGS).fetchall()
    epochs: dict[int, list[Epoch]] = {}
    for log, epoch, from_seq in raw.execute(_EPOCHS):
        epochs.setdefault(log, []).append(Epoch(epoch, from_seq))
    dropped = [log for (log,) in raw.execute("SELECT id FROM log WHERE dropped = 1")]
    live = [Row(*row) for *row, sound in rows if sound]
    return Loaded(live, epochs, dropped, [key for key, *_, sound in rows if not sound])


def renew(loaded: Loaded) -> list[Row]:
    """Gives each log that has no epoch, which is damage and costs no event, a new one from its first event on. Returns
    those logs."""
    without = [row for row in loaded.live if row.key not in loaded.epochs]
    for row in without:
        loaded.epochs[row.key] = [Epoch(new_epoch(), 1)]
    return without
