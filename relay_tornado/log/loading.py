"""What the file says of all logs, for the start and for after an error."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

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
    """What the file says of all logs."""

    live: list[Row]
    epochs: dict[int, list[Epoch]]
    dropped: list[int]


def load(raw: sqlite3.Connection) -> Loaded:
    """Reads it. Raises sqlite3.Error."""
    live = raw.execute("SELECT id, bucket, first, head, bytes, last_at FROM log WHERE dropped = 0").fetchall()
    epochs: dict[int, list[Epoch]] = {}
    for log, epoch, from_seq in raw.execute("SELECT log, epoch, from_seq FROM epoch ORDER BY log, from_seq, rowid"):
        epochs.setdefault(log, []).append(Epoch(epoch, from_seq))
    dropped = [log for (log,) in raw.execute("SELECT id FROM log WHERE dropped = 1")]
    return Loaded([Row(*row) for row in live], epochs, dropped)
