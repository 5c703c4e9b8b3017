"""The store of results on SQLite: `log.results.Results` over one database.

Results gather in a queue that is bounded in bytes, and are committed together, with the events that wait at that
moment. Nothing else is kept in memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from relay_tornado.errors import BucketGone, Malformed, NotFound, Overloaded, RelayError, Unavailable
from relay_tornado.log.results import DONE, MOST_RESULTS, READ_BYTES, Latest, sent, storable, surplus
from relay_tornado.log.rows import one
from relay_tornado.low_memory import wake
from relay_tornado.model import BucketId, Result
from relay_tornado.settings import Settings
from relay_tornado.storage.damage import Finite, is_damage, sound
from relay_tornado.storage.database import Database
from relay_tornado.storage.work import CLOSED, again

T = TypeVar("T")

_OVERHEAD = 512
_FEW = 8
"""Events up to which a claim may share its transaction: senders wait for it."""

# Texts as bytes, so that a malformed one damages only its own row.
_SIZE = "length(CAST(headers AS BLOB)) + length(body)"


def _columns(there: str) -> str:
    """The columns of `_Row`; headers and body only of the rows that meet this condition."""
    return (
        f"output, CAST(status AS BLOB), status_code, iif({there}, CAST(headers AS BLOB), CAST('{{}}' AS BLOB)),"
        f" iif({there}, body, x''), duration_ms, retries, at, NOT ({there})"
    )


_LOG = "SELECT id, first, head FROM log WHERE bucket = ? AND dropped = 0"
_INSERT = (
    "INSERT INTO delivery (log, seq, output, at, status, status_code, duration_ms, retries, headers, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_KEPT = "SELECT id, status_code FROM delivery WHERE log = ? AND seq = ? AND output = ? ORDER BY id"
# Ids first, so that only the body asked for is read.
_FIRST = (
    f"SELECT {_columns('TRUE')} FROM delivery WHERE id = (SELECT min(id) FROM delivery"  # noqa: S608 - constants only
    " WHERE log = ? AND seq = ? AND status_code > 0 AND (? IS NULL OR output = ?))"
)
_SIZES = f"SELECT id, ifnull({_SIZE}, 0) FROM delivery WHERE log = ? AND seq BETWEEN ? AND ? ORDER BY id DESC"  # noqa: S608
_OF = (
    f"SELECT seq, {_columns('id >= ?1')} FROM delivery"  # noqa: S608
    " WHERE log = ?2 AND seq BETWEEN ?3 AND ?4 ORDER BY id"
)
_LATEST = (
    f"SELECT {_columns(f'{_SIZE} <= ?1')} FROM delivery WHERE id = (SELECT max(id) FROM delivery"  # noqa: S608
    " WHERE log = ?2 AND seq = ?3 AND (?4 IS NULL OR output = ?4))"
)
_STATUS = (
    "SELECT CAST(status AS BLOB) FROM delivery WHERE id = (SELECT max(id) FROM delivery"
    " WHERE log = ? AND seq = ? AND (? IS NULL OR output = ?))"
)
_STATUSES = "SELECT seq, output, CAST(status AS BLOB) FROM delivery WHERE log = ? AND seq BETWEEN ? AND ? ORDER BY id"
_FLOOR = "SELECT floor FROM consumer WHERE log = ? AND kind = 'events' AND name = ?"
_END = "DELETE FROM consumer WHERE log = ? AND kind = 'events' AND name = ?"
_MOVE = (
    "INSERT INTO consumer (log, kind, name, floor, created_at, updated_at) VALUES (?, 'events', ?, ?, ?, ?)"
    " ON CONFLICT (log, kind, name) DO UPDATE SET floor = excluded.floor, updated_at = excluded.updated_at"
)

_decode = msgspec.json.Decoder(dict[str, list[str]]).decode


class _Row(NamedTuple):
    """A result as read from the file."""

    output: int
    status: bytes
    status_code: int
    headers: bytes
    body: bytes
    duration_ms: int
    retries: int
    at: Finite
    left_out: int


class _Entry:
    """A result in the queue."""

    __slots__ = ("bucket_id", "future", "headers", "outcome", "output", "result", "seq", "size")

    def __init__(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> None:
        self.bucket_id = bucket_id
        self.seq = seq
        self.output = output
        self.result = result
        self.headers, size = storable(result)
        self.size = size + _OVERHEAD
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.outcome: RelayError | None = None

    def settle(self, outcome: RelayError | None) -> None:
        if not self.future.done():
            wake(self.future, outcome)


class SqliteResults:
    """See the contract. The limits of the queue and of a commit are those of events."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._most_bytes = settings.append_queue
        self._batch_rows = settings.commit_events
        self._batch_bytes = settings.commit_bytes
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    # writing

    async def record(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> None:
        if self._closed:
            raise Unavailable(CLOSED)
        entry = _Entry(bucket_id, seq, output, result)
        if (refusal := self._database.refusal(entry.size, self._bytes)) is not None:
            raise refusal
        if self._bytes and self._bytes + entry.size > self._most_bytes:
            raise Overloaded("more answers are coming in than can be stored; send it again in a moment")
        self._bytes += entry.size
        self._queue.append(entry)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="relay-results")
        await entry.future

    async def _write(self) -> None:
        try:
            while self._queue:
                await self._commit(self._take())
        finally:
            self._writing = None
            while self._queue:  # only if this task was cancelled or has failed
                self._settle([self._queue.popleft()], Unavailable(CLOSED))

    def _take(self) -> list[_Entry]:
        entries = [self._queue.popleft()]
        room = self._batch_bytes - entries[0].size
        while self._queue and len(entries) < self._batch_rows and self._queue[0].size <= room:
            entries.append(self._queue.popleft())
            room -= entries[-1].size
        return entries

    async def _commit(self, entries: list[_Entry]) -> None:
        try:
            size = sum(entry.size for entry in entries)
            await self._database.write(lambda raw: _store(raw, entries), size=size, shared=True)
        except (RelayError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error | Malformed) and len(entries) > 1:
                for entry in entries:  # one of them is to blame, or damage in its log, and not the file
                    await self._commit([entry])
                return
            self._settle(entries, error)
        except BaseException:
            self._settle(entries, Unavailable(CLOSED))
            raise
        else:
            self._settle(entries, None)

    def _settle(self, entries: list[_Entry], error: RelayError | sqlite3.Error | None) -> None:
        for entry in entries:
            self._bytes -= entry.size
            if error is None:
                entry.settle(entry.outcome)
            elif isinstance(error, RelayError):
                entry.settle(again(error))
            else:
                entry.settle(Unavailable(f"the answer could not be stored as it is ({error})"))

    async def claim(
        self, bucket_id: BucketId, output: int, expect: int, seqs: Sequence[int], floor: int, at: float
    ) -> Sequence[int] | None:
        def job(raw: sqlite3.Connection, hidden: Collection[int] = ()) -> Sequence[int] | None:
            row = raw.execute(_LOG, (bucket_id,)).fetchone()
            if row is None:
                raise BucketGone(bucket_id)
            key, first, head = row
            if _floor(raw, key, output) != expect:
                return None
            claimed = []
            for seq in seqs:
                if not first <= seq <= head:
                    continue
                if seq in hidden:
                    claimed.append(seq)
                elif _status(raw, key, seq, output) not in DONE:
                    _insert(raw, key, seq, output, sent(at), "{}")
                    claimed.append(seq)
            raw.execute(_MOVE, (key, str(output), floor, at, at))
            return claimed

        try:
            return await self._database.write(job, shared=len(seqs) <= _FEW)
        except Malformed:
            # SQLite writes no more in a transaction that met a damaged page, so these are looked for outside of it.
            hidden = await self._read(bucket_id, lambda raw, key, _: _hidden(raw, key, seqs, output), set[int]())
            if not hidden:
                raise
        return await self._database.write(lambda raw: job(raw, hidden))

    async def end_queue(self, bucket_id: BucketId, output: int) -> None:
        def job(raw: sqlite3.Connection) -> None:
            row = raw.execute(_LOG, (bucket_id,)).fetchone()
            if row is not None:
                raw.execute(_END, (row[0], str(output)))

        if await self.floor(bucket_id, output):  # most outputs have none, which needs no commit
            await self._database.write(job)

    # reading

    async def first(self, bucket_id: BucketId, seq: int, output: int | None) -> Result | None:
        def job(raw: sqlite3.Connection, key: int, first: int) -> Result | None:
            row = one(raw, _FIRST, key, seq, output, output) if seq >= first else None
            return None if row is None else _result(row)

        return await self._read(bucket_id, job, None)

    async def of(self, bucket_id: BucketId, first: int, last: int) -> Mapping[tuple[int, int], Sequence[Result]]:
        def job(raw: sqlite3.Connection, key: int, oldest: int) -> Mapping[tuple[int, int], Sequence[Result]]:
            found: dict[tuple[int, int], list[Result]] = {}
            begin = max(first, oldest)
            room, there = READ_BYTES, 1 << 62
            for number, size in _rows(raw, _SIZES, key, begin, last) or ():
                room -= size
                if room < 0:
                    break
                there = number
            for seq, *row in _rows(raw, _OF, there, key, begin, last) or ():
                if (result := _result(row)) is not None:
                    found.setdefault((seq, row[0]), []).append(result)
            return found

        return await self._read(bucket_id, job, {})

    async def latest(self, bucket_id: BucketId, seqs: Collection[int], output: int | None) -> Mapping[int, Latest]:
        def job(raw: sqlite3.Connection, key: int, oldest: int) -> Mapping[int, Latest]:
            found: dict[int, Latest] = {}
            room = READ_BYTES
            for seq in seqs:
                row = one(raw, _LATEST, room, key, seq, output) if seq >= oldest else None
                if row is not None and (result := _result(row)) is not None:
                    found[seq] = Latest(row[0], result)
                    room = 0 if result.left_out else room - len(row[3]) - len(row[4])
            return found

        return await self._read(bucket_id, job, {})

    async def statuses(self, bucket_id: BucketId, first: int, last: int, output: int | None) -> Mapping[int, str]:
        def job(raw: sqlite3.Connection, key: int, oldest: int) -> Mapping[int, str]:
            begin = max(first, oldest)
            rows = _rows(raw, _STATUSES, key, begin, last)
            if rows is None:
                known = {seq: one(raw, _STATUS, key, seq, output, output) for seq in range(begin, last + 1)}
                rows = [(seq, output, row[0]) for seq, row in known.items() if row is not None]
            there = {seq: _text(status) for seq, copy, status in rows if output is None or copy == output}
            return {seq: status for seq, status in there.items() if status is not None}

        return await self._read(bucket_id, job, {})

    async def floor(self, bucket_id: BucketId, output: int) -> int:
        return await self._read(bucket_id, lambda raw, key, _: _floor(raw, key, output), 0)

    async def _read(self, bucket_id: BucketId, job: Callable[[sqlite3.Connection, int, int], T], nothing: T) -> T:
        """The job's result, called with the log's key and its oldest seq; `nothing` if there is no log."""

        def found(raw: sqlite3.Connection) -> T:
            row = raw.execute(_LOG, (bucket_id,)).fetchone()
            return nothing if row is None else job(raw, row[0], row[1])

        return await self._database.read(found, "what became of events")

    async def close(self) -> None:
        """Commits what is queued. No result is accepted any more."""
        self._closed = True
        while self._writing is not None:
            await asyncio.wait([self._writing])


def _store(raw: sqlite3.Connection, entries: Iterable[_Entry]) -> None:
    """On the writer's thread: inserts what it can, and sets the outcome of each entry."""
    logs: dict[BucketId, tuple[int, int, int] | None] = {}
    for entry in entries:
        bucket_id = entry.bucket_id
        if bucket_id not in logs:
            logs[bucket_id] = raw.execute(_LOG, (bucket_id,)).fetchone()
        row = logs[bucket_id]
        if row is None:
            entry.outcome = BucketGone(bucket_id)
        elif not row[1] <= entry.seq <= row[2]:
            entry.outcome = NotFound(f"the log of the bucket {bucket_id} does not hold event {entry.seq}")
        else:
            entry.outcome = None
            _insert(raw, row[0], entry.seq, entry.output, entry.result, entry.headers)


def _rows(raw: sqlite3.Connection, sql: str, *values: Any) -> list[Any] | None:
    """The rows of a query; None if what it reads is damaged."""
    try:
        return raw.execute(sql, values).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None


def _hidden(raw: sqlite3.Connection, key: int, seqs: Iterable[int], output: int) -> set[int]:
    """The events of which damage hides what became of this copy; for output 0, of any of their copies."""
    copy = output or None
    return {
        seq
        for seq in seqs
        if _rows(raw, _KEPT, key, seq, output) is None or _rows(raw, _STATUS, key, seq, copy, copy) is None
    }


def _insert(raw: sqlite3.Connection, key: int, seq: int, output: int, result: Result, headers: str) -> None:
    kept = raw.execute(_KEPT, (key, seq, output)).fetchall()
    if len(kept) >= MOST_RESULTS:
        raw.execute("DELETE FROM delivery WHERE id = ?", (kept[surplus([code for _, code in kept])][0],))
    raw.execute(
        _INSERT,
        (
            key, seq, output, result.at, result.status, result.status_code, result.duration_ms, result.retries, headers,
            result.body,
        ),
    )  # fmt: skip


def _floor(raw: sqlite3.Connection, key: int, output: int) -> int:
    row = raw.execute(_FLOOR, (key, str(output))).fetchone()
    return 0 if row is None else int(row[0])


def _status(raw: sqlite3.Connection, key: int, seq: int, output: int) -> str:
    """The newest status of a copy; for output 0, of any of the event's copies."""
    copy = output or None
    row = raw.execute(_STATUS, (key, seq, copy, copy)).fetchone()
    return "" if row is None else _text(row[0]) or ""


def _result(row: Sequence[Any]) -> Result | None:
    """None if the row is damaged."""
    try:
        _, status, status_code, headers, body, duration_ms, retries, at, left_out = sound(row, _Row)
        return Result(status.decode(), status_code, _decode(headers), body, duration_ms, retries, at, left_out != 0)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _text(stored: bytes | None) -> str | None:
    """None if the text is damaged."""
    try:
        return None if stored is None else stored.decode()
    except UnicodeDecodeError:
        return None
