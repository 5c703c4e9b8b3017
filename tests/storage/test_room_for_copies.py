"""Nothing of the WAL is copied where the disk has no room for it: what is left is for deleting, and it is copied once
there is room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import StartupError
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import KIB, MIB
from relay_tornado.settings import Settings
from relay_tornado.storage import start
from relay_tornado.storage import writer as writers
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.maintenance import Maintenance
from relay_tornado.storage.space import disk_of, writable
from tests.faults.disk import Disk, needs_disk
from tests.log.worlds import fill, make, open_log, read_all
from tests.storage.faults import crash
from tests.waiting import until

SIZE = 50_000
MANY = 200
LEFT = 5 * MIB

room_test = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, with nothing kept for root."""
    needs_disk()
    with Disk(tmp_path, 64 * MIB, "-m", "0") as made:
        yield made.place


@contextlib.contextmanager
def held_back(database: Database) -> Iterator[None]:
    """Another program reads the file meanwhile."""
    uri = f"file:{database.path}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchone()
        yield


async def fill_log(log: SqliteEventLog) -> None:
    for _ in range(0, MANY, 50):
        await fill(log, 50, size=SIZE)


async def crashed(settings: Settings) -> Database:
    """A relay that ended with no word, with nearly everything in its WAL."""
    database, log = await open_log(settings)
    await make(log)
    with held_back(database):
        await fill_log(log)
        await log.close()
        await crash(database)
    return database


def take_all_but(left: int, place: Path) -> Path:
    """Another program fills the disk with this file, up to so many bytes."""
    taken = place / "taken"
    with taken.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk_of(place).free - left)
    return taken


def lengths(database: Database) -> tuple[int, int]:
    """Of the file and its WAL, in bytes."""
    return database.path.stat().st_size, wal_of(database.path).stat().st_size


@room_test
async def test_a_start_takes_no_last_bytes(disk: Path) -> None:
    """The relay runs with a long WAL, says so once, reads and deletes. Once there is room it copies the WAL, and takes
    events again, without a restart."""
    settings = Settings(data=disk / "data")
    database, log = await open_log(settings)
    await make(log, "small", events=3)
    await make(log)
    with held_back(database):
        await fill_log(log)
        await log.close()
        await crash(database)
    taken = take_all_but(LEFT, disk)

    with capture_logs() as logs:
        database, log = await open_log(settings)
        size, wal = lengths(database)
        assert (size < MIB, wal > LEFT) == (True, True)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(Maintenance(database, interval=0.05).run())
            await until(lambda: "nearly full" in database.problem)
            assert len(await read_all(log)) == MANY
            await log.drop("small")
            await until(lambda: database.squeezed)
            assert lengths(database)[0] == size
            assert disk_of(disk).free > LEFT - MIB
            taken.unlink()
            await until(lambda: lengths(database)[0] > MANY * SIZE)
            await until(lambda: database.problem == "")
            assert database.checkpoint_failure == ""
            await fill(log, 1)
            running.cancel()
        await log.close()
        await database.close()
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["checkpoint_failed"]

    database, log = await open_log(settings)
    assert (len(await read_all(log)), database.loss) == (MANY + 1, None)
    await log.close()
    await database.close()


@room_test
async def test_a_wal_that_is_no_longer_held_back(disk: Path) -> None:
    """A relay that runs does not take the last bytes either, and what it leaves at its end is there at the next
    start."""
    settings = Settings(data=disk / "data")
    database, log = await open_log(settings)
    await make(log)
    await database.shrink()
    with held_back(database):
        await fill_log(log)
        taken = take_all_but(LEFT, disk)
    with capture_logs() as logs:
        size, wal = lengths(database)
        assert not await database.shrink()
        assert (lengths(database), disk_of(disk).free > LEFT - MIB) == ((size, wal), True)
        await log.close()
        await database.close()
        assert lengths(database) == (size, wal)
        taken.unlink()
        database, log = await open_log(settings)
        assert lengths(database)[0] > MANY * SIZE
        assert len(await read_all(log)) == MANY
        await log.close()
        await database.close()
    assert [each["event"] for each in logs] == ["checkpoint_failed", "wal_stays"]


@room_test
async def test_a_copy_that_makes_the_file_no_longer(disk: Path) -> None:
    """However little is free, it is made: it needs no room, and the WAL can begin again."""
    settings = Settings(data=disk / "data")
    database, log = await open_log(settings)
    await make(log, events=3)
    await database.shrink()
    await database.write(lambda raw: raw.execute("UPDATE meta SET version = 'x'"))
    take_all_but(64 * KIB, disk)
    assert await database.shrink()
    await log.close()
    await database.close()


@room_test
async def test_a_copy_that_just_fits(disk: Path) -> None:
    """It is made, and more is free behind it."""
    settings = Settings(data=disk / "data")
    database, log = await open_log(settings)
    await make(log)
    await database.shrink()
    with held_back(database):
        await fill_log(log)
        whole = database._overwrite.index.length()
        take_all_but(whole - lengths(database)[0] + 100 * KIB, disk)
        before = disk_of(disk).free
    assert await database.shrink()
    assert (lengths(database), disk_of(disk).free > before) == ((whole, 0), True)
    await log.close()
    await database.close()


def test_what_ext4_keeps_for_itself(tmp_path: Path) -> None:
    """Not even root gets it: what counts as writable can be written."""
    needs_disk()
    with Disk(tmp_path, 64 * MIB, "-m", "0") as disk:
        found = os.statvfs(disk.place)
        assert found.f_bfree > found.f_bavail
        assert writable(disk.place) == disk_of(disk.place).free
    (tmp_path / "other").mkdir()
    with Disk(tmp_path / "other", 256 * MIB, "-m", "20") as disk:
        assert writable(disk.place) > disk_of(disk.place).free
        with (disk.place / "taken").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, writable(disk.place) - MIB)


def test_btrfs_keeps_nothing_for_root(tmp_path: Path) -> None:
    """What can't be had there as room for content is for its own structures."""
    needs_disk("btrfs")
    with Disk(tmp_path, 128 * MIB, kind="btrfs") as disk:
        found = os.statvfs(disk.place)
        assert found.f_bfree - found.f_bavail > 8 * MIB // found.f_frsize
        assert writable(disk.place) == disk_of(disk.place).free


@room_test
@pytest.mark.parametrize("root", [True, False], ids=["root", "another user"])
async def test_what_a_file_system_keeps_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool) -> None:
    """A relay that runs as root copies into it: that gives the WAL's bytes back."""
    needs_disk()
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    with Disk(tmp_path, 256 * MIB, "-m", "20") as disk, capture_logs():
        settings = Settings(data=disk.place / "data")
        database, log = await open_log(settings)
        await make(log)
        await database.shrink()
        with held_back(database):
            await fill_log(log)
            take_all_but(0, disk.place)
        assert await database.shrink() is root
        assert (lengths(database)[1] == 0, len(await read_all(log))) == (root, MANY)
        await log.close()
        await database.close()


@room_test
async def test_a_start_that_ends_before_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not copy the WAL either, unchecked, as the last connection is closed."""
    settings = Settings(data=tmp_path / "data")
    database = await crashed(settings)
    size, wal = lengths(database)

    async def stopped(*_: object) -> bool:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(writers.Writer, "copy", stopped)
        patch.setattr(writers.Writer, "_finish", lambda self: self._connection.close())
        with pytest.raises(asyncio.CancelledError):
            await Database.open(settings)
    assert (lengths(database)[0], lengths(database)[1] >= wal) == (size, True)


@room_test
@pytest.mark.parametrize("room", [True, False])
async def test_a_start_that_is_refused(disk: Path, monkeypatch: pytest.MonkeyPatch, room: bool) -> None:
    """As one without room for the copy before a migration: it takes no last bytes either, however often it is tried.
    Where there is room, relay.db is whole without its WAL, as behind each end."""
    settings = Settings(data=disk / "data")
    database = await crashed(settings)
    if not room:
        take_all_but(LEFT, disk)
    size, wal = lengths(database)

    def refuse(*_: object) -> None:
        raise StartupError("no copy could be made")

    with monkeypatch.context() as patch:
        patch.setattr(start, "prepare", refuse)
        for _ in range(2):
            with pytest.raises(StartupError, match="no copy"):
                await Database.open(settings)
    assert wal_of(database.path).exists() is not room
    if not room:
        assert (lengths(database), disk_of(disk).free > LEFT - MIB) == ((size, wal), True)


@room_test
@pytest.mark.parametrize(("wal", "left", "squeezed"), [(10, 50, False), (10, 5, True), (70, 200, True)])
async def test_when_deleting_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch, wal: int, left: int, squeezed: bool
) -> None:
    """While the WAL can't be emptied: if it has a quarter of the reserve, or more than is left of it. In MiB."""
    space = database.space
    monkeypatch.setattr(space, "low", lambda *_: True)
    space.least, space.wal, space.free = 256 * MIB, wal * MIB, left * MIB
    assert not database.squeezed
    database._writer.held_back = True
    assert database.squeezed is squeezed
