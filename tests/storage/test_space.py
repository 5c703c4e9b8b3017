"""Space runs low well before the disk is full; and what happens on a disk that is."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NoSpace, StartupError
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import GIB, MIB, NewEvent, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage import migrate
from relay_tornado.storage.database import Database
from relay_tornado.storage.space import Space
from tests.log.worlds import read_all
from tests.needs import needs_root
from tests.storage.jobs import put
from tests.waiting import until

Disk = namedtuple("Disk", "f_bavail f_frsize f_blocks")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("free", "whole", "wal", "low"),
    [
        (257 * MIB, 100 * GIB, 0, False),
        (255 * MIB, 100 * GIB, 0, True),
        (300 * MIB, 100 * GIB, 50 * MIB, True),  # a checkpoint will need what the WAL holds once more
        (13 * MIB, 100 * MIB, 0, False),  # a small disk: an eighth of it
        (12 * MIB, 100 * MIB, 0, True),
        (40 * MIB, 100 * MIB, 30 * MIB, True),
    ],
)
def test_when_space_is_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, whole: int, wal: int, low: bool
) -> None:
    """Less free than the reserve, or than an eighth of a small file system, what lies in the WAL taken off."""
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(free // 4096, 4096, whole // 4096))
    with (tmp_path / "relay.db-wal").open("wb") as file:
        file.truncate(wal)
    assert Space(tmp_path / "relay.db", 256 * MIB).low() is low


def test_the_disk_is_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking is cheap, a change is seen within a second, and said once in the log, both ways."""
    looks: list[int] = []
    free = [GIB]
    clock = Clock()

    def statvfs(path: Path) -> Disk:
        looks.append(free[0])
        return Disk(free[0] // 4096, 4096, 100 * GIB // 4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    space = Space(tmp_path / "relay.db", 256 * MIB, clock)
    with capture_logs() as logs:
        assert not any(space.low() for _ in range(100))
        free[0] = MIB
        assert not space.low()
        for expected in (True, True, False, False):
            clock.now += 1.0
            free[0] = MIB if expected else GIB
            assert [space.low() for _ in range(3)] == [expected] * 3
    assert len(looks) == 5
    assert [entry["event"] for entry in logs] == ["disk_space_low", "disk_space_back"]


def test_space_is_back_once_there_is_clearly_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end and begin with each event, where as much leaves as comes in."""
    free = [0]
    clock = Clock()
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(free[0] * MIB // 4096, 4096, 100 * GIB // 4096))
    space = Space(tmp_path / "relay.db", 256 * MIB, clock)
    found = []
    for free[0] in (257, 255, 257, 287, 289, 257):
        found.append(space.low())
        clock.now += 2.0
    assert found == [False, True, True, True, False, False]


def test_a_disk_that_does_not_answer_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the look itself refuses nobody: the commit will tell."""

    def fails(path: Path) -> Disk:
        raise OSError(5, "broken")

    monkeypatch.setattr(os, "statvfs", fails)
    assert not Space(tmp_path / "relay.db", 256 * MIB).low()


def test_a_look_that_there_is_no_memory_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python says of a path that it can't convert that it is none."""

    def statvfs(path: Path) -> Disk:
        raise TypeError("statvfs: path should be string, bytes, os.PathLike or integer, not PosixPath")

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(MemoryError):
        Space(tmp_path / "relay.db", 0).low()


def test_what_comes_between_two_looks_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst within one second does not run past the reserve: what was taken in counts, written or not."""
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(266 * MIB // 4096, 4096, 100 * GIB // 4096))
    space = Space(tmp_path / "relay.db", 256 * MIB, Clock())
    with capture_logs():
        waiting = 0
        while not space.low(MIB, waiting):
            waiting += MIB
        assert 4 * MIB <= waiting <= 5 * MIB  # ten are free, and each is written twice
        assert space.low(MIB, 0)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MB."""
    needs_root("it mounts a small file system")
    with tempfile.TemporaryDirectory() as name:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", name], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here: run it where root may mount a tmpfs")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def test_a_copy_that_has_no_room_is_not_begun(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a migration, nothing is left behind, and the file is as it was. Else a start that the service manager
    repeats would fill the disk again and again."""
    monkeypatch.setattr(migrate, "PAGES", 64)
    with closing(sqlite3.connect(small_disk / "relay.db", isolation_level=None)) as raw:
        raw.execute("CREATE TABLE filler (x)")
        raw.execute("INSERT INTO filler VALUES (zeroblob(?))", (14 * MIB,))
        told: list[tuple[int, int]] = []
        with pytest.raises(StartupError, match="needs room"):
            migrate.backup(raw, small_disk / "copy.db", advance=lambda *pages: told.append(pages))
        assert (told, [path.name for path in small_disk.iterdir()]) == ([], ["relay.db"])
        assert raw.execute("SELECT length(x) FROM filler").fetchone() == (14 * MIB,)


def test_a_copy_that_can_not_have_its_name(tmp_path: Path) -> None:
    """Nothing is left behind either where only its last step fails."""
    (tmp_path / "copy.db").mkdir()
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as raw:
        raw.execute("CREATE TABLE filler (x)")
        with pytest.raises(StartupError, match=r"no copy could be made .*Is a directory"):
            migrate.backup(raw, tmp_path / "copy.db")
    assert {path.name for path in tmp_path.iterdir()} == {"relay.db", "copy.db"}


@pytest.mark.gen_test
async def test_a_full_disk(small_disk: Path) -> None:
    """For real: senders are told NoSpace, reads go on, what was acknowledged is there, and freeing space ends it."""
    settings = Settings(data=small_disk / "data", reserve=0, page_cache=0, tail=0)
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    await log.create("b", "aaaaaaaaaaaa")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (16 * MIB))
    acknowledged = 0
    refused: list[BaseException] = []
    with capture_logs():
        while not refused:
            results = await asyncio.gather(*(log.append("b", event()) for _ in range(400)), return_exceptions=True)
            refused = [result for result in results if isinstance(result, BaseException)]
            assert {type(error) for error in refused} <= {NoSpace}
            acknowledged += len(results) - len(refused)
        await until(lambda: database.problem)
        with pytest.raises(NoSpace):
            await log.append("b", event())
        assert len(await log.read("b", acknowledged - 1, 10, MIB)) == 1
        filler.unlink()
        await until(lambda: not database.problem)
    assert (await log.append("b", event())).seq == acknowledged + 1
    assert await log.trim("b", Retention(None, 10, None), None) == acknowledged - 9
    await log.close()
    await database.close()
    database = await Database.open(settings)
    assert database.loss is None
    log = await SqliteEventLog.open(database, settings)
    assert len(await read_all(log, after=acknowledged - 9)) == 10
    await log.close()
    await database.close()


@pytest.mark.gen_test
async def test_a_small_disk_is_never_filled(small_disk: Path) -> None:
    """With the reserve in force appends stop while there is room to delete and to checkpoint."""
    settings = Settings(data=small_disk / "data")
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    await log.create("b", "aaaaaaaaaaaa")
    stored = 0
    with capture_logs():
        with suppress(NoSpace):
            while os.statvfs(small_disk).f_bavail > 0:
                await log.append("b", event())
                stored += 1
        assert stored > 100
        assert os.statvfs(small_disk).f_bavail > 0
        assert await log.trim("b", Retention(None, 0, None), None) == stored
    await log.close()
    await database.close()


def event() -> NewEvent:
    return NewEvent("i", "POST", b"", b"", b"", b"x" * 5000, "::1")


@pytest.mark.gen_test
async def test_what_is_copied_of_the_wal_takes_no_more_room(settings: Settings) -> None:
    """The WAL stays as long as it was; what comes next takes the place of that."""
    database = await Database.open(settings)
    await database.write(put("a"))
    database.space._next_look = 0.0
    assert 0 < database.space.pending <= database.space.wal
    await database._writer._checkpoint("PASSIVE")
    database.space._next_look = 0.0
    assert database.space.pending == 0 < database.space.wal
    await database.close()
