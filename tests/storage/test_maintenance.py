"""Free pages go back to the disk in quiet times; a disk that fills is warned of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tornado.ioloop import IOLoop

from relay_tornado.errors import NoSpace, Unavailable
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import KIB, MIB, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.maintenance import QUIET, STEP, Maintenance, give_back
from relay_tornado.storage.space import Space, free_pages
from tests.log.worlds import fill, make, read_all
from tests.storage.faults import Faults, always
from tests.waiting import until

storage_test = pytest.mark.gen_test(timeout=60)

LARGE = 16 * KIB
Disk = namedtuple("Disk", "f_bavail f_frsize f_blocks f_files", defaults=(0,))


@pytest.fixture
def log(io_loop: IOLoop, database: Database, settings: Settings) -> Iterator[SqliteEventLog]:
    """A log with the bucket `b`, in the file of `database`."""

    async def open_it() -> SqliteEventLog:
        made = await SqliteEventLog.open(database, settings)
        await make(made)
        return made

    made = io_loop.run_sync(open_it)
    yield made
    io_loop.run_sync(made.close)


@contextlib.asynccontextmanager
async def running(maintenance: Maintenance) -> AsyncIterator[None]:
    """Maintenance runs meanwhile."""
    task = asyncio.create_task(maintenance.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def free(database: Database) -> int:
    """Bytes of the file's free pages."""
    return (await database.read(free_pages))[0]


@storage_test
async def test_a_step_frees_many_pages(database: Database, log: SqliteEventLog) -> None:
    """All of a step's pages in one transaction, where one statement alone would free one."""
    await fill(log, 300, size=LARGE)
    await log.trim("b", Retention(max_events=1), None)
    before = await free(database)
    await database.write(give_back)
    assert before - await free(database) == STEP * 4096


@storage_test
async def test_space_goes_back_when_it_is_quiet(database: Database, log: SqliteEventLog) -> None:
    """After retention the file becomes small again, by itself, and every event that stays is there."""
    await fill(log, 400, size=LARGE)
    await log.trim("b", Retention(max_events=3), None)
    _, size = await database.read(free_pages)

    async def given_back() -> bool:
        return 2 * await free(database) <= 2 * MIB

    async with running(Maintenance(database, interval=0.05, much=2 * MIB)):
        await until(given_back)
    _, smaller = await database.read(free_pages)
    assert smaller < size / 2
    assert len(await read_all(log, after=397)) == 3
    assert await database.read(lambda raw: raw.execute("PRAGMA integrity_check").fetchone()) == ("ok",)


@storage_test
async def test_a_busy_relay_keeps_its_pages(database: Database, log: SqliteEventLog) -> None:
    """While events come in nothing is given back: the file would only grow again."""
    await fill(log, 400, size=LARGE)
    await log.trim("b", Retention(max_events=3), None)
    before = await free(database)
    # Two seconds by its clock from look to look, with more commits than that allows.
    ahead = _Ahead(database, commits=int(3 * QUIET))
    maintenance = Maintenance(ahead, itertools.count(1.0).__next__, interval=0.01, much=1 * MIB)  # type: ignore[arg-type]
    looks = []
    original = maintenance._foretell
    maintenance._foretell = lambda free: (looks.append(free), original(free))[1]  # type: ignore[func-returns-value,method-assign]
    async with running(maintenance):
        await until(lambda: len(looks) >= 5)
    assert await free(database) == before


@storage_test
@pytest.mark.parametrize(("every", "whole"), [(4, True), (1, False)], ids=["quiet", "busy"])
async def test_it_goes_on_beside_single_commits(
    database: Database, log: SqliteEventLog, every: int, whole: bool
) -> None:
    """At five commits a second it is quiet, though one of them is made beside a step; at twenty it is not."""
    await fill(log, 800, size=LARGE)
    await log.trim("b", Retention(max_events=3), None)
    clock = itertools.count(0.05, 0.05).__next__
    maintenance = Maintenance(_Beside(database, every), clock, interval=3600.0, much=2 * MIB)  # type: ignore[arg-type]
    with capture_logs() as logs:
        async with running(maintenance):
            await until(lambda: any(each["event"] == "space_given_back" for each in logs))
    assert (2 * await free(database) <= 2 * MIB) is whole


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


@storage_test
@pytest.mark.parametrize(("rate", "free", "told"), [(1000, 0, 3), (100, 0, 0), (1000, 1000, 0)])
async def test_an_end_of_the_space_is_warned_of(
    database: Database, monkeypatch: pytest.MonkeyPatch, rate: int, free: int, told: int
) -> None:
    """Days before, once a day, with how long it lasts; free pages of the file count as space. The rates are of MiB an
    hour: of the disk, and of the file's free pages."""
    hour = 0
    maintenance = Maintenance(database, lambda: hour * 3600.0)
    with capture_logs() as logs:
        for hour in range(60):
            room = (100_000 - rate * hour) * MIB
            monkeypatch.setattr(Space, "room", property(lambda self, room=room: room))
            maintenance._foretell(free * hour * MIB)
    lines = [line for line in logs if line["event"] == "space_ends_soon"]
    # From the first hour on 99 hours are left: it is told at once, and again a day later, and so on.
    assert len(lines) == told
    assert [line["days"] for line in lines[:1]] == [pytest.approx(4.1, abs=0.1)] * bool(told)


@storage_test
async def test_a_full_disk_gets_its_pages_back_at_once(
    database: Database, log: SqliteEventLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where senders are refused for want of space, what retention freed goes back to the disk, little as it is, and
    events are taken again with no restart."""

    def held() -> int:
        return sum(file.stat().st_size for file in settings.data.glob("relay.db*"))

    def statvfs(path: Path) -> Any:
        return Disk((limit - held()) // 4096, 4096, limit // 4096)

    await fill(log, 400, size=LARGE)
    await database.shrink()  # a WAL, which may be of any size by now, would be room enough
    limit = held() * 15 // 14  # a disk that is full but for half of its reserve, which is an eighth of it
    monkeypatch.setattr("relay_tornado.storage.space.os.statvfs", statvfs)
    with capture_logs() as logs:
        await until(lambda: database.problem)
        await log.trim("b", Retention(max_events=3), None)
        assert database.problem
        async with running(Maintenance(database, interval=0.05)):
            await until(lambda: not database.problem)
            await fill(log, 1, size=LARGE)
            await until(lambda: any(each["event"] == "space_given_back" and each.get("urgent") for each in logs))
    assert (await log.bounds("b")).head == 401
    assert database.space.room > 0


@storage_test
async def test_a_wal_that_a_reader_holds_back(
    database: Database, log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a program beside the relay reads, nobody waits for it who writes, no page is given back, which would only
    make the WAL longer, and the log says once what holds the space. Then all of it is free by itself."""
    monkeypatch.setattr("relay_tornado.storage.maintenance._URGENT", 0.01)
    for module in ("connection", "transaction"):
        monkeypatch.setattr(f"relay_tornado.storage.{module}.BUSY_TIMEOUT", 600_000)
    await fill(log, 400, size=LARGE)
    maintenance = Maintenance(database)
    with capture_logs() as logs, contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT head FROM log").fetchall() == [(400,)]
        await log.trim("b", Retention(max_events=3), None)
        monkeypatch.setattr("relay_tornado.storage.space.os.statvfs", lambda path: Disk(0, 4096, 1 << 31))
        await until(lambda: database.problem)
        before = await free(database)
        async with running(maintenance):
            await until(lambda: maintenance._held > 7)
            await database.write(lambda raw: None)
            assert await free(database) == before > 0
            reader.execute("COMMIT")
            await until(lambda: maintenance._held == 0)
            await until(lambda: wal_of(database.path).stat().st_size == 0)
    (said,) = (each for each in logs if each["event"] == "wal_held_back")
    assert said["bytes"] > 0


@storage_test
async def test_a_wal_that_can_not_be_copied_is_blamed_on_no_reader(
    database: Database, log: SqliteEventLog, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the log says that, and blames no reader."""
    monkeypatch.setattr("relay_tornado.storage.maintenance._URGENT", 0.01)
    monkeypatch.setattr("relay_tornado.storage.space.os.statvfs", lambda path: Disk(0, 4096, 1 << 31))
    await until(lambda: database.problem)
    faults.before = always("PRAGMA wal_checkpoint", sqlite3.SQLITE_FULL)
    with capture_logs() as logs:
        async with running(Maintenance(database)):
            await until(lambda: sum(each.startswith("PRAGMA wal_checkpoint") for each in faults.statements) > 8)
    assert [each["event"] for each in logs if each["log_level"] != "info"] == ["checkpoint_failed"]


@storage_test
async def test_a_file_that_gives_no_pages_back_is_let_be(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One made without auto_vacuum, as by SQLite's `.recover`, is tried once a look; nothing counts as given."""
    await database.close()
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as raw:
        raw.executescript("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;")
    database = await Database.open(settings)
    await database.write(lambda raw: raw.execute("CREATE TABLE filler AS SELECT zeroblob(100000)"))
    await database.write(lambda raw: raw.execute("DROP TABLE filler"))
    assert await free(database) > 0
    monkeypatch.setattr(database.space, "low", lambda *_: True)
    before = database.commits
    with capture_logs() as logs:
        await Maintenance(database)._make_room()
    assert database.commits == before + 1
    assert [entry for entry in logs if entry["event"] == "space_given_back"] == []
    await database.close()


@storage_test
async def test_what_keeps_it_from_its_work_is_said_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk has it look each second; once there was room it is said anew. Whatever it is, the next look comes."""
    full, broken = NoSpace("full"), MemoryError()
    problems = iter([*[full] * 3, *[broken] * 3, *[None] * 2, *[broken] * 3])
    looks = []

    async def read(job: Any, what: str = "") -> Any:
        looks.append(problem := next(problems, None))
        if problem is not None:
            raise problem
        return 0, 1 << 20

    with monkeypatch.context() as failing, capture_logs() as logged:
        failing.setattr(database, "read", read)
        async with running(Maintenance(database, interval=0.001)):
            await until(lambda: len(looks) > 11)
    said = [line["reason"] for line in logged if line["event"] == "upkeep_waits"]
    assert said == ["full", "MemoryError()", "MemoryError()"]


@storage_test
@pytest.mark.parametrize("name", ["relay.db", "relay.db-wal"])
async def test_a_file_that_is_written_over_while_nothing_is_written(
    database: Database, log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is noticed without a commit or a checkpoint, and said once."""
    await fill(log, 3, size=LARGE)
    look, looks = database.look, []

    async def counted() -> None:
        looks.append(database.problem)
        await look()

    monkeypatch.setattr(database, "look", counted)
    with capture_logs() as logs:
        async with running(Maintenance(database, interval=0.02)):
            os.truncate(database.path.with_name(name), 0)
            await until(lambda: sum(map(bool, looks)) > 2)
    with pytest.raises(Unavailable):
        await fill(log, 1)
    assert [entry["reason"] for entry in logs if entry["event"] == "upkeep_waits"] == [database.problem]
    assert database.problem.startswith(f"{name} was written over while the relay ran")


@storage_test
async def test_a_look_while_the_file_is_being_reopened(database: Database, log: SqliteEventLog) -> None:
    """Proves nothing, and disturbs nothing."""
    await database._writer._connection.close()
    await database.look()
    with pytest.raises(Unavailable):
        await fill(log, 1)
    await until(lambda: database.problem == "")
    await fill(log, 1)
    assert database.problem == ""
