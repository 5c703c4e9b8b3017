"""What the file says of all logs, for the start and for after an error."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

import structlog

from relay_tornado.ids import new_epoch
from relay_tornado.model import BucketId, Epoch

_log = structlog.get_logger(__name__)


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


def renew(loaded: Loaded) -> list[str | int]:
    """Gives each log that has no epoch, which is damage, a new one from its first event on, and says so. Returns what
    is to be stored: epoch, log, from_seq for each."""
    made: list[str | int] = []
    for row in loaded.live:
        if row.key not in loaded.epochs:
            epoch = Epoch(new_epoch(), 1)
            _log.error(
                "log_without_epoch",
                bucket=row.bucket_id,
                consequence="its events have new ids, and positions from before are told a gap",
                hint="the file is damaged: run `relay check`",
            )
            loaded.epochs[row.key] = [epoch]
            made += (epoch.epoch, row.key, epoch.from_seq)
    return made
