"""A WAL that ends before its file is put aside, or the start is refused; one that the file needs is used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import StartupError
from relay_tornado.settings import Settings
from relay_tornado.storage import database_files, older_wal
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import beside, wal_of
from relay_tornado.storage.wal_check import in_file
from relay_tornado.storage.witness import SECTOR, Stamp, Witness, peek, peek_copied
from tests.storage.faults import crash, error, take_the_first_name
from tests.storage.jobs import commits, put
from tests.storage.older_wals import aside, contents, passive, put_back, write_generation
from tests.waiting import until

storage_test = pytest.mark.gen_test(timeout=60)


@storage_test
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
async def test_an_older_wal(settings: Settings, tmp_path: Path, stopped: bool) -> None:
    """All that was committed is there, no loss is told, and the WAL lies under another name."""
    old = tmp_path / "old"
    database = await Database.open(settings)
    old.write_bytes(await write_generation(database, "a", "b"))
    await write_generation(database, "c")
    await (database.close() if stopped else crash(database))
    for number in (1, 2):  # within one second perhaps
        put_back(settings, old)
        with capture_logs() as logs:
            assert await contents(settings) == ["a", "b", "c"]
        (entry,) = logs
        assert (entry["event"], entry["kept"] in map(str, aside(settings))) == ("older_wal_put_aside", True)
        assert [path.read_bytes() for path in aside(settings)] == [old.read_bytes()] * number


@storage_test
async def test_the_wal_of_another_relay_is_no_older_one(settings: Settings, tmp_path: Path) -> None:
    """What it says of its commits says nothing of this file's."""
    path, foreign = settings.data / "relay.db", tmp_path / "foreign"
    database = await Database.open(settings)
    await write_generation(database, "a", "b", "c")
    await database.close()
    other = await Database.open(replace(settings, data=tmp_path / "other"))
    foreign.write_bytes(await write_generation(other, "d"))
    await other.close()
    put_back(settings, foreign)
    assert older_wal._with_wal(path).commits < older_wal._without_wal(path).commits
    assert older_wal.find(path) is None


@storage_test
async def test_an_older_wal_in_place_of_the_newest(settings: Settings, tmp_path: Path) -> None:
    """What was in the newest one is lost, and told; what was in the file is not."""
    old = tmp_path / "old"
    database = await Database.open(settings)
    old.write_bytes(await write_generation(database, "a", "b"))
    await write_generation(database, "c")
    await database.write(put("lost"))
    await crash(database)
    put_back(settings, old)
    with capture_logs() as logs:
        assert await contents(settings) == ["a", "b", "c"]
    assert [(entry["event"], entry.get("commits")) for entry in logs] == [
        ("older_wal_put_aside", None),
        ("committed_work_lost", 1),
    ]
    assert len(aside(settings)) == 1


@storage_test
async def test_a_damaged_wal_that_was_copied(settings: Settings, tmp_path: Path) -> None:
    """Wherever a bit of it is flipped, nothing is lost: the file has everything."""
    database = await Database.open(settings)
    await write_generation(database, "a")
    for name in "bcd":
        await database.write(put(name + "x" * 9_000))
    assert await passive(database)
    left = shutil.copytree(settings.data, tmp_path / "left")
    await database.close()
    wal = wal_of(left / "relay.db").read_bytes()
    put_aside = 0
    for place in range(100, len(wal), 3_001):
        shutil.rmtree(settings.data)
        shutil.copytree(left, settings.data)
        damaged = bytearray(wal)
        damaged[place] ^= 4
        wal_of(settings.data / "relay.db").write_bytes(damaged)
        (settings.data / "relay.db-shm").unlink()
        with capture_logs() as logs:
            assert await contents(settings) == ["a", "b", "c", "d"]
        assert [entry["event"] for entry in logs] == ["older_wal_put_aside"] * len(aside(settings))
        put_aside += len(aside(settings))
    assert put_aside > 3


@storage_test
@pytest.mark.parametrize("witness", ["missing", "of an older relay", "another database's", "too low", "too high"])
async def test_a_witness_that_does_not_prove_it(settings: Settings, tmp_path: Path, witness: str) -> None:
    """The start is refused, and nothing is changed: the file may have been left by an interrupted checkpoint."""
    database = await Database.open(settings)
    await write_generation(database, "a")
    older = database.commits
    await database.write(put("b"))
    old = tmp_path / "old"
    old.write_bytes(wal_of(database.path).read_bytes())
    await write_generation(database, "c")
    last = await database.read(commits)
    await database.close()
    path = settings.data / "relay.witness"
    stamp = peek(path)
    assert stamp is not None
    assert stamp.commits == last
    if witness == "missing":
        path.unlink()
    elif witness == "of an older relay":
        os.truncate(path, 2 * SECTOR)
    else:
        record = Witness.open(path)
        name = "another" if witness == "another database's" else stamp.database
        record.note_copied(Stamp(name, {"too low": older, "too high": last + 1}.get(witness, last), 0))
        record.close()
    put_back(settings, old)
    before = database.path.read_bytes()
    with pytest.raises(StartupError, match=r"relay\.db-wal ends at commit .*older.*damaged.*relay check before"):
        await Database.open(settings)
    assert (database.path.read_bytes(), wal_of(database.path).read_bytes()) == (before, old.read_bytes())
    assert not aside(settings)
    wal_of(database.path).unlink()
    with capture_logs():
        assert await contents(settings) == ["a", "b", "c"]


OPENS = """
import sqlite3, sys
raw = sqlite3.connect(sys.argv[1], uri=True)
raw.execute("SELECT * FROM meta").fetchone()
print(flush=True)
input()
raw.close()
"""


@contextlib.contextmanager
def opened(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the file open until it is given a line, or the end."""
    command = (sys.executable, "-c", OPENS, f"file:{path}?mode={mode}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            yield other
        finally:
            other.kill()


async def leave_an_older_wal(settings: Settings, tmp_path: Path) -> Path:
    """The file has a and b, and the WAL beside it only a. Returns the file's path."""
    database = await Database.open(settings)
    old = tmp_path / "old"
    old.write_bytes(await write_generation(database, "a"))
    await write_generation(database, "b")
    await database.close()
    put_back(settings, old)
    return database.path


@storage_test
async def test_what_another_program_makes_under_the_new_name_stays(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as it is, and the WAL gets another name."""
    path = await leave_an_older_wal(settings, tmp_path)
    wal, others = wal_of(path).read_bytes(), take_the_first_name(monkeypatch)
    assert await contents(settings) == ["a", "b"]
    found = {each: each.read_bytes() for each in aside(settings)}
    assert found.pop(others[0]) == b"another's"
    assert list(found.values()) == [wal]


def test_a_ctrl_c_right_behind_the_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays under its new name."""
    wal, rename = tmp_path / "relay.db-wal", Path.rename
    wal.write_bytes(b"the WAL")

    def interrupted(self: Path, target: Path) -> None:
        rename(self, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            database_files.move_aside(wal, "older")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the WAL"]


def test_a_file_that_cannot_be_renamed_leaves_no_name_behind(tmp_path: Path) -> None:
    """The name that was taken for it is free again."""
    with pytest.raises(FileNotFoundError):
        database_files.move_aside(tmp_path / "relay.db-wal", "older")
    assert list(tmp_path.iterdir()) == []


@storage_test
@pytest.mark.parametrize("mode", ["ro", "rw"])
async def test_what_another_program_keeps_open(
    settings: Settings, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is refused, names the program, and says how to end it: at a normal end, it may copy the older pages.
    Then the start succeeds."""
    monkeypatch.setattr(older_wal, "_PATIENCE", 0.1)
    path = await leave_an_older_wal(settings, tmp_path)
    before = {each: each.read_bytes() for each in (path, wal_of(path))}
    with opened(path, mode) as other:
        refusal = rf"relay\.db-wal ends .*process {other.pid} \(.*\) has relay\.db open\. .*kill -9 {other.pid}:"
        with capture_logs() as logs, pytest.raises(StartupError, match=refusal):
            await Database.open(settings)
        assert [entry["event"] for entry in logs] == ["start_waits"]
        assert {each: each.read_bytes() for each in before} == before
    assert await contents(settings) == ["a", "b"]
    assert len(aside(settings)) == 1


@storage_test
@pytest.mark.parametrize("mode", ["ro", "rw"])
async def test_what_another_program_closes(
    settings: Settings, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start waits for it; and while it waits, a program that may write copies no older pages."""
    path = await leave_an_older_wal(settings, tmp_path)
    with opened(path, mode) as other:
        ended: list[int] = []

        async def end(_: float) -> None:
            if not ended:
                other.communicate("\n")
                ended.append(other.returncode)

        monkeypatch.setattr(older_wal, "asyncio", SimpleNamespace(sleep=end))
        with capture_logs() as logs:
            assert await contents(settings) == ["a", "b"]
    assert ended == [0]
    assert [entry["event"] for entry in logs] == ["start_waits", "older_wal_put_aside"]
    assert f"process {other.pid} (" in logs[0]["reason"]
    assert len(aside(settings)) == 1


@storage_test
async def test_a_start_that_is_stopped_while_it_waits(settings: Settings, tmp_path: Path) -> None:
    """It ends at once, as at SIGTERM; nothing is changed, and the next start finds what this one found. Meanwhile no
    command reads the older pages as if they were the newest."""
    path = await leave_an_older_wal(settings, tmp_path)
    before = {each: each.read_bytes() for each in (path, wal_of(path))}
    with opened(path, "ro"):
        with capture_logs() as logs:
            starting = asyncio.create_task(Database.open(settings))
            await until(lambda: logs)
            for command in ("backup", str(tmp_path / "copy.db")), ("check",), ("stats",):
                reader = (sys.executable, "-m", "relay_tornado", *command, "--data", str(settings.data))
                done = subprocess.run(reader, capture_output=True, text=True, check=False)
                assert (done.returncode != 0, "relay.db-wal ends at commit" in done.stderr) == (True, True)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert [entry["event"] for entry in logs] == ["start_waits"]
        assert {each: each.read_bytes() for each in before} == before
    assert await contents(settings) == ["a", "b"]
    assert len(aside(settings)) == 1


@storage_test
async def test_a_program_without_a_name(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc does not tell it, the refusal has the number of its process all the same."""
    monkeypatch.setattr(older_wal, "_PATIENCE", 0.1)
    path = await leave_an_older_wal(settings, tmp_path)
    read_text = Path.read_text

    def no_proc(file: Path, *args: str, **options: str) -> str:
        if file.is_relative_to("/proc"):
            raise FileNotFoundError(file)
        return read_text(file, *args, **options)

    monkeypatch.setattr(Path, "read_text", no_proc)
    with opened(path, "ro") as other:
        refusal = rf"process {other.pid} has relay\.db open\. .*kill -9 {other.pid}:"
        with capture_logs(), pytest.raises(StartupError, match=refusal):
            await Database.open(settings)


@storage_test
@pytest.mark.parametrize("journal", [b"", bytes(512), b"garbage" * 99], ids=["empty", "zeros", "garbage"])
async def test_a_journal_beside_an_older_wal(settings: Settings, tmp_path: Path, journal: bytes) -> None:
    """What is rolled back first copies nothing from the WAL."""
    path = await leave_an_older_wal(settings, tmp_path)
    beside(path, "-journal").write_bytes(journal)
    with capture_logs() as logs:
        assert await contents(settings) == ["a", "b"]
    assert [entry["event"] for entry in logs] == ["older_wal_put_aside"]


@storage_test
@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
async def test_a_wal_that_can_not_be_read_now(
    settings: Settings, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start fails: a moment later SQLite might be able to read it, and copy it."""
    path = await leave_an_older_wal(settings, tmp_path)
    before = path.read_bytes()

    def fail(_: sqlite3.Connection) -> Stamp:
        raise error(code)

    with monkeypatch.context() as context:
        context.setattr(older_wal, "read_stamp", fail)
        with pytest.raises(StartupError, match=r"relay\.db"):
            await Database.open(settings)
        assert older_wal.find(path) is None
    assert path.read_bytes() == before
    assert await contents(settings) == ["a", "b"]
    assert len(aside(settings)) == 1


@storage_test
@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR])
async def test_a_file_that_can_not_be_read_once(
    settings: Settings, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again. Where the disk can't read the schema, SQLite may say that there is no such table."""
    await leave_an_older_wal(settings, tmp_path)
    codes = [code]

    def fail_once(path: Path) -> tuple[Stamp, int]:
        if codes:
            raise error(codes.pop())
        return in_file(path)

    monkeypatch.setattr(older_wal, "in_file", fail_once)
    assert await contents(settings) == ["a", "b"]
    assert (codes, len(aside(settings))) == ([], 1)


@storage_test
@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG])
async def test_a_page_that_only_the_wal_has(settings: Settings, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read of the file without its WAL, as after an interrupted checkpoint, refuses no start."""
    database = await Database.open(settings)
    await write_generation(database, "a")
    await database.write(put("b"))
    await crash(database)

    def fail(_: Path) -> tuple[Stamp, int]:
        raise error(code)

    monkeypatch.setattr(older_wal, "in_file", fail)
    assert await contents(settings) == ["a", "b"]


@storage_test
async def test_what_a_loss_makes_unknown(settings: Settings, tmp_path: Path) -> None:
    """An older file begins anew: what the newer one had says nothing of it."""
    database = await Database.open(settings)
    await write_generation(database, "a")
    await database.close()
    shutil.copy(database.path, tmp_path / "older.db")
    database = await Database.open(settings)
    await write_generation(database, "b")
    await database.close()
    witness = settings.data / "relay.witness"
    assert peek_copied(witness) == peek(witness) is not None
    shutil.copy(tmp_path / "older.db", database.path)
    with capture_logs():
        database = await Database.open(settings)
    assert peek_copied(witness) is None
    await database.close()
