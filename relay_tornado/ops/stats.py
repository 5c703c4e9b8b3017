"""Statistics of the space that a relay uses, and how long the disk lasts; read from the file, beside a relay or not."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relay_tornado.errors import StartupError
from relay_tornado.log import rows
from relay_tornado.log.loading import Row, load
from relay_tornado.log.reclaim import seek
from relay_tornado.model import DAY, Retention, from_document, to_document
from relay_tornado.ops.check_consumers import FIRST_VERSION
from relay_tornado.ops.opening import open_file
from relay_tornado.ranges import Ranges
from relay_tornado.storage import migrate
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.space import disk_of, free_pages

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class BucketStats:
    """One bucket: what it holds, and what came within the last day. Times are unix seconds, None if it is empty.

    `a_day` is the bytes that came in the last day; if the log is younger, the bytes per day at its rate. Those of an
    `ephemeral` bucket's events count in `bytes` and `a_day`, although they are not stored.
    """

    id: str
    name: str
    events: int
    bytes: int
    first: int
    head: int
    oldest_at: float | None
    newest_at: float | None
    retention: dict[str, Any]
    events_last_day: int
    a_day: int
    ephemeral: bool


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """How far a consumer is: it is not done with `behind` events, of which it tries `parked` again, and it gave `dead`
    up. `output_name` is that of the public output whose consumer it is, None for any other."""

    bucket: str
    kind: str
    name: str
    behind: int
    parked: int
    dead: int
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics of a data directory. All sizes are in bytes.

    `free_pages` are within `database`, and are used before it grows. `growth_a_day` is what all buckets would add in a
    day if retention removed nothing; `days_left` is until `reserve` is met at that rate, None if it never is.
    """

    path: Path
    buckets: tuple[BucketStats, ...]
    database: int
    wal: int
    free_pages: int
    disk_free: int
    reserve: int
    growth_a_day: int
    days_left: float | None
    consumers: tuple[ConsumerStats, ...]


def stats(path: Path, reserve: int, now: float | None = None) -> Stats:
    """The statistics of the relay's file `path`. Raises StartupError and sqlite3.Error."""
    now = time.time() if now is None else now
    with contextlib.closing(open_file(path)) as raw:
        free, size = free_pages(raw)
        records = raw.execute("SELECT id, name, document FROM bucket ORDER BY rowid").fetchall()
        logs = {row.bucket_id: row for row in load(raw).live}
        documents = {bucket_id: _document(bucket_id, name, document) for bucket_id, name, document in records}
        buckets = tuple(
            _bucket(raw, logs.get(bucket_id), bucket_id, name, documents[bucket_id], now)
            for bucket_id, name, _ in records
        )
        consumers = tuple(_consumers(raw, documents)) if migrate.version(raw) >= FIRST_VERSION else ()
    wal = wal_of(path)
    disk = disk_of(wal.parent)
    least = disk.least(reserve)
    held = sum(bucket.bytes for bucket in buckets)
    # Rows and indexes take additional space: per byte of an event as much as so far.
    growth = round(sum(bucket.a_day for bucket in buckets) * ((size - free) / held if held else 1.0))
    room = disk.free + free - least
    return Stats(
        path=path,
        buckets=buckets,
        database=size,
        wal=size_of(wal) or 0,
        free_pages=free,
        disk_free=disk.free,
        reserve=least,
        growth_a_day=growth,
        days_left=max(room, 0) / growth if growth else None,
        consumers=consumers,
    )


def _consumers(raw: sqlite3.Connection, documents: Mapping[str, dict[str, Any]]) -> Iterator[ConsumerStats]:
    # The position of polling (`GET /v1/events`) is left out: nobody waits for it, and nobody can move or delete it.
    sql = (
        "SELECT bucket.id, bucket.name, kind, consumer.name, log.head, log.first, floor, done,"
        " (SELECT count(*) FROM parked WHERE consumer = consumer.id AND seq >= log.first),"
        " (SELECT count(*) FROM dead_letter WHERE consumer = consumer.id)"
        " FROM consumer JOIN log ON log.id = consumer.log AND dropped = 0 JOIN bucket ON bucket.id = log.bucket"
        " WHERE kind != 'events' AND typeof(head) = 'integer' AND typeof(first) = 'integer'"
        " AND (typeof(floor), typeof(kind), typeof(consumer.name)) = ('integer', 'text', 'text')"
        " ORDER BY bucket.rowid, kind, consumer.name"
    )
    for bucket_id, bucket, kind, name, head, first, floor, done, parked, dead in raw.execute(sql).fetchall():
        try:
            above = Ranges((begin, end) for begin, end in json.loads(done))
        except (ValueError, TypeError):
            continue  # damaged, as `relay check` says
        settled = max(floor, first - 1)
        above.cut_below(settled + 1)
        behind = max(head - settled - len(above), 0) + parked
        outputs = _public_outputs(documents.get(bucket_id, {})) if kind == "output" else None
        if outputs is not None and name not in outputs:
            continue  # its output was deleted, or became internal: whoever opens the data next removes it
        yield ConsumerStats(bucket, kind, name, behind, parked, dead, None if outputs is None else outputs[name])


class _Output(msgspec.Struct):
    n: int
    name: str
    internal: bool = True


def _public_outputs(document: dict[str, Any]) -> Mapping[str, str] | None:
    """The names of a bucket's public outputs, by number; None if its record can't be understood, or was made
    meanwhile."""
    try:
        outputs = msgspec.convert(document.get("outputs"), list[_Output])
    except msgspec.ValidationError:
        return None
    return {str(each.n): each.name for each in outputs if not each.internal}


def _document(bucket_id: str, name: str, text: str) -> dict[str, Any]:
    try:
        msgspec.convert((bucket_id, name), tuple[str, str])
        document = msgspec.convert(json.loads(text), dict[str, Any])
        document["retention"] = to_document(from_document(Retention, document.get("retention") or {}))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise StartupError(f"the bucket {name!r} can't be understood ({error}): `relay check` says more") from error
    return document


def _bucket(
    raw: sqlite3.Connection, row: Row | None, bucket_id: str, name: str, document: dict[str, Any], now: float
) -> BucketStats:
    retention = document["retention"]
    ephemeral = bool(document.get("ephemeral"))
    if row is None or row.first > row.head:
        last = 0 if row is None else row.head
        return BucketStats(bucket_id, name, 0, 0, last + 1, last, None, None, retention, 0, 0, ephemeral)
    oldest = rows.received_at(raw, row.key, row.first)
    events = row.head - row.first + 1
    recent = row.head - max(seek(raw, row.key, row.first, row.head, now - DAY), row.first - 1)
    begun = row.last_at if oldest is None else oldest
    span = min(max(now - begun, HOUR), DAY)
    a_day = round(recent * row.bytes / events * DAY / span)
    return BucketStats(
        bucket_id, name, events, row.bytes, row.first, row.head, begun, row.last_at, retention, recent, a_day, ephemeral
    )
