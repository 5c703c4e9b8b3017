"""relay_tornado/storage/connection.py: the thread of a connection, and what it says of errors."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay_tornado import low_memory
from relay_tornado.errors import StartupError
from relay_tornado.ops.opening import open_file
from relay_tornado.settings import Settings
from relay_tornado.storage import sqlite_compat
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.database import NAME, Database
from tests.storage.faults import no_threads
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_text_that_is_malformed_is_not_quoted(tmp_path: Path) -> None:
    """Python's own message has all of it, and it may be a record with secrets."""
    connection = await Connection.writer(tmp_path / "file.db")
    try:
        with pytest.raises(sqlite3.DatabaseError) as failure:
            await connection.run(lambda raw: raw.execute("SELECT CAST(x'736563726574ff' AS TEXT)").fetchone())
        assert failure.value.sqlite_errorcode == sqlite3.SQLITE_CORRUPT
        assert "secret" not in str(failure.value)
        assert failure.value.__cause__ is None
        with pytest.raises(sqlite3.OperationalError, match="no such table: absent"):
            await connection.run(lambda raw: raw.execute("SELECT * FROM absent"))
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_a_writer_copies_nothing_unasked(tmp_path: Path) -> None:
    """However long the WAL is that it finds: a copy is made with looks before and after it (storage/transaction.py)."""
    made, left = tmp_path / "made.db", tmp_path / "left.db"
    await (await Connection.writer(made)).close()
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as raw:
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        raw.execute("CREATE TABLE t (a)")
        raw.execute("INSERT INTO t SELECT zeroblob(5000000)")
        for end in ("", "-wal"):
            shutil.copy(f"{made}{end}", f"{left}{end}")
    before = left.read_bytes()
    connection = await Connection.writer(left)
    try:
        assert await connection.run(lambda raw: raw.execute("SELECT length(a) FROM t").fetchone()) == (5000000,)
        assert left.read_bytes() == before
    finally:
        await connection.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("first", [sqlite_compat.JUDGES_JSON, (99, 0, 0)], ids=["as it is", "old"])
async def test_documents_are_held_against_what_json_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[int, int, int]
) -> None:
    """By SQLite or, where that is too old for it, by the relay: NULL may stand where there is no document."""
    monkeypatch.setattr(sqlite_compat, "JUDGES_JSON", first)

    def work(raw: sqlite3.Connection) -> None:
        raw.execute("CREATE TABLE t (document TEXT CHECK (json_valid(document))) STRICT")
        raw.executemany("INSERT INTO t VALUES (?)", [(None,), ('{"a": [1]}',)])
        for text in ("", "{a", "[" * 10**5):
            with pytest.raises(sqlite3.IntegrityError, match="json_valid"):
                raw.execute("INSERT INTO t VALUES (?)", (text,))

    connection = await Connection.writer(tmp_path / "file.db")
    try:
        await connection.run(work)
    finally:
        await connection.close()


def test_a_sqlite_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that which is told, before anything is made."""
    monkeypatch.setattr(sqlite_compat, "LEAST_SQLITE", (99, 1, 2))
    said = r"SQLite [\d.]+ is older than 99\.1\.2: use a Python that comes with a newer one\."
    with pytest.raises(StartupError, match=said):
        asyncio.run(Database.open(Settings(data=tmp_path)))
    with pytest.raises(StartupError, match=said):
        open_file(tmp_path / NAME)
    assert not list(tmp_path.iterdir())


class NoWal(sqlite3.Connection):
    """A file on a file system that has no shared memory: SQLite leaves the mode as it was."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA journal_mode" if sql == "PRAGMA journal_mode = WAL" else sql, *values)


def test_a_file_system_without_wal(tmp_path: Path) -> None:
    """It is that which is told, and no damage."""
    with pytest.raises(StartupError, match="the file system does not support SQLite's WAL"):
        asyncio.run(Database.open(Settings(data=tmp_path), factory=NoWal))


def test_a_schema_that_is_malformed(tmp_path: Path) -> None:
    """SQLite quotes it in its message, which Python can't decode then."""
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as raw:
        raw.execute("CREATE TABLE a (b)")
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = CAST(x'435245415445205441424c452022ff' AS TEXT)")
        raw.commit()
    with pytest.raises(StartupError, match=r"is damaged or no database \(a text in it is malformed\): move"):
        asyncio.run(Database.open(Settings(data=tmp_path)))
    with pytest.raises(StartupError, match=r"can't be read \(a text in it is malformed\)"):
        open_file(tmp_path / NAME)


@pytest.mark.gen_test
async def test_what_a_write_meets_is_not_quoted_either(database: Database) -> None:
    """It fails, and nothing else does."""
    with pytest.raises(sqlite3.OperationalError, match=r"^a text in it is malformed$"):
        await database.write(lambda raw: raw.execute("SELECT CAST(x'736563726574ff' AS TEXT)").fetchone())
    assert database.refusal() is None


@pytest.mark.gen_test
async def test_no_thread_can_be_started(tmp_path: Path) -> None:
    """It is that which is told, with what to do, and nothing stays open: with threads again all is well."""
    settings = Settings(data=tmp_path)
    with no_threads(), pytest.raises(StartupError, match=r"relay.db can't be opened: no thread .*raise the limit"):
        await Database.open(settings)
    await (await Database.open(settings)).close()


@pytest.mark.gen_test
@pytest.mark.parametrize("which", range(4))
async def test_a_thread_that_says_nothing_of_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """There was no memory for that, say: it counts as none, be it for a check or a connection; later there is one."""
    settings = Settings(data=tmp_path)
    begun: list[object] = []
    begin = low_memory.begin_thread

    def begins(work: Callable[[], object]) -> None:
        begun.append(work)
        if len(begun) <= which:
            begin(work)
        else:
            patch.setattr("relay_tornado.storage.halt._LOST", 0.01)

    with monkeypatch.context() as patch:
        patch.setattr("relay_tornado.storage.halt._LOOK", 0.01)
        patch.setattr("relay_tornado.storage.connection._BEGINS", 0.01)
        patch.setattr("relay_tornado.low_memory.begin_thread", begins)
        with pytest.raises(StartupError, match=r"relay.db can't be opened: no thread "):
            await Database.open(settings)
    assert len(begun) == which + 1
    await (await Database.open(settings)).close()


@pytest.mark.gen_test
async def test_a_thread_that_begins_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does not stand still for it; once nobody waits for it any more it ends at once, and opens nothing."""
    may, ended, told = threading.Event(), threading.Event(), threading.Event()
    bootstrap = threading.Thread._bootstrap  # type: ignore[attr-defined]
    begin = low_memory.begin_thread

    def late(thread: threading.Thread) -> None:
        may.wait(20)
        bootstrap(thread)
        ended.set()

    def begins(work: Callable[[], object]) -> None:
        begin(lambda: (work(), told.set()))

    with monkeypatch.context() as patch:
        patch.setattr("relay_tornado.storage.connection._BEGINS", 0.01)
        patch.setattr("threading.Thread._bootstrap", late)
        patch.setattr("relay_tornado.low_memory.begin_thread", begins)
        with pytest.raises(OSError, match="no thread"):
            await Connection.writer(tmp_path / "file.db")
        may.set()
        await until(lambda: ended.is_set() and told.is_set())
        await asyncio.sleep(0)  # the loop takes what it was told
    assert not (tmp_path / "file.db").exists()


@pytest.mark.gen_test
async def test_an_opening_that_is_cancelled(tmp_path: Path) -> None:
    """Nothing stays open: its thread would keep the process from its end."""
    begun, may, made = threading.Event(), threading.Event(), []

    def factory(*what: Any, **how: Any) -> sqlite3.Connection:
        made.append(threading.current_thread())
        begun.set()
        may.wait(20)
        return sqlite3.Connection(*what, **how)

    opening = asyncio.create_task(Connection.writer(tmp_path / "file.db", factory))
    await until(begun.is_set)
    opening.cancel()
    may.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: not made[0].is_alive(), "the end of its thread")


def test_an_opening_that_the_end_of_its_loop_cuts_off(tmp_path: Path) -> None:
    """As by a second Ctrl-C: its thread ends before the loop does, which it tells of its end."""
    begun, made, raw = threading.Event(), [], []

    def factory(*what: Any, **how: Any) -> sqlite3.Connection:
        made.append(threading.current_thread())
        begun.set()
        time.sleep(0.2)  # a slow disk
        raw.append(sqlite3.Connection(*what, **how))
        return raw[0]

    async def main() -> None:
        opening.append(asyncio.create_task(Connection.writer(tmp_path / "file.db", factory)))
        await until(begun.is_set)

    opening: list[asyncio.Task[Connection]] = []
    asyncio.run(main())
    assert opening[0].cancelled()
    assert not made[0].is_alive()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw[0].execute("SELECT 1")


@pytest.mark.gen_test
async def test_one_that_is_abandoned(tmp_path: Path) -> None:
    """Its thread, which would keep the process alive, ends without an `await`."""
    connection = await Connection.writer(tmp_path / "file.db")
    connection.abandon()
    await asyncio.to_thread(connection._thread.join, 60)
    assert not connection._thread.is_alive()
