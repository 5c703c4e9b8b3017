"""Events as rows of the table `event`: inserted many at a time, read by ranges of seqs, each with its CRC.

Python releases the interpreter lock for every statement and every row stepped to, and with a busy event loop getting it
back is slow. So events are inserted with few statements, of 64, 32, …, 1 rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isinf
from typing import Any, NamedTuple, TypeAlias

import msgspec

from relay_tornado.log.contract import Outline
from relay_tornado.log.lineage import epoch_at
from relay_tornado.model import Epoch, Event, NewEvent
from relay_tornado.storage.damage import is_damage

try:
    from isal.isal_zlib import crc32  # of the extra `fast`: zlib's takes four times as long
except ImportError:
    from zlib import crc32

_MOST = 64

_PLAIN = "log, seq, size, crc, received_at, input_id, method, path, query, headers, remote_ip, body"
_MARKS = "resend_of, target, force, verified, verdict, edited"
PLAIN, MARKED = 12, 18
"""The number of values in a row: of a plain event, and of one with marks (a copy of another event, or one whose
signature was checked), whose marks come last."""


Marks: TypeAlias = tuple[str | None, int | None, bool, bool | None, str, bool]


def _many(sql: str, row: str) -> dict[int, str]:
    """The statement for each number of rows: 1, 2, 4, …"""
    return {1 << n: sql.format(", ".join([row] * (1 << n))) for n in range(_MOST.bit_length())}


def _row(values: int) -> str:
    return "(" + ", ".join("?" * values) + ")"


def _of_event(columns: str) -> str:
    return ", ".join(f"event.{name}" for name in columns.split(", "))


# OR FAIL: an error rolls the transaction back anyway, so SQLite need not keep a copy of the pages for each statement.
_INSERT = _many(f"INSERT OR FAIL INTO event ({_PLAIN}) VALUES {{}}", _row(PLAIN))  # noqa: S608 - constants only, here and below
_INSERT_MARKED = _many(f"INSERT OR FAIL INTO event ({_PLAIN}, {_MARKS}) VALUES {{}}", _row(MARKED))  # noqa: S608
_GROW = _many(
    "UPDATE log SET head = v.column2, bytes = bytes + v.column3, last_at = v.column4 FROM (VALUES {}) AS v"
    " WHERE log.id = v.column1 AND dropped = 0",
    "(?, ?, ?, ?)",
) | {1: "UPDATE log SET head = ?2, bytes = bytes + ?3, last_at = ?4 WHERE id = ?1 AND dropped = 0"}
_EPOCH = _many("INSERT INTO epoch VALUES {}", "(?, ?, ?)")
_DEDUPE = _many("INSERT OR REPLACE INTO dedupe VALUES {}", "(?, ?, ?, ?, ?)")
_KNOWN = _many("SELECT log, hash, seq, at FROM dedupe WHERE (log, hash) IN (VALUES {})", "(?, ?)")

# The CRC does not cover an event's place, which SQLite would take from the index alone: a damaged entry would return
# another row's content. So the row is compared with its index entry; that costs 2 %.
_PLACES = (
    " FROM event AS place JOIN event"
    " ON event.rowid = place.rowid AND +event.log = place.log AND +event.seq = place.seq"
    " WHERE place.log = ? AND place.seq BETWEEN ? AND ?"
)
_CONTENT = "seq, size, received_at, input_id, method, path, query, headers, body, remote_ip, crc"
# Python pays for each column of each row, and most events have no marks, so these are one column here.
_UNMARKED = (
    "event.resend_of IS NULL AND event.target IS NULL AND event.force = 0 AND event.verified IS NULL"
    " AND event.verdict = '' AND event.edited = 0"
)
_SELECT = (
    f"SELECT {_of_event(_CONTENT)}, CASE WHEN {_UNMARKED} THEN NULL ELSE json_array({_of_event(_MARKS)}) END"
    f"{_PLACES} ORDER BY place.seq"
)
_read_marks = msgspec.json.Decoder(tuple[str | None, int | None, int, int | None, str, int]).decode
# The lengths of the parts are in the row's header, so bodies are not read here.
STUB = "length(event.headers) + length(event.body) = 0 AND event.size > length(event.path) + length(event.query)"
"""Whether a row of `event` is a stub of an ephemeral event. (Another event's size may be damaged.)"""
_OUTLINE = (
    f"SELECT {_of_event('seq, received_at, input_id, method, size, crc')}, {STUB}{_PLACES}"
    " AND typeof(event.received_at) = 'real' AND typeof(event.size) = 'integer' AND typeof(event.input_id) = 'text'"
    " AND abs(event.received_at) < 9e999 AND typeof(event.method) = 'text'"
    " AND typeof(event.crc) = 'integer' ORDER BY place.seq"
)
_AFTER_STUBS = f"SELECT min(seq) FROM event WHERE log = ? AND seq > ? AND seq <= ? AND NOT ({STUB})"  # noqa: S608

_NEXT = "SELECT min(seq) FROM event WHERE log = ? AND seq > ? AND seq <= ?"
_RECEIVED_AT = (
    "SELECT received_at FROM event WHERE log = ? AND seq >= ? AND typeof(received_at) = 'real'"
    " AND abs(received_at) < 9e999 ORDER BY seq LIMIT 1"
)


def checksum(event: NewEvent | Event, marks: Marks | None) -> int:
    """A CRC32 of an event's content: `input_id method remote_ip` in UTF-8, path, query, headers, body, and its marks if
    it has any."""
    content = _origin(event.input_id, event.method, event.remote_ip)
    if event.path:
        content = crc32(event.path, content)
    if event.query:
        content = crc32(event.query, content)
    content = crc32(event.body, crc32(event.headers, content))
    return content if marks is None else _with_marks(content, marks)


@lru_cache(maxsize=4096)
def _origin(input_id: str, method: str, remote_ip: str) -> int:
    """Cached, since a few senders send to a few inputs."""
    return crc32(f"{input_id} {method} {remote_ip}".encode())


def marks_of(event: NewEvent | Event) -> Marks | None:
    """The columns of the marks; None for an event that has none."""
    if (
        event.verified is None
        and event.resend_of is None
        and event.target is None
        and not (event.force or event.edited or event.verdict)
    ):
        return None
    return (event.resend_of, event.target, event.force, event.verified, event.verdict, event.edited)


def marked(event: Event, marks: Marks) -> Event:
    """The event with these marks."""
    resend_of, target, force, verified, verdict, edited = marks
    return msgspec.structs.replace(
        event, resend_of=resend_of, target=target, force=force, verified=verified, verdict=verdict, edited=edited
    )


def _with_marks(crc: int, marks: Marks) -> int:
    resend_of, target, force, verified, verdict, edited = marks
    text = (
        f"{resend_of or ''} {'' if target is None else target} {int(force)}"
        f" {'' if verified is None else int(verified)} {verdict}{' edited' if edited else ''}"
    )
    return crc32(text.encode(), crc)


def _in_chunks(raw: sqlite3.Connection, statements: dict[int, str], params: list[Any], columns: int) -> None:
    """Raises sqlite3.IntegrityError if a row changed nothing."""
    done, rows = 0, len(params) // columns
    while done < rows:
        chunk = min(1 << ((rows - done).bit_length() - 1), _MOST)
        changed = raw.execute(statements[chunk], params[done * columns : (done + chunk) * columns]).rowcount
        if changed < chunk:
            raise sqlite3.IntegrityError("a log that events were appended to is not there any more")
        done += chunk


def insert(raw: sqlite3.Connection, plain: list[Any], marked: list[Any]) -> None:
    """Inserts events. Each list holds the values of its rows, one after another, in the order of the columns."""
    _in_chunks(raw, _INSERT, plain, PLAIN)
    _in_chunks(raw, _INSERT_MARKED, marked, MARKED)


def grow(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Moves the heads of logs. `params` holds log, head, bytes to add and last_at for each."""
    _in_chunks(raw, _GROW, params, 4)


def insert_epochs(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Inserts epochs. `params` holds epoch, log and from_seq for each."""
    _in_chunks(raw, _EPOCH, params, 3)


def insert_digests(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Stores digests. `params` holds log, hash, seq, at and until for each."""
    _in_chunks(raw, _DEDUPE, params, 5)


def known(raw: sqlite3.Connection, digests: Sequence[tuple[int, bytes]]) -> dict[tuple[int, bytes], tuple[int, float]]:
    """The seq and time of the append of each of the digests (log, hash) that is known."""
    found = {}
    for start in range(0, len(digests), _MOST):
        chunk = list(digests[start : start + _MOST])
        width = 1 << (len(chunk) - 1).bit_length()
        chunk += [chunk[-1]] * (width - len(chunk))
        for log, digest, seq, at in raw.execute(_KNOWN[width], [value for pair in chunk for value in pair]).fetchall():
            found[log, digest] = (seq, at)
    return found


def outline(raw: sqlite3.Connection, log: int, start: int, end: int) -> list[Outline]:
    """The events start to end without their content; damaged ones are left out."""
    try:
        found = raw.execute(_OUTLINE, (log, start, end)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = list(_one_by_one(raw, log, start, end, _OUTLINE))
    return [
        Outline(seq, at, input_id, method, size, crc, bool(stub))
        for seq, at, input_id, method, size, crc, stub in found
    ]


def received_at(raw: sqlite3.Connection, log: int, seq: int) -> float | None:
    """When the first event from `seq` on with an undamaged time was received; None if that can't be read."""
    row = one(raw, _RECEIVED_AT, log, seq)
    return None if row is None else float(row[0])


def one(raw: sqlite3.Connection, sql: str, *values: Any) -> tuple[Any, ...] | None:
    """The first row of a query; None if there is none, or what it reads is damaged."""
    try:
        row: tuple[Any, ...] | None = raw.execute(sql, values).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None
    return row


def after_stubs(raw: sqlite3.Connection, log: int, seq: int, head: int) -> int | None:
    """The next seq that is not a stub; head + 1 if there is none, None if that can't be read."""
    row = one(raw, _AFTER_STUBS, log, seq, head)
    if row is None:
        return None
    return head + 1 if row[0] is None else int(row[0])


def next_there(raw: sqlite3.Connection, log: int, seq: int, head: int) -> int:
    """The first seq from `seq` to `head` that has a row; head + 1 if there is none, `seq` if that can't be read."""
    row = one(raw, _NEXT, log, seq - 1, head)
    if row is None:
        return seq
    return head + 1 if row[0] is None else int(row[0])


class Found(NamedTuple):
    """The events of a range of seqs, from its start, each with its size.

    An event is None if it is one of the `stubs` (seqs of ephemeral events, whose content is not stored), or if it is
    missing or its CRC is wrong; then it has no size.
    """

    events: list[Event | None]
    sizes: list[int]
    stubs: frozenset[int] = frozenset()


def select(raw: sqlite3.Connection, log: int, start: int, end: int, epochs: Sequence[Epoch], max_bytes: int) -> Found:
    """The events start to end, or the first of them that have at most `max_bytes`; at least one."""
    try:
        return _found(raw.execute(_SELECT, (log, start, end)), start, end, epochs, max_bytes)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    return _found(_one_by_one(raw, log, start, end), start, end, epochs, max_bytes)


def _found(rows: Iterable[Any], start: int, end: int, epochs: Sequence[Epoch], room: int) -> Found:
    events: list[Event | None] = []
    sizes: list[int] = []
    stubs: set[int] = set()
    epoch = epoch_at(epochs, start)
    next_seq = start
    for seq, size, at, input_id, method, path, query, headers, body, ip, crc, marked in rows:
        if seq < next_seq:
            continue  # a damaged index can lead here twice
        event: Event | None
        try:
            room -= size
            if room < 0 and events:
                end = next_seq - 1
                break
            marks = None if marked is None else _marks(marked)
            # A damaged row header can turn a blob into a text, which passes the CRC if it is empty.
            path, query = path or b"", query or b""
            event = Event(seq, epoch, at, input_id, method, path, query, headers, body, ip, *(marks or ()))
            if checksum(event, marks) != crc or at.__class__ is not float or isinf(at):
                event, size = None, 0
            elif not headers and not body and size > len(path) + len(query):
                event = None
                stubs.add(seq)
        except (TypeError, msgspec.DecodeError):
            event, size = None, 0
        if seq > next_seq:
            events += [None] * (seq - next_seq)
            sizes += [0] * (seq - next_seq)
        events.append(event)
        sizes.append(size)
        next_seq = seq + 1
    events += [None] * (end + 1 - next_seq)
    sizes += [0] * (end + 1 - next_seq)
    if epoch != epoch_at(epochs, end):
        events = [event and msgspec.structs.replace(event, epoch=epoch_at(epochs, event.seq)) for event in events]
    return Found(events, sizes, frozenset(stubs))


def _marks(text: str) -> Marks:
    """Reads the marks. Raises msgspec.DecodeError if the row is damaged."""
    resend_of, target, force, verified, verdict, edited = _read_marks(text)
    return (resend_of, target, bool(force), None if verified is None else bool(verified), verdict, bool(edited))


def _one_by_one(
    raw: sqlite3.Connection, log: int, start: int, end: int, sql: str = _SELECT
) -> Iterable[tuple[Any, ...]]:
    """The readable rows of a range with a damaged page."""
    for seq in range(start, end + 1):
        try:
            yield from raw.execute(sql, (log, seq, seq)).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
