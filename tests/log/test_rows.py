"""relay_tornado/log/rows.py: rows as they come out, whole or damaged."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay_tornado.log import reclaim, rows
from relay_tornado.model import Epoch, Event, NewEvent

SCHEMA = Path(__file__).parents[2] / "schema.sql"
EPOCHS = [Epoch("first", 1), Epoch("second", 4)]
MANY = 1 << 30


def stored(seq: int) -> Event:
    """One with all marks, some with a verdict, some with path and query, one that fills more than a page."""
    body = b"b" * (6000 if seq == 5 else 40 + seq)
    path = b"/path" if seq % 2 else b""
    epoch = "first" if seq < 4 else "second"
    made = Event(seq, epoch, seq + 0.5, "input", "POST", path, path[1:], b"Host: relay\r\n", body, "192.0.2.1")
    if seq == 3:
        return rows.marked(made, ("first-1", 2, True, False, "no signature", True))
    return msgspec.structs.replace(made, verified=True) if seq > 5 else made


EVENTS = [stored(seq) for seq in range(1, 9)]


def store(raw: sqlite3.Connection, log: int, event: Event, size: int | None = None) -> None:
    marks = rows.marks_of(event)
    values = [log, event.seq, event.size if size is None else size, rows.checksum(event, marks), event.received_at]
    values += [event.input_id, event.method, event.path, event.query, event.headers, event.remote_ip, event.body]
    rows.insert(raw, values if marks is None else [], [] if marks is None else [*values, *marks])


@pytest.fixture(scope="module")
def database() -> bytes:
    """A file with a log of eight events."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.executescript(SCHEMA.read_text())
        raw.execute("INSERT INTO log (bucket) VALUES ('b')")
        for event in EVENTS:
            store(raw, 1, event)
        raw.execute("UPDATE log SET head = 8")
        return raw.serialize()


def select(database: bytes | bytearray, start: int = 1, end: int = 8, most: int = MANY) -> rows.Found:
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.deserialize(bytes(database))
        return rows.select(raw, 1, start, end, EPOCHS, most)


def test_what_was_stored_comes_out(database: bytes) -> None:
    """With its marks, and each in its epoch."""
    assert select(database).events == EVENTS
    assert select(database).sizes == [event.size for event in EVENTS]
    assert select(database, 7, 10).events == [*EVENTS[6:], None, None]


@pytest.mark.parametrize(
    "marks",
    [
        *({"resend_of": "first-1"}, {"target": 2}, {"force": True}, {"verified": True}, {"verified": False}),
        *({"verdict": "no signature"}, {"edited": True}),
    ],
)
def test_one_mark_alone(marks: dict[str, Any]) -> None:
    """It comes out as it was stored."""
    event = Event(1, "first", 0.5, "input", "POST", b"", b"", b"Host: relay\r\n", b"b", "192.0.2.1", **marks)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.executescript(SCHEMA.read_text())
        store(raw, 1, event)
        assert rows.select(raw, 1, 1, 1, EPOCHS, MANY).events == [event]


@pytest.mark.parametrize("headers", [b"", b"Host: relay\r\n"])
def test_an_empty_event_is_no_stub(headers: bytes) -> None:
    """Nor is one that has headers alone. A stub is one whose size exceeds what is stored of it."""
    event = Event(1, "first", 0.5, "input", "POST", b"/path", b"path", headers, b"", "192.0.2.1")
    for size, stubs in ((event.size, set[int]()), (event.size + 1, set[int]() if headers else {1})):
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
            raw.executescript(SCHEMA.read_text())
            store(raw, 1, event, size)
            found = rows.select(raw, 1, 1, 1, EPOCHS, MANY)
            assert (found.events, found.sizes, found.stubs) == ([None if stubs else event], [size], stubs)
            assert [each.stub for each in rows.outline(raw, 1, 1, 1)] == [bool(stubs)]
            assert rows.after_stubs(raw, 1, 0, 1) == 1 + len(stubs)


def test_as_many_as_fit(database: bytes) -> None:
    """Whole ones, at least one, and nothing beyond."""
    sizes = [event.size for event in EVENTS]
    assert select(database, most=sum(sizes[:4])).events == EVENTS[:4]
    assert select(database, most=sum(sizes[:4]) - 1).events == EVENTS[:3]
    assert select(database, start=5, most=0).events == [EVENTS[4]]
    assert select(database, start=5, end=6, most=sizes[4]).events == [EVENTS[4]]


def test_a_time_that_is_damaged(database: bytes) -> None:
    """Nothing leaves by age because of it, and the next one counts as the oldest."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.deserialize(database)
        raw.execute("DROP TRIGGER event_update")
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = 'event'")
        raw.execute("PRAGMA writable_schema = RESET")
        assert reclaim.seek(raw, 1, 1, 8, 7.0) == 6
        raw.execute("UPDATE event SET received_at = CAST(x'ff' AS TEXT) WHERE seq IN (1, 5)")
        assert reclaim.seek(raw, 1, 1, 8, 7.0) == 4
        assert rows.received_at(raw, 1, 1) == 2.5
        raw.execute("UPDATE event SET received_at = 9e999 WHERE seq = 2")
        assert rows.received_at(raw, 1, 1) == 3.5


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf")])
def test_a_time_that_is_infinite(database: bytes, wrong: float) -> None:
    """Its event is damaged: who reads, lists or shows it would fail of it."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.deserialize(database)
        raw.execute("DROP TRIGGER event_update")
        raw.execute("UPDATE event SET received_at = ? WHERE seq = 3", (wrong,))
        found = rows.select(raw, 1, 1, 8, EPOCHS, MANY)
        assert [each and each.seq for each in found.events] == [1, 2, None, 4, 5, 6, 7, 8]
        assert found.sizes[1:3] == [EVENTS[1].size, 0]
        assert [each.seq for each in rows.outline(raw, 1, 1, 8)] == [1, 2, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("damaged", range(1, 9))
@pytest.mark.parametrize("wrong", [1e-300, 1e300])
def test_one_time_that_is_out_of_order(database: bytes, damaged: int, wrong: float) -> None:
    """Wherever it is, no other event counts as older than it is, and at most the two before it as younger."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.deserialize(database)
        raw.execute("DROP TRIGGER event_update")
        raw.execute("UPDATE event SET received_at = ? WHERE seq = ?", (wrong, damaged))
        for older in range(9):
            found = reclaim.seek(raw, 1, 1, 8, older + 1.0)
            assert all(seq <= older or seq == damaged for seq in range(1, found + 1))
            assert found >= (older - 2 if damaged in (older - 1, older) else older)


def test_what_is_no_damage_comes_out(database: bytes) -> None:
    """Nobody is told of a gap because of it."""
    raw = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows.select(raw, 1, 1, 8, EPOCHS, MANY)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows.next_there(raw, 1, 1, 8)
    raw.close()
    with pytest.raises(sqlite3.ProgrammingError):
        rows.select(raw, 1, 1, 8, EPOCHS, MANY)


class Failing(sqlite3.Connection):
    """A file of which nothing can be read: first it is damaged, then the disk fails."""

    asked = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self.asked += 1
        error = sqlite3.DatabaseError("failed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT if self.asked == 1 else sqlite3.SQLITE_IOERR_READ
        raise error


def test_what_can_not_be_read() -> None:
    """A position is left where it is. What fails while a damaged range is read row by row, and is no damage, comes
    out: else events that are there would count as lost."""
    for read, found in (
        (lambda raw: rows.next_there(raw, 1, 3, 8), 3),
        (lambda raw: rows.after_stubs(raw, 1, 3, 8), None),
        (lambda raw: rows.received_at(raw, 1, 3), None),
    ):
        with contextlib.closing(sqlite3.connect(":memory:", factory=Failing)) as raw:
            assert read(raw) == found
    for read in (lambda raw: rows.select(raw, 1, 1, 8, EPOCHS, MANY), lambda raw: rows.outline(raw, 1, 1, 8)):
        with contextlib.closing(sqlite3.connect(":memory:", factory=Failing)) as raw:
            with pytest.raises(sqlite3.DatabaseError, match="failed"):
                read(raw)
            assert raw.asked == 2


def test_a_row_is_checked_whole() -> None:
    """The CRC covers every part of an event's content, and its marks; one without marks has the CRC that it had."""
    parts: dict[str, Any] = {
        "input_id": "i", "method": "m", "path": b"p", "query": b"q", "headers": b"h", "body": b"b", "remote_ip": "r"
    }  # fmt: skip
    plain = checksum(**parts)
    assert plain == zlib.crc32(b"i m rpqhb")
    for name, value in parts.items():
        assert checksum(**{**parts, name: value * 2}) != plain
    marks: dict[str, Any] = {
        "resend_of": "a", "target": 1, "force": True, "verified": True, "verdict": "v", "edited": True
    }  # fmt: skip
    marked = checksum(**parts, **marks)
    others = {"resend_of": None, "target": 2, "force": False, "verified": None, "verdict": "", "edited": False}
    found = {checksum(**parts, **{**marks, name: other}) for name, other in others.items()}
    assert len(found | {plain, marked, checksum(**parts, **{**marks, "verified": False})}) == 9


def checksum(**parts: Any) -> int:
    made = NewEvent(**parts)
    return rows.checksum(made, rows.marks_of(made))


def test_heads_move() -> None:
    """Those of any number of logs at once, each by what is added to it; not that of a log which was dropped."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.executescript(SCHEMA.read_text())
        raw.execute("INSERT INTO log (bucket) VALUES ('a'), ('b'), ('c')")
        for seq in (1, 2, 3):
            for log in (1, 2, 3):
                rows.insert(raw, [log, seq, 100 * log, 0, 0.5, "i", "m", b"", b"", b"", "r", b""], [])
        for head in (1, 2):
            rows.grow(raw, [value for log in (1, 2, 3) for value in (log, head, 100 * log, head + 0.5)])
        state = "SELECT id, head, bytes, last_at FROM log"
        assert raw.execute(state).fetchall() == [(log, 2, 200 * log, 2.5) for log in (1, 2, 3)]
        raw.execute("UPDATE log SET dropped = 1 WHERE id = 2")
        for logs in ((2,), (1, 2)):
            with pytest.raises(sqlite3.IntegrityError, match="not there any more"):
                rows.grow(raw, [value for log in logs for value in (log, 3, 1, 3.5)])
        assert raw.execute(f"{state} WHERE id = 2").fetchall() == [(2, 2, 400, 2.5)]


@pytest.mark.parametrize("table", ["event", "sqlite_autoindex_event_1"])
def test_a_flipped_bit(database: bytes, table: str) -> None:
    """Wherever it is in a page of rows or of their index: each event comes out as it was stored, or not at all, and
    nothing else happens. No CRC covers when it was received."""
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.deserialize(database)
        (page,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    lost = 0
    inside = b"b" * 9  # of a body, where all bytes are alike
    used = [at for at in range((page - 1) * 4096, page * 4096) if database[at] and database[at - 4 : at + 5] != inside]
    for at in used:
        for bit in range(8):
            data = bytearray(database)
            data[at] ^= 1 << bit
            with contextlib.closing(sqlite3.connect(":memory:")) as raw:
                raw.deserialize(data)
                found = rows.select(raw, 1, 1, 8, EPOCHS, MANY)
                assert 0 <= reclaim.seek(raw, 1, 1, 8, 4.0) <= 8
                assert isinstance(rows.received_at(raw, 1, 1), float | None)
                outlined = rows.outline(raw, 1, 1, 8)
            assert len(found.events) == 8
            for event, told in zip(EVENTS, found.events, strict=True):
                if told is None:
                    lost += 1
                else:
                    assert told.epoch == event.epoch
                    assert isinstance(told.received_at, float)
                    assert told == msgspec.structs.replace(event, received_at=told.received_at)
            for each in outlined:
                assert [type(value) for value in each] == [int, float, str, str, int, int, bool]
    assert lost > len(used) / 2


def test_a_flipped_bit_shows_no_other_logs_events() -> None:
    """An entry of the index that names another log, or another seq, leads to no event."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.executescript(SCHEMA.read_text())
        for event in EVENTS:
            store(raw, 2 if event.seq < 4 else 3, event)
        index = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_event_1'"
        (page,) = raw.execute(index).fetchone()
        database = raw.serialize()
    for at in range((page - 1) * 4096, page * 4096):
        for bit in range(8 if database[at] else 0):
            data = bytearray(database)
            data[at] ^= 1 << bit
            with contextlib.closing(sqlite3.connect(":memory:")) as raw:
                raw.deserialize(data)
                found = rows.select(raw, 2, 1, 8, EPOCHS, MANY)
                outlined = rows.outline(raw, 2, 1, 8)
            assert len(found.events) == 8
            assert all(told in (None, event) for told, event in zip(found.events, EVENTS, strict=True))
            assert found.events[3:] == [None] * 5
            assert {each.seq for each in outlined} <= {1, 2, 3}
