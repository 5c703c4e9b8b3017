"""The event log on SQLite on a disk that is full, or nearly so."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest

from relay_tornado.errors import NoSpace
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Event, Result, Retention
from relay_tornado.storage.checkpoints import Checkpoints
from relay_tornado.storage.space import Space
from tests.log.worlds import SqliteWorld, event, make, settled
from tests.storage.faults import Faults, once
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_a_full_disk_by_sqlite(faulty: SqliteWorld, faults: Faults) -> None:
    """NoSpace for all of the batch, and nothing of it is stored."""
    await make(faulty.log)
    faults.before = once("COMMIT", sqlite3.SQLITE_FULL)
    results = await asyncio.gather(*(faulty.log.append("b", event()) for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {NoSpace}
    await settled(faulty)
    assert (await faulty.log.append("b", event())).seq == 1


@log_test
async def test_low_space(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the reserve appends are refused before they queue, and /readyz says so; trimming goes on; it comes back."""
    await make(disk.log, events=10)
    monkeypatch.setattr(Space, "low", lambda self, *sizes: True)
    future = asyncio.ensure_future(disk.log.append("b", event()))
    assert future.done()
    with pytest.raises(NoSpace):
        await future
    assert disk.database.problem
    assert "disk" in disk.database.problem
    assert await disk.log.trim("b", Retention(None, 5, None), None) == 5
    monkeypatch.undo()
    assert not disk.database.problem
    assert (await disk.log.append("b", event())).seq == 11


def _full(space: Space, waiting: int) -> None:
    """A disk that has nothing left; of a few KiB, the WAL takes a good part."""
    space._low, space.free, space.least = True, 0, 1 << 14
    space.wal = space._wal.stat().st_size


@log_test
async def test_low_space_that_a_reader_holds(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a program beside the relay keeps the WAL from being emptied, whatever is deleted makes it longer: nothing
    is, neither by retention nor of a log that was dropped, and what can't wait is written. Then it goes on."""
    monkeypatch.setattr("relay_tornado.log.trimming._AGAIN", 0.01)
    await make(disk.log, events=600)
    await disk.log.append("b", event(dedupe=b"d", dedupe_window=0.001))
    await make(disk.log, "c", events=600)
    dropped = disk.log._logs["c"].key
    path = disk.database.path

    def rows_of_dropped() -> Any:
        with contextlib.closing(sqlite3.connect(path)) as raw:
            return raw.execute("SELECT count(*) FROM event WHERE log = ?", (dropped,)).fetchone()[0]

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM log").fetchone() == (2,)
        assert await disk.log.trim("b", Retention(None, 500, None), None) == 101
        monkeypatch.setattr(Space, "_look", _full)
        disk.database.space._next_look = 0
        assert "disk" in disk.database.problem
        assert not await disk.database.shrink()
        before = disk.database.commits
        assert await disk.log.trim("b", Retention(None, 100, None), None) == 0
        await disk.log.forget_repeats("b")
        assert disk.database.commits == before
        await disk.log.drop("c")
        assert disk.database.commits == before + 1
        await asyncio.sleep(0.05)
        assert disk.database.commits == before + 1
        assert rows_of_dropped() == 600
        reader.execute("COMMIT")
    assert await disk.database.shrink()
    assert await disk.log.trim("b", Retention(None, 100, None), None) == 400
    await until(lambda: not disk.log._trimming._purges)
    assert rows_of_dropped() == 0


@log_test
async def test_events_that_wait_take_room(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted and is not written yet is not free for the next event."""
    await make(disk.log)
    monkeypatch.setattr(Space, "low", lambda self, coming=0, waiting=0: waiting > 0)
    first, second = disk.log.append("b", event()), disk.log.append("b", event())
    with pytest.raises(NoSpace):
        await second
    assert (await first).seq == 1


LARGE = 400_000
HELD = Event(1, "zzzzzzzzzzzz", 1000.0, "i", "POST", b"", b"", b"", bytes(LARGE), "::1")
ANSWER = Result(status_code=200, status="sent", headers={}, body=bytes(LARGE), duration_ms=5, retries=0, at=9.5)


@log_test
async def test_whatever_is_stored_takes_room(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As events do, so do those of an import, and clients' answers: a disk that lacks it is not filled with them."""
    await make(disk.log)
    results = SqliteResults(disk.database, disk.settings)
    with monkeypatch.context() as patch:
        patch.setattr(Space, "low", lambda self, coming=0, waiting=0: coming + waiting > LARGE // 2)
        with pytest.raises(NoSpace):
            await disk.log.import_events("b", [HELD], {})
        await disk.log.append("b", event())
        with pytest.raises(NoSpace):
            await results.record("b", 1, 0, ANSWER)
    await results.record("b", 1, 0, ANSWER)
    await results.close()


@log_test
async def test_whatever_is_stored_is_copied_soon(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import and clients' answers count by their bytes: many large ones make no long WAL, whose copy takes long."""
    counted: list[int] = []
    committed = Checkpoints.committed
    monkeypatch.setattr(
        Checkpoints, "committed", lambda self, pages, logs=(): (counted.append(pages), committed(self, pages, logs))
    )
    await make(disk.log)
    results = SqliteResults(disk.database, disk.settings)
    for store in (disk.log.import_events("b", [HELD], {}), results.record("b", 1, 0, ANSWER)):
        counted.clear()
        await store
        assert sum(counted) > LARGE // 4096
    await results.close()
