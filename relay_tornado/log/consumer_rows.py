"""The SQL of consumers: their rows, parked events and dead letters, and how these are removed after their events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from relay_tornado.consumer_changes import RETENTION, Changes, Parked
from relay_tornado.errors import BucketGone, Damaged
from relay_tornado.log import consumers
from relay_tornado.log.consumers import MOST_MISSED, DeadLetter, Gaps, Key, Stored, Terms, too_many, with_untold
from relay_tornado.model import BucketId, Gap, GapReason
from relay_tornado.ranges import Ranges
from relay_tornado.storage.damage import Finite, is_damage, malformed, sound

STEP = 256
"""Rows that are removed in one transaction."""
LETTERS = 1024
"""Dead letters of a consumer that is deleted which are removed in one transaction."""

_FIND = (
    "SELECT consumer.id, log.first, log.head FROM log JOIN consumer ON consumer.log = log.id"
    " WHERE log.bucket = ? AND log.dropped = 0 AND kind = ? AND name = ?"
)
# The index names even consumers whose rows can't be read. Texts are read as bytes, as one may be malformed.
_KEYS = (
    "SELECT log.bucket, CAST(coalesce(kind, '') AS BLOB), CAST(coalesce(name, '') AS BLOB), consumer.id"
    " FROM log JOIN consumer INDEXED BY sqlite_autoindex_consumer_1 ON consumer.log = log.id WHERE log.dropped = 0"
)
_CLIENTS = (
    "SELECT count(*) FROM log JOIN consumer ON consumer.log = log.id"
    " WHERE log.bucket = ? AND log.dropped = 0 AND kind = 'client'"
)
_STORED = (
    "SELECT ack_wait, max_deliver, receipt, floor, CAST(done AS BLOB), (SELECT count(*) FROM dead_letter"
    " WHERE consumer = consumer.id AND (seq >= log.first OR reason = 'retention')), created_at, updated_at, gaps,"
    " CAST(gap AS BLOB), CAST(tried AS BLOB), log.first, log.head"
    " FROM consumer, log WHERE consumer.id = ? AND log.bucket = ? AND log.dropped = 0"
)
_TRIED = "SELECT seq, attempts, due, since FROM parked WHERE consumer = ?"
_MAKE = (
    "INSERT INTO consumer (log, kind, name, floor, receipt, ack_wait, max_deliver, created_at, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (log, kind, name) DO UPDATE"
    " SET receipt = excluded.receipt, ack_wait = excluded.ack_wait, max_deliver = excluded.max_deliver"
)
_RENEW = """
UPDATE consumer SET floor = :floor, done = '[]', tried = '[]', gaps = 0, gap = NULL, updated_at = :at,
    receipt = (kind = 'token' OR receipt IS 1),
    ack_wait = iif(typeof(ack_wait) = 'real' AND abs(ack_wait) < 9e999, ack_wait, :wait),
    max_deliver = CASE typeof(max_deliver) WHEN 'integer' THEN max_deliver ELSE :most END,
    created_at = iif(typeof(created_at) = 'real' AND abs(created_at) < 9e999, created_at, :at)
WHERE id = :id
"""
_DEAD = (
    "SELECT log.bucket, kind, name, seq, attempts, since, at, reason FROM log JOIN consumer ON consumer.log = log.id"
    " JOIN dead_letter ON dead_letter.consumer = consumer.id WHERE log.bucket = ? AND log.dropped = 0 AND seq > ?"
    " AND (seq >= log.first OR reason = 'retention')"
    " AND (typeof(attempts), typeof(since), typeof(at), typeof(reason)) = ('integer', 'real', 'real', 'text')"
    " AND abs(since) < 9e999 AND abs(at) < 9e999"
)
_FLOOR = (
    "SELECT min(min(floor + 1, coalesce((SELECT min(seq) FROM parked WHERE consumer = consumer.id), floor + 1)))"
    " FROM log JOIN consumer ON consumer.log = log.id WHERE log.bucket = ? AND log.dropped = 0 AND kind <> 'events'"
    " AND NOT (kind = 'token' AND name IN (SELECT value FROM json_each(?)))"
)
_OLD = """
SELECT 1 FROM log JOIN consumer ON consumer.log = log.id
WHERE log.id = :log AND log.dropped = 0 AND (
    EXISTS (SELECT 1 FROM parked WHERE consumer = consumer.id AND seq < log.first)
    OR EXISTS (SELECT 1 FROM dead_letter WHERE consumer = consumer.id AND seq < log.first AND reason <> 'retention')
    OR (SELECT count(*) FROM dead_letter WHERE consumer = consumer.id AND seq < log.first) > :missed
) LIMIT 1
"""
_OLD_PARKED = """
SELECT consumer.id, seq, iif(typeof(attempts) = 'integer', attempts, 0), iif(typeof(since) = 'real', since, :now)
FROM consumer JOIN parked ON parked.consumer = consumer.id
WHERE consumer.log = :log AND seq < (SELECT first FROM log WHERE id = :log AND dropped = 0) LIMIT :step
"""
_OLD_DEAD = """
DELETE FROM dead_letter WHERE (consumer, seq) IN (
    SELECT consumer.id, seq FROM consumer JOIN dead_letter ON dead_letter.consumer = consumer.id
    WHERE consumer.log = :log AND seq < (SELECT first FROM log WHERE id = :log AND dropped = 0)
    AND reason <> 'retention' LIMIT :step
)
"""
_SURPLUS = """
DELETE FROM dead_letter WHERE (consumer, seq) IN (
    SELECT consumer.id, seq FROM consumer JOIN dead_letter ON dead_letter.consumer = consumer.id
    WHERE consumer.log = :log AND seq <= (
        SELECT seq FROM dead_letter WHERE consumer = consumer.id
            AND seq < (SELECT first FROM log WHERE id = :log AND dropped = 0)
        ORDER BY seq DESC LIMIT 1 OFFSET :missed
    ) LIMIT :step
)
"""
_LETTERS = """
DELETE FROM dead_letter WHERE (consumer, seq) IN (SELECT consumer, seq FROM dead_letter WHERE consumer = ? LIMIT ?)
"""


def make(raw: sqlite3.Connection, key: Key, floor: int, terms: Terms, at: float) -> Stored:
    """Inserts a consumer, or sets the terms of an existing one. Raises BucketGone, Conflict or Damaged."""
    log = raw.execute("SELECT id, head FROM log WHERE bucket = ? AND dropped = 0", (key.bucket_id,)).fetchone()
    if log is None:
        raise BucketGone(key.bucket_id)
    new = key.kind == "client" and not exists(raw, key)
    if new and clients(raw, key.bucket_id) >= consumers.MOST_CONSUMERS:
        raise too_many(key.bucket_id)
    values = (int(terms.receipt), float(terms.ack_wait), terms.max_deliver, at, at)
    raw.execute(_MAKE, (log[0], key.kind, key.name, min(floor, log[1]), *values))
    made = get(raw, key)
    assert made is not None
    return made


def get(raw: sqlite3.Connection, key: Key) -> Stored | None:
    """A consumer with its parked events. Raises Damaged."""
    found = raw.execute(_FIND, key).fetchone()
    return None if found is None else _one(raw, key, found[0], whole=True)


def exists(raw: sqlite3.Connection, key: Key) -> bool:
    return raw.execute(_FIND, key).fetchone() is not None


def clients(raw: sqlite3.Connection, bucket_id: BucketId) -> int:
    """How many consumers of kind `client` a bucket has."""
    found: int = raw.execute(_CLIENTS, (bucket_id,)).fetchone()[0]
    return found


def listed(raw: sqlite3.Connection, bucket_id: BucketId | None, *, whole: bool = False) -> list[Stored]:
    """All consumers of a bucket, or (None) of all buckets; if `whole`, with their parked events. A damaged consumer has
    only its key, and says why."""
    condition, values = ("", ()) if bucket_id is None else (" AND log.bucket = ?", (bucket_id,))
    found = []
    for *named, consumer in raw.execute(f"{_KEYS}{condition} ORDER BY 1, 2, 3", values).fetchall():
        key = _key(named)
        try:
            stored = _one(raw, key, consumer, whole=whole)
        except Damaged as error:
            stored = Stored(key, Terms(), 0, (), {}, 0, 0.0, 0.0, damaged=str(error))
        if stored is not None:
            found.append(stored)
    return found


def _one(raw: sqlite3.Connection, key: Key, consumer: int, *, whole: bool) -> Stored | None:
    """The consumer with this key and id; if `whole`, with its parked events. Raises Damaged."""
    try:
        row = raw.execute(_STORED, (consumer, key.bucket_id)).fetchone()
        if row is None:
            return None  # deleted a moment ago
        stored = _stored(key, sound(row, _Row))
        again = read_parked(raw.execute(_TRIED, (consumer,)).fetchall() if whole else [])
    except (msgspec.MsgspecError, ValueError, sqlite3.DatabaseError) as error:
        if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):
            raise
        raise consumers.damaged(key, str(error)) from error
    return stored._replace(parked={seq: Parked(tries, due, since) for seq, tries, due, since in again})


def renew(raw: sqlite3.Connection, key: Key, floor: int, at: float) -> None:
    """Lets a consumer start again after `floor`. It keeps its dead letters, and its terms as far as they can be
    read."""
    row, usual = raw.execute(_FIND, key).fetchone(), Terms()
    if row is not None:
        raw.execute("DELETE FROM parked WHERE consumer = ?", (row[0],))
        raw.execute(
            _RENEW,
            {"id": row[0], "floor": min(floor, row[2]), "at": at, "wait": usual.ack_wait, "most": usual.max_deliver},
        )


def write(
    raw: sqlite3.Connection, key: Key, changes: Changes | None, gaps: Sequence[tuple[Gap, float | None]], at: float
) -> None:
    """Stores the changes, if the consumer still exists, for events that the log still holds. Each gap comes with the
    time at which the consumer met it, or with None if a client was told of it."""
    row = raw.execute(_FIND, key).fetchone()
    if row is None:
        return
    consumer, first, head = row
    if changes is not None:
        _change(raw, consumer, first, head, changes, at)
    if gaps:
        _note(raw, consumer, key, gaps)


def _note(raw: sqlite3.Connection, consumer: int, key: Key, gaps: Sequence[tuple[Gap, float | None]]) -> None:
    (stored,) = raw.execute("SELECT gap FROM consumer WHERE id = ?", (consumer,)).fetchone()
    try:
        last = None if stored is None else read_gap(stored)
    except msgspec.MsgspecError as error:
        raise malformed(str(error)) from None
    untold = _untold(last)
    for gap, at in gaps:
        if at is not None:
            last = _Met(gap.reason, gap.from_seq, gap.to_seq, at)
            untold = with_untold(key, untold, gap)
        else:
            untold = tuple(each for each in untold if each != gap)
    if last is not None:
        last.untold = [_Missed(gap.reason, gap.from_seq, gap.to_seq) for gap in untold]
        met, text = sum(at is not None for _, at in gaps), msgspec.json.encode(last).decode()
        raw.execute("UPDATE consumer SET gaps = gaps + ?, gap = ? WHERE id = ?", (met, text, consumer))


def _change(raw: sqlite3.Connection, consumer: int, first: int, head: int, changes: Changes, at: float) -> None:
    raw.execute(
        "UPDATE consumer SET floor = ?, done = ?, tried = ?, updated_at = ? WHERE id = ?",
        (min(changes.floor, head), _ranges(changes.done, head), _ranges(changes.tried, head), at, consumer),
    )
    if changes.cleared:
        raw.execute("DELETE FROM parked WHERE consumer = ?", (consumer,))
    if changes.unparked:
        _delete(raw, "parked", consumer, changes.unparked)
    if changes.revived:
        _delete(raw, "dead_letter", consumer, changes.revived)
    parked = [(consumer, seq, *one) for seq, one in changes.parked.items() if first <= seq <= head]
    if parked:
        raw.executemany("INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?)", parked)
    dead = [
        (consumer, seq, one.attempts, one.since, one.at, one.reason)
        for seq, one in changes.dead.items()
        if seq <= head and (seq >= first or one.reason == RETENTION)
    ]
    if dead:
        raw.executemany("INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?)", dead)


def _ranges(ranges: Sequence[tuple[int, int]], head: int) -> str:
    return json.dumps([(a, min(b, head)) for a, b in ranges if a <= head], separators=(",", ":")) if ranges else "[]"


def _delete(raw: sqlite3.Connection, table: str, consumer: int, seqs: set[int]) -> int:
    sql = f"DELETE FROM {table} WHERE consumer = ? AND seq = ?"  # noqa: S608 - one of two names
    return raw.executemany(sql, [(consumer, seq) for seq in seqs]).rowcount


def delete(raw: sqlite3.Connection, key: Key) -> bool | None:
    """Removes a consumer and its rows in other tables. Returns False if there is none, and None if only some of its
    dead letters were removed, as there are many: then it is to be called again."""
    row = raw.execute(_FIND, key).fetchone()
    if row is None:
        return False
    if raw.execute(_LETTERS, (row[0], LETTERS)).rowcount == LETTERS:
        return None
    return raw.execute("DELETE FROM consumer WHERE id = ?", (row[0],)).rowcount > 0


def dead(raw: sqlite3.Connection, bucket_id: BucketId, key: Key | None, after: int, limit: int) -> list[DeadLetter]:
    """Dead letters by ascending seq."""
    condition, values = ("", ()) if key is None else (" AND kind = ? AND name = ?", (key.kind, key.name))
    rows = raw.execute(f"{_DEAD}{condition} ORDER BY seq, kind, name LIMIT ?", (bucket_id, after, *values, limit))
    return [DeadLetter(Key(*row[:3]), *row[3:]) for row in rows.fetchall()]


def forget_dead(raw: sqlite3.Connection, key: Key, seqs: set[int]) -> int:
    """Removes dead letters and returns their number."""
    row = raw.execute(_FIND, key).fetchone()
    return 0 if row is None else _delete(raw, "dead_letter", row[0], seqs)


def floor(raw: sqlite3.Connection, bucket_id: BucketId, but: Collection[str]) -> int | None:
    """The oldest seq that a consumer is not done with, without the tokens `but`; None if there is no consumer."""
    found: int | None = raw.execute(_FLOOR, (bucket_id, json.dumps(list(but)))).fetchone()[0]
    return found


def heads(raw: sqlite3.Connection) -> Sequence[tuple[BucketId, int]]:
    """Every bucket with its log's head, if that is not damaged."""
    return raw.execute("SELECT bucket, head FROM log WHERE dropped = 0 AND typeof(head) = 'integer'").fetchall()


# removal with the events


def has_old(raw: sqlite3.Connection, log: int) -> bool:
    """Whether there are rows about removed events, which are to be removed or changed, too."""
    return raw.execute(_OLD, {"log": log, "missed": MOST_MISSED}).fetchone() is not None


def forget_old(raw: sqlite3.Connection, log: int, now: float) -> bool:
    """Makes up to 256 parked events dead letters, and removes as many dead letters. Returns whether that is all. Rows
    of a log that was dropped meanwhile are removed elsewhere."""
    values = {"log": log, "step": STEP, "missed": MOST_MISSED, "now": now}
    for consumer, seq, attempts, since in raw.execute(_OLD_PARKED, values).fetchall():
        raw.execute("DELETE FROM parked WHERE consumer = ? AND seq = ?", (consumer, seq))
        raw.execute(
            "INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?)",
            (consumer, seq, attempts, since, now, RETENTION),
        )
    raw.execute(_OLD_DEAD, values)
    raw.execute(_SURPLUS, values)
    return not has_old(raw, log)


def forget_dropped(raw: sqlite3.Connection, log: int) -> bool:
    """Removes up to 256 rows of each table of a dropped log's consumers. Returns whether that is all."""
    left = 0
    for table in ("parked", "dead_letter"):
        left += raw.execute(
            f"DELETE FROM {table} WHERE (consumer, seq) IN (SELECT consumer, seq FROM {table} WHERE consumer IN"  # noqa: S608
            " (SELECT id FROM consumer WHERE log = ?) LIMIT ?)",
            (log, STEP),
        ).rowcount
    if left == 0:
        left = raw.execute(
            "DELETE FROM consumer WHERE id IN (SELECT id FROM consumer WHERE log = ? LIMIT ?)", (log, STEP)
        ).rowcount
    return left == 0


class _Missed(msgspec.Struct, rename={"from_seq": "from", "to_seq": "to"}):
    reason: GapReason
    from_seq: int | None
    to_seq: int | None

    def gap(self) -> Gap:
        return Gap(self.reason, self.from_seq, self.to_seq)


class _Met(_Missed):
    at: Finite
    untold: list[_Missed] = []


class _Row(NamedTuple):
    """A row of `_STORED`."""

    ack_wait: Finite
    max_deliver: int
    receipt: int
    floor: int
    done: bytes
    dead: int
    created_at: Finite
    updated_at: Finite
    gaps: int
    gap: bytes | None
    tried: bytes
    first: int
    head: int


read_ranges = msgspec.json.Decoder(list[tuple[int, int]]).decode
"""Reads the columns `done` and `tried`. Raises MsgspecError."""
read_gap = msgspec.json.Decoder(_Met).decode
"""Reads the column `gap`. Raises MsgspecError."""


def read_parked(rows: list[Any]) -> list[tuple[int, int, Finite, Finite]]:
    """Reads rows of `parked`: seq, attempts, due, since. Raises sqlite3.DatabaseError."""
    return sound(rows, list[tuple[int, int, Finite, Finite]])


def _untold(last: _Met | None) -> tuple[Gap, ...]:
    return () if last is None else tuple(each.gap() for each in last.untold)


def _key(row: Sequence[Any]) -> Key:
    return Key(row[0], row[1].decode(errors="replace"), row[2].decode(errors="replace"))


def _stored(key: Key, row: _Row) -> Stored:
    """The consumer of a row. Raises MsgspecError or ValueError if the row can't be understood."""
    wait, most, receipt, floor, done, letters, created, updated, times, gap, out, first, head = row
    settled, tried = read_ranges(done), read_ranges(out)
    if not 0 <= floor <= head or any(not floor < begin <= end <= head for begin, end in settled):
        raise ValueError("what it is done with does not go with what its log holds")
    if any(end > head for _, end in tried):
        raise ValueError("what it is trying does not go with what its log holds")
    held = Ranges(tried)
    held.cut_below(first)
    last = None if gap is None else read_gap(gap)
    return Stored(
        key, Terms(wait, most, key.kind == "token" or bool(receipt)), floor, tuple(settled), {}, letters,
        created, updated,
        None if last is None else Gaps(times, last.gap(), last.at), tuple(held),
        _untold(last),
    )  # fmt: skip
