"""Events as rows of the table `event`: in by many-row inserts, out by ranges of seqs, each with its CRC.

Python gives up the interpreter lock for every statement and every row that it steps to, and a busy event loop makes
each taking back dear. So what goes in goes in few statements: 64, 32, …, 1 rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from relay_tornado.log.lineage import epoch_at
from relay_tornado.model import Epoch, Event

_COLUMNS = 12
_MOST = 64


def _many(sql: str, row: str) -> dict[int, str]:
    """The statement for 1, 2, 4, … rows."""
    return {1 << n: sql.format(", ".join([row] * (1 << n))) for n in range(_MOST.bit_length())}


_INSERT = _many("INSERT INTO event VALUES {}", "(" + ", ".join("?" * _COLUMNS) + ")")
_GROW = _many(
    "UPDATE log SET head = v.column2, bytes = bytes + v.column3, last_at = v.column4 FROM (VALUES {}) AS v"
    " WHERE log.id = v.column1",
    "(?, ?, ?, ?)",
)
_EPOCH = _many("INSERT INTO epoch VALUES {}", "(?, ?, ?)")
_DEDUPE = _many("INSERT OR REPLACE INTO dedupe VALUES {}", "(?, ?, ?, ?, ?)")
_KNOWN = _many("SELECT log, hash, seq, at FROM dedupe WHERE (log, hash) IN (VALUES {})", "(?, ?)")

_SELECT = (
    "SELECT seq, size, received_at, input_id, method, path, query, headers, body, remote_ip, crc FROM event"
    " WHERE log = ? AND seq BETWEEN ? AND ? ORDER BY seq"
)
_BYTES = "SELECT coalesce(sum(size), 0) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"


def checksum(input_id: str, method: str, path: bytes, query: bytes, headers: bytes, body: bytes, remote_ip: str) -> int:
    """A CRC32 of an event's content, in the order of the arguments, each text in UTF-8."""
    start = crc32(f"{input_id} {method} {remote_ip}".encode())
    return crc32(body, crc32(headers, crc32(query, crc32(path, start))))


def _in_chunks(raw: sqlite3.Connection, statements: dict[int, str], params: list[Any], columns: int) -> None:
    done, rows = 0, len(params) // columns
    while done < rows:
        chunk = min(1 << ((rows - done).bit_length() - 1), _MOST)
        raw.execute(statements[chunk], params[done * columns : (done + chunk) * columns])
        done += chunk


def insert(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Inserts events; `params` holds the values of all rows, one after another, in the table's order of columns."""
    _in_chunks(raw, _INSERT, params, _COLUMNS)


def grow(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Moves the heads of logs; `params` holds log, head, bytes to add, last_at for each."""
    _in_chunks(raw, _GROW, params, 4)


def insert_epochs(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Inserts epochs: epoch, log, from_seq for each."""
    _in_chunks(raw, _EPOCH, params, 3)


def insert_digests(raw: sqlite3.Connection, params: list[Any]) -> None:
    """Remembers digests: log, hash, seq, at, until for each."""
    _in_chunks(raw, _DEDUPE, params, 5)


def known(raw: sqlite3.Connection, digests: Sequence[tuple[int, bytes]]) -> dict[tuple[int, bytes], tuple[int, float]]:
    """Which of the digests (log, hash) were appended: at which seq, and when."""
    found = {}
    for start in range(0, len(digests), _MOST):
        chunk = list(digests[start : start + _MOST])
        width = 1 << (len(chunk) - 1).bit_length()
        chunk += [chunk[-1]] * (width - len(chunk))
        for log, digest, seq, at in raw.execute(_KNOWN[width], [value for pair in chunk for value in pair]).fetchall():
            found[log, digest] = (seq, at)
    return found


def total_bytes(raw: sqlite3.Connection, log: int, start: int, end: int) -> int | None:
    """The sizes of the events start to end, summed; None where a damaged page keeps that from being known."""
    try:
        return int(raw.execute(_BYTES, (log, start, end)).fetchone()[0])
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether a page of the file is malformed: what lies on others can still be read."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT


def select(
    raw: sqlite3.Connection, log: int, start: int, end: int, epochs: Sequence[Epoch]
) -> tuple[list[Event | None], list[int]]:
    """The events start to end, and their sizes; None and 0 for each that is missing or has not its CRC any more."""
    try:
        found = raw.execute(_SELECT, (log, start, end)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = list(_one_by_one(raw, log, start, end))
    epoch, last = epoch_at(epochs, start), epoch_at(epochs, end)
    events: list[Event | None] = [
        Event(seq, epoch, at, input_id, method, path, query, headers, body, ip)
        if crc32(body, crc32(headers, crc32(query, crc32(path, crc32(f"{input_id} {method} {ip}".encode()))))) == crc
        else None
        for seq, _, at, input_id, method, path, query, headers, body, ip, crc in found
    ]
    sizes = [row[1] for row in found]
    if len(found) != end - start + 1 or None in events:
        by_seq = {event.seq: event for event in events if event is not None}
        events = [by_seq.get(seq) for seq in range(start, end + 1)]
        sizes = [0 if event is None else event.size for event in events]
    if epoch != last:
        events = [event and msgspec.structs.replace(event, epoch=epoch_at(epochs, event.seq)) for event in events]
    return events, sizes


def _one_by_one(raw: sqlite3.Connection, log: int, start: int, end: int) -> Iterable[tuple[Any, ...]]:
    """What can be read of a range that holds a damaged page."""
    for seq in range(start, end + 1):
        try:
            yield from raw.execute(_SELECT, (log, seq, seq)).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
