"""Free pages go back to the disk in quiet times; a disk that fills is warned of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NoSpace, Unavailable
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import KIB, MIB, NewEvent, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.maintenance import QUIET, STEP, Maintenance, give_back
from relay_tornado.storage.space import Space, free_pages
from tests.waiting import until

Disk = namedtuple("Disk", "f_bavail f_frsize f_blocks")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Database, SqliteEventLog]]:
    database = await Database.open(Settings(data=folder))
    try:
        log = await SqliteEventLog.open(database, Settings(data=folder))
        try:
            await log.create("b", "e" * 12)
            yield database, log
        finally:
            await log.close()
    finally:
        await database.close()


async def fill(log: SqliteEventLog, count: int, size: int = 16 * KIB) -> None:
    await asyncio.gather(
        *(log.append("b", NewEvent("i", "POST", b"", b"", b"", bytes(size), "")) for _ in range(count))
    )


def test_a_step_frees_many_pages(tmp_path: Path) -> None:
    """All of a step's pages in one transaction, where one statement alone would free one."""

    async def run() -> tuple[int, int]:
        async with opened(tmp_path) as (database, log):
            await fill(log, 300)
            await log.trim("b", Retention(max_events=1), None)
            before, _ = await database.read(free_pages)
            await database.write(give_back)
            after, _ = await database.read(free_pages)
            return before, after

    before, after = asyncio.run(run())
    assert before - after == STEP * 4096


def test_space_goes_back_when_it_is_quiet(tmp_path: Path) -> None:
    """After retention the file becomes small again, by itself, and every event that stays is there."""

    async def run() -> tuple[int, int, int]:
        async with opened(tmp_path) as (database, log):
            await fill(log, 400)
            await log.trim("b", Retention(max_events=3), None)
            _, size = await database.read(free_pages)
            maintenance = Maintenance(database, interval=0.05, much=2 * MIB)
            task = asyncio.create_task(maintenance.run())

            async def given_back() -> bool:
                return 2 * (await database.read(free_pages))[0] <= 2 * MIB

            await until(given_back)
            task.cancel()
            await asyncio.wait([task])
            _, smaller = await database.read(free_pages)
            return size, smaller, len(await log.read("b", 397, 10, 1 << 30))

    size, smaller, events = asyncio.run(asyncio.wait_for(run(), 60))
    assert smaller < size / 2
    assert events == 3
    with sqlite3.connect(tmp_path / "relay.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def test_a_busy_relay_keeps_its_pages(tmp_path: Path) -> None:
    """While events come in nothing is given back: the file would only grow again."""

    async def run() -> tuple[int, int]:
        async with opened(tmp_path) as (database, log):
            await fill(log, 400)
            await log.trim("b", Retention(max_events=3), None)
            before, _ = await database.read(free_pages)
            maintenance = Maintenance(database, itertools.count(1.0).__next__, interval=0.01, much=1 * MIB)
            looks = []
            original = maintenance._foretell
            maintenance._foretell = lambda free: (looks.append(free), original(free))[1]  # type: ignore[func-returns-value,method-assign]
            # Two seconds by its clock from look to look, with more commits than that allows.
            for _ in range(int(3 * QUIET) + 3):
                await fill(log, 1, 10)
            maintenance._database = _Ahead(database, commits=int(3 * QUIET))  # type: ignore[assignment]
            task = asyncio.create_task(maintenance.run())
            await until(lambda: len(looks) >= 5)
            task.cancel()
            await asyncio.wait([task])
            return before, (await database.read(free_pages))[0]

    before, after = asyncio.run(asyncio.wait_for(run(), 60))
    assert after == before


@pytest.mark.parametrize(("every", "whole"), [(4, True), (1, False)], ids=["quiet", "busy"])
def test_it_goes_on_beside_single_commits(tmp_path: Path, every: int, whole: bool) -> None:
    """At five commits a second it is quiet, though one of them is made beside a step; at twenty it is not."""

    async def run() -> int:
        async with opened(tmp_path) as (database, log):
            await fill(log, 800)
            await log.trim("b", Retention(max_events=3), None)
            clock = itertools.count(0.05, 0.05).__next__
            maintenance = Maintenance(_Beside(database, every), clock, interval=3600.0, much=2 * MIB)  # type: ignore[arg-type]
            task = asyncio.create_task(maintenance.run())
            with capture_logs() as logs:
                await until(lambda: any(each["event"] == "space_given_back" for each in logs))
            task.cancel()
            await asyncio.wait([task])
            return (await database.read(free_pages))[0]

    left = asyncio.run(asyncio.wait_for(run(), 60))
    assert (2 * left <= 2 * MIB) is whole


class _Beside:
    """A database to which somebody else makes a commit beside every so many."""

    def __init__(self, database: Database, every: int) -> None:
        self._database = database
        self._every = every
        self._writes = 0

    @property
    def commits(self) -> int:
        return self._database.commits + self._writes // self._every

    async def write(self, job: Callable[[sqlite3.Connection], Any]) -> Any:
        self._writes += 1
        return await self._database.write(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class _Ahead:
    """A database to which so many commits are made between any two looks."""

    def __init__(self, database: Database, commits: int) -> None:
        self._database = database
        self._step = commits
        self._more = 0

    @property
    def commits(self) -> int:
        self._more += self._step
        return self._database.commits + self._more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_an_end_of_the_space_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days before, once a day, with how long it lasts; free pages of the file count as space."""

    async def run(rate: int, free: int) -> list[Any]:
        async with opened(tmp_path) as (database, _):
            hour = 0
            maintenance = Maintenance(database, lambda: hour * 3600.0)
            with capture_logs() as logs:
                for hour in range(60):
                    room = 100_000 * MIB - rate * MIB * hour
                    monkeypatch.setattr(Space, "room", property(lambda self, room=room: room))
                    maintenance._foretell(free * hour)
            return [line for line in logs if line["event"] == "space_ends_soon"]

    first, *others = asyncio.run(run(1000, 0))
    # From the first hour on 99 hours are left: it is told at once, and again a day later, and so on.
    assert first["days"] == pytest.approx(4.1, abs=0.1)
    assert len(others) == 2
    assert asyncio.run(run(100, 0)) == []
    assert asyncio.run(run(1000, 1000 * MIB)) == []


def test_a_full_disk_gets_its_pages_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where senders are refused for want of space, what retention freed goes back to the disk, little as it is, and
    events are taken again with no restart."""
    limit = 0

    def statvfs(path: Path) -> Any:
        held = sum(file.stat().st_size for file in tmp_path.glob("relay.db*"))
        return Disk((limit - held) // 4096, 4096, limit // 4096)

    async def run() -> tuple[int, int]:
        nonlocal limit
        async with opened(tmp_path) as (database, log):
            await fill(log, 400)
            await database.shrink()  # a WAL, which may be of any size by now, would be room enough
            # A disk that is full but for half of its reserve, which is an eighth of it.
            limit = sum(file.stat().st_size for file in tmp_path.glob("relay.db*")) * 15 // 14
            monkeypatch.setattr("relay_tornado.storage.space.os.statvfs", statvfs)
            await until(lambda: database.problem)
            await log.trim("b", Retention(max_events=3), None)
            assert database.problem
            task = asyncio.create_task(Maintenance(database, interval=0.05).run())
            await until(lambda: not database.problem)
            await fill(log, 1)
            await until(lambda: any(each["event"] == "space_given_back" and each.get("urgent") for each in logs))
            task.cancel()
            await asyncio.wait([task])
            return (await log.bounds("b")).head, database.space.room

    with capture_logs() as logs:
        head, room = asyncio.run(asyncio.wait_for(run(), 60))
    assert (head, room > 0) == (401, True)


def test_a_wal_that_a_reader_holds_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a program beside the relay reads, nobody waits for it who writes, no page is given back, which would only
    make the WAL longer, and the log says once what holds the space. Then all of it is free by itself."""
    monkeypatch.setattr("relay_tornado.storage.maintenance._URGENT", 0.01)
    for module in ("connection", "transaction"):
        monkeypatch.setattr(f"relay_tornado.storage.{module}.BUSY_TIMEOUT", 600_000)

    def statvfs(path: Path) -> Any:
        return Disk(0, 4096, 1 << 31)

    async def run() -> tuple[int, int]:
        async with opened(tmp_path) as (database, log):
            await fill(log, 400)
            with contextlib.closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as reader:
                reader.execute("BEGIN")
                assert reader.execute("SELECT head FROM log").fetchall() == [(400,)]
                await log.trim("b", Retention(max_events=3), None)
                monkeypatch.setattr("relay_tornado.storage.space.os.statvfs", statvfs)
                await until(lambda: database.problem)
                free, _ = await database.read(free_pages)
                maintenance = Maintenance(database)
                task = asyncio.create_task(maintenance.run())
                await until(lambda: maintenance._held > 7)
                await database.write(lambda raw: None)
                kept, _ = await database.read(free_pages)
                reader.execute("COMMIT")
            await until(lambda: maintenance._held == 0)
            await until(lambda: (tmp_path / "relay.db-wal").stat().st_size == 0)
            task.cancel()
            await asyncio.wait([task])
            return free, kept

    with capture_logs() as logs:
        free, kept = asyncio.run(asyncio.wait_for(run(), 60))
    assert kept == free > 0
    (said,) = (each for each in logs if each["event"] == "wal_held_back")
    assert said["bytes"] > 0


def test_a_file_that_gives_no_pages_back_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One made without auto_vacuum, as by SQLite's `.recover`, is tried once a look; nothing counts as given."""

    async def run() -> int:
        async with opened(tmp_path) as (database, log):
            await fill(log, 100)
        with contextlib.closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as raw:
            raw.executescript("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;")
        database = await Database.open(Settings(data=tmp_path))
        try:
            log = await SqliteEventLog.open(database, Settings(data=tmp_path))
            await log.trim("b", Retention(max_events=3), None)
            assert (await database.read(free_pages))[0] > 0
            monkeypatch.setattr(database.space, "low", lambda *_: True)
            before = database.commits
            await asyncio.wait_for(Maintenance(database)._make_room(), 60)
            await log.close()
            return database.commits - before
        finally:
            await database.close()

    with capture_logs() as logs:
        assert asyncio.run(run()) == 1
    assert [entry for entry in logs if entry["event"] == "space_given_back"] == []


def test_what_keeps_it_from_its_work_is_said_once(tmp_path: Path) -> None:
    """A full disk has it look each second; once there was room it is said anew. Whatever it is, the next look comes."""

    async def run() -> list[str]:
        async with opened(tmp_path) as (database, _):
            full, broken = NoSpace("full"), MemoryError()
            problems = iter([*[full] * 3, *[broken] * 3, *[None] * 2, *[broken] * 3])
            looks = []

            async def read(job: Any, what: str = "") -> Any:
                looks.append(problem := next(problems, None))
                if problem is not None:
                    raise problem
                return 0, 1 << 20

            database.read = read  # type: ignore[method-assign]
            with capture_logs() as logged:
                task = asyncio.create_task(Maintenance(database, interval=0.001).run())
                await until(lambda: len(looks) > 11)
                task.cancel()
                await asyncio.wait([task])
            del database.read
            return [line["reason"] for line in logged if line["event"] == "upkeep_waits"]

    assert asyncio.run(run()) == ["full", "MemoryError()", "MemoryError()"]


@pytest.mark.parametrize("name", ["relay.db", "relay.db-wal"])
def test_a_file_that_is_written_over_while_nothing_is_written(tmp_path: Path, name: str) -> None:
    """It is noticed without a commit or a checkpoint, and said once."""

    async def run() -> tuple[list[str], str]:
        async with opened(tmp_path) as (database, log):
            await fill(log, 3)
            task = asyncio.create_task(Maintenance(database, interval=0.02).run())
            with capture_logs() as logs:
                os.truncate(tmp_path / name, 0)
                await until(lambda: database.problem != "")
                looks = count_looks(database)
                await until(lambda: len(looks) > 2)
                task.cancel()
                await asyncio.wait([task])
                with pytest.raises(Unavailable):
                    await fill(log, 1)
            return [entry["reason"] for entry in logs if entry["event"] == "upkeep_waits"], database.problem

    said, problem = asyncio.run(run())
    assert said == [problem]
    assert problem.startswith(f"{name} was written over while the relay ran")


def count_looks(database: Database) -> list[None]:
    looks: list[None] = []
    look = database.look

    async def counted() -> None:
        looks.append(None)
        await look()

    database.look = counted  # type: ignore[method-assign]
    return looks


def test_a_look_while_the_file_is_being_reopened(tmp_path: Path) -> None:
    """Proves nothing, and disturbs nothing."""

    async def run() -> str:
        async with opened(tmp_path) as (database, log):
            await database._writer._connection.close()
            await database.look()
            with pytest.raises(Unavailable):
                await fill(log, 1)
            await until(lambda: database.problem == "")
            await fill(log, 1)
            return database.problem

    assert asyncio.run(run()) == ""
