"""The end of a database: what may take long is broken off, or left for the next start."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.settings import Settings
from relay_tornado.storage import writer
from relay_tornado.storage.connection import Connection, uri
from relay_tornado.storage.database import NAME, Database
from tests.storage.jobs import ENDLESS, count_for_ever, names, put

storage_test = pytest.mark.gen_test


class SlowCopy(sqlite3.Connection):
    """If it is `slow`, a last checkpoint takes minutes."""

    slow = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        last = self.slow and sql == "PRAGMA wal_checkpoint(TRUNCATE)"
        return super().execute(ENDLESS if last else sql, *args)


@storage_test
async def test_an_interrupt_breaks_off_what_runs_and_what_waits(tmp_path: Path) -> None:
    """A transaction is rolled back, and the connection can be closed."""

    def insert_and_count(raw: sqlite3.Connection) -> None:
        with raw:
            raw.execute("BEGIN")
            raw.execute("INSERT INTO t VALUES (2)")
            count_for_ever(raw)

    connection = await Connection.writer(tmp_path / "file.db")
    await connection.run(lambda raw: raw.execute("CREATE TABLE t AS SELECT 1 AS a"))
    works = [asyncio.ensure_future(connection.run(each)) for each in (insert_and_count, count_for_ever)]
    await asyncio.sleep(0)
    connection.interrupt()
    connection.interrupt()
    await connection.close()
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        assert isinstance(outcome, sqlite3.OperationalError)
    with contextlib.closing(sqlite3.connect(tmp_path / "file.db")) as raw:
        assert raw.execute("SELECT a FROM t").fetchall() == [(1,)]


@storage_test
async def test_a_close_waits_for_no_read(settings: Settings) -> None:
    """Nobody waits for what it finds any more, and its snapshot would keep the WAL from being emptied."""
    database = await Database.open(settings)
    await database.write(put("a"))
    reading = asyncio.ensure_future(database.read(count_for_ever))
    await asyncio.sleep(0)
    await database.close()
    with pytest.raises(sqlite3.OperationalError):
        await reading
    assert (settings.data / "relay.db-wal").stat().st_size == 0


@storage_test
async def test_a_last_checkpoint_that_takes_long_is_broken_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders are refused meanwhile. The next start has all that was committed, and makes the checkpoint."""
    monkeypatch.setattr(writer, "_LAST", 0.05)
    database = await Database.open(settings, factory=SlowCopy)
    await database.write(put("a"))
    monkeypatch.setattr(SlowCopy, "slow", True)
    with capture_logs() as said:
        await database.close()
    assert [each["event"] for each in said] == ["wal_stays"]
    assert (settings.data / "relay.db-wal").stat().st_size > 0
    database = await Database.open(settings)
    assert database.loss is None
    assert await database.read(names) == ["a"]
    await database.close()
    assert (settings.data / "relay.db-wal").stat().st_size == 0


@storage_test
async def test_a_close_says_that_another_program_keeps_the_wal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup that is being made: the next start needs both files."""
    monkeypatch.setattr(writer, "_LAST_WAIT", 10)
    database = await Database.open(settings)
    await database.write(put("a"))
    with contextlib.closing(sqlite3.connect(uri(settings.data / NAME, "ro"), uri=True)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM meta").fetchall()
        await database.write(put("b"))
        with capture_logs() as said:
            await database.close()
    assert [each["event"] for each in said] == ["wal_stays"]
    database = await Database.open(settings)
    assert await database.read(names) == ["a", "b"]
    await database.close()
