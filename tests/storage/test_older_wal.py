"""A WAL that ends before its file is put aside, or the start is refused; one that the file needs is used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import StartupError
from relay_tornado.ops.check import check
from relay_tornado.settings import Settings
from relay_tornado.storage import older_wal
from relay_tornado.storage.database import Database
from relay_tornado.storage.location_check import beside, wal_of
from relay_tornado.storage.wal_check import in_file
from relay_tornado.storage.witness import SECTOR, Stamp, Witness, peek, peek_copied
from tests.storage.faults import Faults, error
from tests.storage.jobs import commits, names, put
from tests.waiting import until

storage_test = pytest.mark.gen_test(timeout=60)

PAGE = 4096
HEADER, FRAME = 32, 24 + PAGE
"""Bytes of a WAL's header, and of a frame with its page."""


def put_back(settings: Settings, source: Path) -> None:
    """Puts a copy of a WAL beside the file, as after a crash: without the index of another one."""
    shutil.copyfile(source, wal_of(settings.data / "relay.db"))
    (settings.data / "relay.db-shm").unlink(missing_ok=True)


def aside(settings: Settings) -> list[Path]:
    return sorted(settings.data.glob("relay.db-wal.older-*"))


async def write_generation(database: Database, *more: str) -> bytes:
    """Commits these names and some pages, and has all of it copied into the file. Returns the WAL as it was."""
    for name in more:
        await database.write(put(name + "x" * 9_000))
    wal = wal_of(database.path).read_bytes()
    assert await database.shrink()
    return wal


async def contents(settings: Settings) -> list[str]:
    """The names in the database, which is opened, found sound, and closed."""
    database = await Database.open(settings)
    try:
        found = await database.read(names)
        assert await database.read(lambda raw: raw.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
        return [name.rstrip("x") for name in found]
    finally:
        await database.close()


@storage_test
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
async def test_an_older_wal(settings: Settings, tmp_path: Path, stopped: bool) -> None:
    """All that was committed is there, no loss is told, and the WAL lies under another name."""
    old, left = tmp_path / "old", tmp_path / "left"
    database = await Database.open(settings)
    old.write_bytes(await write_generation(database, "a", "b"))
    await write_generation(database, "c")
    shutil.copytree(settings.data, left)
    await database.close()
    if not stopped:
        shutil.rmtree(settings.data)
        left.rename(settings.data)
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
    old, left = tmp_path / "old", tmp_path / "left"
    database = await Database.open(settings)
    old.write_bytes(await write_generation(database, "a", "b"))
    await write_generation(database, "c")
    await database.write(put("lost"))
    shutil.copytree(settings.data, left)
    await database.close()
    shutil.rmtree(settings.data)
    left.rename(settings.data)
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


async def passive(database: Database) -> bool:
    """Copies the WAL into the file, and leaves it as it is."""
    return await database._writer._checkpoint("PASSIVE")


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
async def test_a_page_that_only_the_wal_has(
    settings: Settings, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read of the file without its WAL, as after an interrupted checkpoint, refuses no start."""
    database = await Database.open(settings)
    await write_generation(database, "a")
    await database.write(put("b"))
    left = shutil.copytree(settings.data, tmp_path / "left")
    await database.close()
    shutil.rmtree(settings.data)
    left.rename(settings.data)

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


def remove_z(raw: sqlite3.Connection) -> None:
    raw.execute("DELETE FROM bucket WHERE name LIKE 'z%'")


@dataclass
class Generation:
    """Directories as a checkpoint found and left them; `old` is an earlier WAL, `pages` are those that it wrote, in its
    order."""

    old: Path
    before: Path
    after: Path
    pages: list[int]

    def interrupt(self, settings: Settings, number: int) -> None:
        """Leaves the directory as it was when so many pages were written, without the WAL's index."""
        shutil.rmtree(settings.data)
        shutil.copytree(self.before, settings.data)
        with (self.after / "relay.db").open("rb") as left, (settings.data / "relay.db").open("r+b") as file:
            for page in self.pages[:number]:
                left.seek((page - 1) * PAGE)
                file.seek((page - 1) * PAGE)
                file.write(left.read(PAGE))
        (settings.data / "relay.db-shm").unlink()


async def checkpoint(settings: Settings, folder: Path, *, grows: bool = True) -> Generation:
    """`grows`: the file has to become longer for it."""
    before = folder / "before"
    faults = Faults()
    database = await Database.open(settings, factory=faults.factory)
    if not grows:
        await database.write(put("z" + "x" * 90_000))
    old = folder / "old"
    old.write_bytes(await write_generation(database, "a", "b"))
    if not grows:
        await database.write(remove_z)
    await write_generation(database, "c")
    for name in "defgh":
        await database.write(put(name + "x" * 9_000))

    def keep(sql: str) -> None:
        if sql.startswith("PRAGMA wal_checkpoint"):
            shutil.copytree(settings.data, before)

    faults.before = keep
    assert await passive(database)
    faults.heal()
    after = shutil.copytree(settings.data, folder / "after")
    await database.close()
    sizes = [(place / "relay.db").stat().st_size for place in (before, after)]
    assert (sizes[0] < sizes[1]) == grows
    wal = wal_of(before / "relay.db").read_bytes()
    pages = {struct.unpack_from(">I", wal, place)[0] for place in range(HEADER, len(wal), FRAME)}
    return Generation(old, before, after, sorted(pages))


@storage_test
async def test_a_checkpoint_that_was_interrupted(settings: Settings, tmp_path: Path) -> None:
    """After whichever page of it the relay was killed, and whatever the witness says, the WAL is used."""
    found = await checkpoint(settings, tmp_path)
    stamp = peek(found.after / "relay.witness")
    assert stamp is not None
    assert len(found.pages) > 20
    for number in range(len(found.pages) + 1):
        found.interrupt(settings, number)
        assert peek_copied(settings.data / "relay.witness") is None
        if number % 2:  # also if it claims too much
            witness = Witness.open(settings.data / "relay.witness")
            witness.note_copied(stamp)
            witness.close()
        with capture_logs() as logs:
            assert await contents(settings) == list("abcdefgh")
        assert logs == []
        assert not aside(settings)


@storage_test
@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("powerless", [True, False])
async def test_an_older_wal_after_an_interrupted_checkpoint(
    settings: Settings, tmp_path: Path, grows: bool, powerless: bool
) -> None:
    """The start is refused, and nothing is changed: the file has a part of what only its own WAL has. `powerless`: the
    witness is as it was before the checkpoint."""
    found = await checkpoint(settings, tmp_path, grows=grows)
    path = settings.data / "relay.db"
    meta = 1 + found.pages.index(in_file(found.after / "relay.db")[1])
    for number in range(meta if powerless else 1, len(found.pages), 4):
        found.interrupt(settings, number)
        put_back(settings, found.old)
        if powerless:
            witness = Witness.open(settings.data / "relay.witness")
            witness.note_copied(in_file(found.before / "relay.db")[0])
            witness.close()
        before = path.read_bytes()
        with pytest.raises(StartupError, match=r"relay\.db-wal ends at commit "):
            await Database.open(settings)
        assert (path.read_bytes(), wal_of(path).read_bytes()) == (before, found.old.read_bytes())
        assert not aside(settings)


@storage_test
@pytest.mark.parametrize("interrupted", [True, False])
async def test_what_the_refusal_advises(settings: Settings, tmp_path: Path, interrupted: bool) -> None:
    """With the WAL moved away, a check before the next start says whether the file is damaged."""
    found = await checkpoint(settings, tmp_path, grows=False)
    path = settings.data / "relay.db"
    found.interrupt(settings, len(found.pages) // 2 if interrupted else len(found.pages))
    put_back(settings, found.old)
    with pytest.raises(StartupError, match=r"move it away together with relay\.db-shm, and run relay check before"):
        await Database.open(settings)
    for name in ("relay.db-wal", "relay.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    report = check(path, lambda *_: None)
    assert ("pages" in {finding.kind for finding in report.findings}) == interrupted
    assert "witness" not in {finding.kind for finding in report.findings}
    if not interrupted:
        assert await contents(settings) == list("abcdefgh")


WRITER = """
import asyncio, dataclasses, pathlib, sys
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.storage.jobs import put

async def main():
    database = await Database.open(dataclasses.replace(Settings(), data=pathlib.Path(sys.argv[1])))

    async def write(number):
        for count in range(1 << 30):
            await database.write(put(f"{sys.argv[2]}-{number}-{count}-" + "x" * 20_000))
            print(f"{sys.argv[2]}-{number}-{count}-", flush=True)

    async def checkpoint():
        while True:
            await database._writer._checkpoint(("PASSIVE", "TRUNCATE")[int(sys.argv[2]) % 2])

    await asyncio.gather(checkpoint(), *(write(number) for number in range(4)))

asyncio.run(main())
"""


@pytest.mark.heavy
def test_kills_in_checkpoints(tmp_path: Path) -> None:
    """kill -9 at any moment of writes and checkpoints: each time everything is there, and no WAL is put aside."""
    answered: set[str] = set()
    for number in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "data"), str(number)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(random.randint(5, 60)):
                answered.add(process.stdout.readline().strip())
            process.kill()
            answered |= {line.strip() for line in process.stdout if line.endswith("\n")}
        with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'data/relay.db'}?mode=ro", uri=True)) as raw:
            assert answered <= {name.rstrip("x") for name in names(raw)}
            assert raw.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert not list((tmp_path / "data").glob("*.older-*"))
    assert len(answered) > 50
