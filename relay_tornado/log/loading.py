"""Reads the state of all logs from the file, at the start and after an error: their bounds, sizes and epochs."""

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
    """The state of all logs in the file. `damaged` are the logs whose state can't be read."""

    live: list[Row]
    epochs: dict[int, list[Epoch]]
    dropped: list[int]
    damaged: list[int]


# Damage can turn a number into a text or NULL, and a time into infinity. A log without its `bytes` and `last_at` can
# still be read; at worst, it takes no events.
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
    """Reads the state. Raises sqlite3.Error."""
    rows = raw.execute(_LOGS).fetchall()
    epochs: dict[int, list[Epoch]] = {}
    for log, epoch, from_seq in raw.execute(_EPOCHS):
        epochs.setdefault(log, []).append(Epoch(epoch, from_seq))
    dropped = [log for (log,) in raw.execute("SELECT id FROM log WHERE dropped = 1")]
    live = [Row(*row) for *row, sound in rows if sound]
    return Loaded(live, epochs, dropped, [key for key, *_, sound in rows if not sound])


def renew(loaded: Loaded) -> list[Row]:
    """Gives each log that has no epoch, by damage that costs no event, a new one from its first event on. Returns these
    logs."""
    without = [row for row in loaded.live if row.key not in loaded.epochs]
    for row in without:
        loaded.epochs[row.key] = [Epoch(new_epoch(), 1)]
    return without
