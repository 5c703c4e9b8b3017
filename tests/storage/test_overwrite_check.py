"""A file that is written over while it is open: the next checkpoint notices, and takes nothing harmless for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import RelayError, StartupError, Unavailable, Unknown
from relay_tornado.ops import backup
from relay_tornado.settings import Settings
from relay_tornado.storage import overwrite_check
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.maintenance import give_back
from relay_tornado.storage.overwrite_check import OverwriteCheck
from relay_tornado.storage.page_sample import PageSample
from relay_tornado.storage.wal_index import WalIndex
from relay_tornado.storage.witness import NAME, Stamp
from tests.storage.faults import Faults, copy_onto, once
from tests.storage.jobs import commits, names, put
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("quick")
storage_test = pytest.mark.gen_test(timeout=60)

WRITTEN_OVER = "^relay.db was written over while the relay ran"


async def another(folder: Path) -> Path:
    """Another relay's file, with more commits."""
    database = await Database.open(Settings(data=folder))
    for number in range(9):
        await database.write(put(f"other {number}"))
    await database.close()
    return folder / "relay.db"


def make_backup(path: Path, name: str) -> Path:
    return backup.make(path, path.with_name(name), lambda *_: None).path


@storage_test
@pytest.mark.parametrize("harm", ["older copy", "backup", "backup of now", "another relay's", "a text", "nothing"])
async def test_a_file_that_is_written_over(settings: Settings, tmp_path: Path, harm: str) -> None:
    """Nothing is copied into it, and nothing that is written counts; the WAL stays, and the next start says more."""
    path, old = settings.data / "relay.db", tmp_path / "old.db"
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    if harm == "older copy":
        copy_onto(old, path)
    elif harm == "backup":
        old = await asyncio.to_thread(make_backup, path, "backup.db")
    for number in range(3):
        await database.write(put(f"early {number}"))
    assert await database.shrink()
    await database.write(put("in the WAL"))
    if harm == "backup of now":
        old = await asyncio.to_thread(make_backup, path, "backup.db")
    elif harm == "another relay's":
        old = await another(tmp_path / "other")
    elif harm == "a text":
        old.write_text("no database\n" * 9_000)
    elif harm == "nothing":
        old.touch()
    await database.write(put("later"))
    copy_onto(path, old)
    with capture_logs() as logs:
        assert not await database.shrink()
        assert database.problem.startswith(WRITTEN_OVER[1:])
        with pytest.raises(Unknown, match=f"{WRITTEN_OVER}.*may have been stored"):
            await database.write(put("first"))
        await until(lambda: database.refusal() is not None)
        for _ in range(3):
            with pytest.raises(Unavailable, match=WRITTEN_OVER) as refused:
                await database.write(put("refused"))
            assert not isinstance(refused.value, Unknown)
    assert [entry["event"] for entry in logs] == ["checkpoint_failed", "commit_failed", "database_unavailable"]
    await database.close()
    assert path.read_bytes() == old.read_bytes()
    assert size_of(wal_of(path))
    with pytest.raises(StartupError):
        await Database.open(settings)
    assert size_of(wal_of(path))


@storage_test
@pytest.mark.parametrize("harm", ["older copy", "backup", "another relay's"])
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_file_that_is_written_over_right_before_a_checkpoint(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, stopped: bool
) -> None:
    """It gets the WAL's pages. That is noticed behind the checkpoint, and the next start is refused."""
    path, old = settings.data / "relay.db", tmp_path / "old.db"
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    copy_onto(old, path)
    if harm == "another relay's":
        old = await another(tmp_path / "other")
    for when in ("early", "later", "in the WAL"):
        for number in range(20):
            await database.write(put(f"{when} {number} {'x' * 3_000}"))
        if when == "early" and harm == "backup":
            old = await asyncio.to_thread(make_backup, path, "backup.db")
        if when != "in the WAL":
            assert await database.shrink()
    before, look, taken = OverwriteCheck.before_checkpoint, OverwriteCheck.look, []

    def take(check: OverwriteCheck) -> None:
        before(check)
        taken.append(check)

    def write_over(check: OverwriteCheck) -> None:
        look(check)
        if len(taken) == 1:
            copy_onto(path, old)
            taken.append(check)

    monkeypatch.setattr(OverwriteCheck, "before_checkpoint", take)
    monkeypatch.setattr(OverwriteCheck, "look", write_over)
    if not stopped:
        assert not await database.shrink()
        assert database.problem.startswith(WRITTEN_OVER[1:])
        with pytest.raises(Unknown, match=f"{WRITTEN_OVER}.*may have been stored"):
            await database.write(put("first"))
    with capture_logs() as logs:
        await database.close()
    assert [entry["event"] for entry in logs] == ["checkpoint_failed"] * stopped
    assert path.read_bytes() != old.read_bytes()
    assert size_of(wal_of(path))
    with pytest.raises(StartupError, match=r"may have pages of both files: restore .* move .*relay\.witness away"):
        await Database.open(settings)
    (settings.data / NAME).unlink()
    with contextlib.suppress(StartupError, sqlite3.Error):  # as what it finds is damaged
        await (await Database.open(settings)).close()


@storage_test
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_written_and_copied_is_none_of_it(settings: Settings, seed: int) -> None:
    """Also by another program, at any moment but that of a checkpoint."""
    chance = random.Random(seed)
    database = await Database.open(settings)
    path = settings.data / "relay.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for number in range(200):
            what = chance.choice(("small", "small", "large", "many", "delete", "give back", "other", "copy", "shrink"))
            if what == "small":
                await database.write(put(f"{number}"))
            elif what == "large":
                await database.write(put(f"{number}" + "x" * chance.randrange(90_000)))
            elif what == "many":
                for each in range(20):
                    await database.write(put(f"{number} {each} {'x' * 3_000}"))
            elif what == "delete":
                await database.write(lambda raw: raw.execute("DELETE FROM bucket WHERE rowid % 3 = 0"))
            elif what == "give back":
                await database.write(give_back)
            elif what == "other":
                put(f"other {number} {'x' * 5_000}")(other)
            elif what == "copy":
                other.execute(f"PRAGMA wal_checkpoint({chance.choice(('PASSIVE', 'RESTART', 'TRUNCATE'))})").fetchone()
            else:
                await database.shrink()
            assert database.problem == ""
    await database.close()
    database = await Database.open(settings)
    await database.close()


@storage_test
async def test_it_stays_so(settings: Settings, tmp_path: Path) -> None:
    """Also where the right file is put back; the next start is of that, and has all that was ever committed to it."""
    path, right = settings.data / "relay.db", tmp_path / "right.db"
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    await database.write(put("in the WAL"))
    copy_onto(right, path)
    os.truncate(path, 0)
    assert not await database.shrink()
    copy_onto(path, right)
    with pytest.raises(Unknown, match=WRITTEN_OVER):
        await database.write(put("meanwhile"))
    await until(lambda: database.refusal() is not None)
    await database.close()
    assert size_of(wal_of(path))
    database = await Database.open(settings)
    assert database.loss is None
    assert await database.read(names) == ["before", "in the WAL", "meanwhile"]
    await database.close()


@storage_test
async def test_what_is_found_at_the_stop_alone(settings: Settings) -> None:
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    await database.write(put("in the WAL"))
    os.truncate(settings.data / "relay.db", 0)
    with capture_logs() as logs:
        await database.close()
    assert [(entry["event"], entry["error"][:24]) for entry in logs] == [
        ("checkpoint_failed", "relay.db was written ove")
    ]
    assert size_of(settings.data / "relay.db") == 0
    assert size_of(settings.data / "relay.db-wal")


@storage_test
async def test_an_empty_file_is_not_opened_anew(settings: Settings, faults: Faults) -> None:
    """Who opens one deletes its WAL: so it is looked at after any error, before that."""
    database = await Database.open(settings, factory=faults.factory)
    await database.write(put("before"))
    os.truncate(settings.data / "relay.db", 0)
    wal = (settings.data / "relay.db-wal").read_bytes()
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await database.write(put("a"))
    await until(lambda: database.problem.startswith(WRITTEN_OVER[1:]))
    await database.close()
    assert (settings.data / "relay.db-wal").read_bytes().startswith(wal)


SQL = """
import contextlib, sqlite3, sys
with contextlib.closing(sqlite3.connect(sys.argv[1], isolation_level=None)) as raw:
"""

HARMLESS = {
    "touched": "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()",
    "its time set back": "import os, sys; os.utime(sys.argv[1], (1, 1))",
    "its rights changed": "import os, sys; os.chmod(sys.argv[1], 0o640); os.chmod(sys.argv[1], 0o600)",
    "the same written": "import sys; file = open(sys.argv[1], 'r+b'); all = file.read(); file.seek(0); file.write(all)",
    "a checkpoint": f"{SQL}    raw.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()",
    "a table": f"{SQL}    raw.execute('CREATE TABLE IF NOT EXISTS notes (text)')",
    "a VACUUM": f"{SQL}    raw.execute('VACUUM')",
    "a VACUUM that moves tables": f"{SQL}    raw.execute('PRAGMA auto_vacuum = 0'); raw.execute('VACUUM')",
    "a part of a checkpoint": f"""{SQL}    raw.execute('BEGIN')
    raw.execute('SELECT 1 FROM meta').fetchone()
    with contextlib.closing(sqlite3.connect(sys.argv[1])) as other:
        other.execute('UPDATE meta SET appended = appended')
        other.commit()
        other.execute('PRAGMA wal_checkpoint(PASSIVE)').fetchone()""",
    "a backup": "import sys; from relay_tornado.cli import main; main(['backup', 'copy', '--force'])",
    "a check": "import sys; from relay_tornado.cli import main; main(['check', sys.argv[1]])",
}


@storage_test
@pytest.mark.parametrize("what", HARMLESS)
async def test_what_is_none_of_it(settings: Settings, what: str) -> None:
    """By another program, beside one whose file has just been made and one that was there."""
    path = settings.data / "relay.db"
    for _ in range(2):
        database = await Database.open(settings)
        with capture_logs() as logs:
            await database.write(commits)
            run = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", HARMLESS[what], str(path)),
                cwd=path.parent.parent,
                env=os.environ | {"RELAY_DATA": str(path.parent)},
            )
            assert await run.wait() == 0
            await database.write(commits)
            assert await database.shrink()
            assert database.problem == ""
        assert logs == []
        await database.close()
        assert not size_of(wal_of(path))


@storage_test
async def test_what_the_relay_does_itself_is_none_of_it(database: Database, faults: Faults) -> None:
    """Checkpoints that a reader holds back, or that fail, a file that shrinks, and one that is opened anew."""
    with capture_logs() as logs, contextlib.closing(sqlite3.connect(database.path)) as reader:
        await database.write(put("before"))
        reader.execute("BEGIN")
        reader.execute("SELECT commits FROM meta").fetchone()
        for number in range(9):
            await database.write(put(f"{number}" + "x" * 90_000))
            assert not await database.shrink()
        reader.rollback()
        assert await database.shrink()
        await database.write(lambda raw: raw.execute("DELETE FROM bucket WHERE length(name) > 9"))
        await database.write(give_back)
        size = database.path.stat().st_size
        assert await database.shrink()
        assert database.path.stat().st_size < size
        for code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM):
            faults.before = once("PRAGMA wal_checkpoint", code)
            assert not await database.shrink()
            faults.before = once("COMMIT", code)
            with pytest.raises(RelayError):
                await database.write(put("refused"))
            await until(lambda: database.problem == "")
            await database.write(put(f"after {code}"))
            assert await database.shrink()
    assert "database_unavailable" not in [entry["event"] for entry in logs]


@storage_test
async def test_what_can_not_be_read_proves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again at the next checkpoint."""
    failing: list[Exception | None] = [OSError(5, "EIO"), MemoryError(), OSError(24, "EMFILE")]
    looks = len(failing)
    fstat = os.fstat

    def fail(descriptor: int) -> os.stat_result:
        if failing and (error := failing.pop()):
            raise error
        return fstat(descriptor)

    monkeypatch.setattr(overwrite_check.os, "fstat", fail)
    for number in range(looks):
        await database.write(put(f"{number}"))
        assert await database.shrink()
        assert database.problem == ""
    assert not failing
    os.truncate(database.path, 0)
    assert not await database.shrink()
    assert database.problem.startswith(WRITTEN_OVER[1:])


@storage_test
@pytest.mark.parametrize("cause", [OSError(5, "EIO"), MemoryError()])
async def test_a_sample_that_can_not_be_read_is_not_compared(
    database: Database, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    """Nor is the one before, which is of other pages."""
    take = PageSample.take

    def fail(sample: PageSample) -> bytes:
        raise cause

    def take_none(sample: PageSample) -> None:
        with monkeypatch.context() as failing:
            failing.setattr(PageSample, "_read", fail)
            take(sample)

    for number in range(8):
        for each in range(20):
            await database.write(put(f"{number} {each} {'x' * 3_000}"))
        monkeypatch.setattr(PageSample, "take", take_none if number % 2 else take)
        await database._writer._checkpoint("PASSIVE")
        assert database.problem == ""


@storage_test
@pytest.mark.parametrize("moment", ["read", "pages", "_read"])
@pytest.mark.parametrize("late", [False, True])
async def test_another_program_that_commits_and_copies_during_a_look_is_none_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str, late: bool
) -> None:
    """The pages that it copies are not in the WAL that the look began with."""
    for number in range(60):
        await database.write(put(f"{number} {'x' * 3_000}"))
    assert await database.shrink()
    where = PageSample if moment == "_read" else WalIndex
    changed, look, looking = PageSample.changed, getattr(where, moment), []

    def change() -> None:
        with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            for _ in range(2):  # the first one may go on with the WAL, the second one begins it again
                other.execute("UPDATE bucket SET revision = revision + 1")
                other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def interrupted(*args: Any) -> Any:
        if not looking:
            return look(*args)
        looking.clear()
        if late:
            found = look(*args)
            change()
            return found
        change()
        return look(*args)

    def compare(sample: PageSample) -> bool:
        looking.append(sample)
        return changed(sample)

    monkeypatch.setattr(where, moment, interrupted)
    monkeypatch.setattr(PageSample, "changed", compare)
    for number in range(20):
        await database.write(put(f"more {number}"))
        await database._writer._checkpoint("PASSIVE")
        assert database.problem == ""


@storage_test
async def test_a_file_that_nobody_else_wrote_is_not_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at it before a checkpoint is no more than one at its times; and none is behind a commit."""
    assert await database.shrink()
    read: list[int] = []
    stamp_in = overwrite_check.stamp_in

    def note(page: bytes) -> Stamp:
        read.append(len(page))
        return stamp_in(page)

    monkeypatch.setattr(overwrite_check, "stamp_in", note)
    for number in range(9):
        await database.write(put(f"{number}"))
    assert not read
    assert await database.shrink()
    assert read == [4096]


@storage_test
async def test_a_second_close_leaves_the_descriptors_of_others_alone(settings: Settings) -> None:
    """Those that the system gives anew after the first one."""
    database = await Database.open(settings)
    await database.close()
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(open(os.devnull)) for _ in range(64)]
        await database.close()
        for each in others:
            os.fstat(each.fileno())


@storage_test
async def test_the_locks_on_the_file_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a descriptor of it would let go of SQLite's, and another program take itself for the last one. And where
    one page of it is not what it should be, the whole file is asked."""
    database = await Database.open(settings)
    await database.write(put("a"))
    assert await database.shrink()
    inodes = [(settings.data / name).stat().st_ino for name in ("relay.db", "relay.db-shm")]
    own = f" {os.getpid()} "

    def locks() -> list[int]:
        lines = Path("/proc/locks").read_text().splitlines()
        return [sum(f":{inode} " in line and own in line for line in lines) for inode in inodes]

    held = locks()
    assert all(held)
    await database.write(put("b"))
    monkeypatch.setattr(overwrite_check, "stamp_in", lambda page: Stamp("half a page", 0, 0))
    os.utime(settings.data / "relay.db", (1, 1))
    assert await database.shrink()
    assert locks() == held
    assert database.problem == ""
    await database.close()
    assert locks() == [0, 0]
