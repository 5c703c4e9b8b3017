"""A loss of committed work is noticed at the next start, counted, told once, and never imagined."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.settings import Settings
from relay_tornado.storage import database as databases
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.database import Database
from relay_tornado.storage.witness import SECTOR, Loss, Stamp, Witness, condemned, loss, peek, peek_copied
from tests.storage.jobs import names
from tests.waiting import until

storage_test = pytest.mark.gen_test

A = "00000000-0000-4000-8000-00000000000a"


def test_the_newest_stamp_is_read(tmp_path: Path) -> None:
    """Stamps go in turns into two sectors, and the newest whole one counts, over restarts too."""
    for commits in range(1, 6):
        witness = Witness.open(tmp_path / "w")
        assert witness.read() == (Stamp(A, commits - 1, 10 * (commits - 1)) if commits > 1 else None)
        witness.write(Stamp(A, commits, 10 * commits))
        witness.close()
    assert (tmp_path / "w").stat().st_size == 3 * SECTOR


def test_a_torn_write_spoils_one_sector_only(tmp_path: Path) -> None:
    """Whichever sector is damaged, the other one is read; where both are, nothing is."""
    for spoilt in ({0}, {1}, {0, 1}):
        witness = Witness.open(tmp_path / "w")
        witness.restart(Stamp(A, 1, 1))
        witness.write(Stamp(A, 2, 2))
        witness.close()
        with (tmp_path / "w").open("r+b") as file:
            for sector in spoilt:
                file.seek(sector * SECTOR + 20)
                file.write(b"\xff\xff")
        witness = Witness.open(tmp_path / "w")
        stamp = witness.read()
        assert (stamp is None) == (len(spoilt) == 2)
        assert stamp is None or stamp.commits in (1, 2)
        if stamp is not None:
            witness.write(Stamp(A, 3, 3))
            assert witness.read() == Stamp(A, 3, 3)
        witness.close()


def test_no_room_for_the_third_sector(tmp_path: Path) -> None:
    """A witness of before 0.5.20, which had two, serves on a full disk, too; once there is room, it has the third."""
    path, stamp = tmp_path / "w", Stamp(A, 1, 1)
    path.write_bytes(bytes(2 * SECTOR))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SECTOR, limit[1]))
    try:
        witness = Witness.open(path)
        witness.note_copied(stamp)
        witness.restart(stamp)
        witness.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (peek(path), peek_copied(path)) == (stamp, None)
    witness = Witness.open(path)
    witness.note_copied(stamp)
    witness.close()
    assert peek_copied(path) == stamp


def test_what_a_witness_forgets_stays_forgotten(tmp_path: Path) -> None:
    """One loss alarms once, also where nothing was committed before the next start."""
    witness = Witness.open(tmp_path / "w")
    for commits in (9, 10):
        witness.write(Stamp(A, commits, commits))
    witness.restart(Stamp(A, 3, 3))
    witness.close()
    assert peek(tmp_path / "w") == Stamp(A, 3, 3)


@pytest.mark.parametrize("sectors", [2, 3])
def test_a_condemned_file_stays_condemned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sectors: int) -> None:
    """Nothing that is noted later replaces that, and it is on the disk before anything else happens."""
    path, stamp, synced = tmp_path / "w", Stamp(A, 1, 1), []
    path.write_bytes(bytes(sectors * SECTOR))
    monkeypatch.setattr(witnesses, "_sync", lambda _: synced.append(condemned(path)))
    witness = Witness.open(path)
    witness.note_copied(stamp)
    assert not condemned(path)
    witness.condemn()
    assert synced == [True]
    witness.forget(stamp)
    witness.note_copied(None)
    witness.note_copied(stamp)
    witness.close()
    assert condemned(path)
    assert peek(path) == stamp


def test_the_first_write_of_a_start_spares_the_newest_stamp(tmp_path: Path) -> None:
    """Where it is torn, what the process before wrote last is there still."""
    path = tmp_path / "w"
    for commits in range(1, 6):
        witness = Witness.open(path)
        newest = witness.read()
        before = path.read_bytes()
        witness.write(Stamp(A, commits, commits))
        witness.close()
        written = path.read_bytes()
        sectors = [slice(turn * SECTOR, (turn + 1) * SECTOR) for turn in (0, 1)]
        (torn,) = [sector for sector in sectors if written[sector] != before[sector]]
        path.write_bytes(written[: torn.start] + bytes(SECTOR) + written[torn.stop :])
        assert peek(path) == newest
        path.write_bytes(written)


def test_what_a_witness_proves() -> None:
    """Only one that is ahead, of the same database, proves a loss."""
    here = Stamp(A, 10, 100)
    assert loss(Stamp(A, 12, 130), here) == Loss(2, 30)
    assert loss(Stamp(A, 12, 100), here) == Loss(2, 0)
    for nothing in (None, here, Stamp(A, 9, 90), Stamp("another", 12, 130)):
        assert loss(nothing, here) is None


async def commit(database: Database, times: int) -> None:
    for _ in range(times):
        await database.write(lambda raw: None)


def test_a_witness_that_begins_afresh_says_nothing_of_copies(tmp_path: Path) -> None:
    """The count of commits goes on from a lower one: the same count is that of another content then."""
    witness = Witness.open(tmp_path / "w")
    witness.note_copied(Stamp(A, 9, 9))
    witness.restart(Stamp(A, 8, 8))
    assert peek_copied(tmp_path / "w") is None
    witness.close()


@storage_test
async def test_an_orderly_restart_is_no_loss(settings: Settings) -> None:
    """The witness goes on from start to start without a word."""
    for _ in range(3):
        with capture_logs() as logs:
            database = await Database.open(settings)
        assert database.loss is None
        assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]
        await commit(database, 5)
        await database.close()


@storage_test
async def test_a_closed_database_holds_no_file(settings: Settings) -> None:
    """Not its lock, nor its witness, nor its connections' files; nor does closing it again close somebody else's."""
    before = set(Path("/proc/self/fd").iterdir())
    database = await Database.open(settings)
    await commit(database, 1)
    await database.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before  # less where another test's leave meanwhile
    others = [os.dup(0) for _ in range(20)]
    await database.close()
    for each in others:
        os.close(each)


@storage_test
async def test_an_older_copy_is_a_loss(settings: Settings) -> None:
    """A restored copy lacks what was committed after it: told at each start until somebody tells it, and at no later
    one."""
    database = await Database.open(settings)
    await commit(database, 2)
    await database.close()
    shutil.copy(database.path, settings.data / "copy")
    database = await Database.open(settings)
    await commit(database, 7)
    await database.close()
    shutil.copy(settings.data / "copy", database.path)
    for _ in range(2):
        with capture_logs() as logs:
            database = await Database.open(settings)
        assert database.loss == Loss(7, 0)
        assert [entry["commits"] for entry in logs if entry["event"] == "committed_work_lost"] == [7]
        await commit(database, 1)
        await database.close()
    database = await Database.open(settings)
    await database.told()
    assert database.loss == Loss(7, 0)
    await commit(database, 1)
    await database.close()
    database = await Database.open(settings)
    assert database.loss is None
    await database.close()


@storage_test
async def test_a_relay_that_did_not_stop_and_a_loss(settings: Settings) -> None:
    """The log says that nothing is lost only where nothing is."""
    database = await Database.open(settings)
    await commit(database, 2)
    await database.close()
    shutil.copy(database.path, settings.data / "copy")
    said = []
    for lost in (False, True):
        database = await Database.open(settings)
        await commit(database, 7)
        await database.close()
        if lost:
            shutil.copy(settings.data / "copy", database.path)
        (settings.data / "relay.lock").write_text('{"unstopped": 7}')
        database = await Database.open(settings)
        with capture_logs() as logs:
            database.owner(settings.data / "relay.sock")
        said += [entry["consequence"] for entry in logs if entry["event"] == "earlier_relay_did_not_stop"]
        await database.close()
    assert said == ["no committed event is lost", "committed events are lost, see committed_work_lost"]


@storage_test
@pytest.mark.parametrize("how", ["missing", "damaged", "of_another_database"])
async def test_a_witness_that_proves_nothing_is_made_anew(settings: Settings, tmp_path: Path, how: str) -> None:
    """A missing, damaged or foreign witness is said in the log and is no loss; the next one counts again."""
    database = await Database.open(settings)
    await commit(database, 3)
    await database.close()
    path = settings.data / "relay.witness"
    if how == "missing":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(b"\x00" * (2 * SECTOR))
    else:
        path.unlink()
        foreign = Witness.open(path)
        foreign.restart(Stamp(A, 1000, 1000))
        foreign.close()
    with capture_logs() as logs:
        database = await Database.open(settings)
    assert database.loss is None
    assert f"witness_{how}" in [entry["event"] for entry in logs]
    await database.close()
    shutil.copy(database.path, settings.data / "copy")
    database = await Database.open(settings)
    await commit(database, 4)
    await database.close()
    shutil.copy(settings.data / "copy", database.path)
    database = await Database.open(settings)
    assert database.loss == Loss(4, 0)
    await database.close()


WRITER = """
import asyncio, itertools, pathlib, sys
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

async def main():
    settings = Settings(data=pathlib.Path(sys.argv[1]))
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    await log.create("b", "aaaaaaaaaaaa")
    assert database.loss is None, database.loss
    print("ready", (await log.bounds("b")).head, flush=True)

    async def appender():
        for _ in range(int(sys.argv[2])):
            place = await log.append("b", NewEvent("i", "POST", b"", b"", b"", b"x" * 500, "::1"))
            print(place.seq, flush=True)

    await asyncio.gather(*(appender() for _ in range(8)))
    print("done", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start_writer(directory: Path, rounds: int) -> subprocess.Popen[str]:
    """A process that appends from eight tasks, and prints each seq once it is committed."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), str(rounds)], stdout=subprocess.PIPE, text=True
    )


def test_twenty_kills_are_no_loss(tmp_path: Path) -> None:
    """kill -9 in the middle of appends: no false alarm at the next start, and all that was answered is there."""
    answered = 0
    for number in range(20):
        with start_writer(tmp_path / "data", 1 << 30) as process:
            assert process.stdout is not None
            word, head = process.stdout.readline().split()
            assert (word, int(head) >= answered) == ("ready", True)
            for _ in range(20 + 13 * number):
                answered = max(answered, int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                answered = max(answered, int(line)) if line.endswith("\n") else answered
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "relay.db")) as raw:
        head, last, count = raw.execute("SELECT head, max(seq), count(*) FROM log, event").fetchone()
        assert head == last == count >= answered > 20 * 20


@storage_test
async def test_a_flipped_bit_in_the_wal_is_found_and_counted(settings: Settings) -> None:
    """The loss that no integrity check finds: its size is told exactly, and the WAL is kept for a look."""
    with start_writer(settings.data, 3) as process:  # too little for a checkpoint
        assert process.stdout is not None
        while process.stdout.readline() != "done\n":
            pass
        process.kill()
    path = settings.data / "relay.db"
    wal = path.with_name("relay.db-wal")
    whole = shutil.copytree(settings.data, settings.data.with_name("whole"))
    with contextlib.closing(sqlite3.connect(whole / "relay.db")) as raw:
        commits, appended = raw.execute("SELECT commits, appended FROM meta").fetchone()
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    path.with_name("relay.db-shm").unlink()  # as after a power cut: the index of the WAL is made anew
    with capture_logs() as logs:
        database = await Database.open(settings)
    left = await database.read(lambda raw: raw.execute("SELECT commits, appended FROM meta").fetchone())
    assert database.loss == Loss(commits - left[0], appended - left[1])
    assert database.loss.events > 0
    (told,) = [entry for entry in logs if entry["event"] == "committed_work_lost"]
    assert told["events"] == database.loss.events
    assert Path(told["wal_copy"]).stat().st_size > 0
    await database.told()
    await database.close()
    database = await Database.open(settings)
    assert database.loss is None
    await database.close()


@storage_test
async def test_memory_that_is_short_for_its_sync_stops_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is synced when its time comes again, and the file is read as before."""
    monkeypatch.setattr(databases, "_WITNESS_INTERVAL", 0.02)
    sleep, sync = asyncio.sleep, Witness.sync
    failed: list[bool] = []
    synced: list[bool] = []

    def fail(seconds: float) -> Awaitable[None]:
        if seconds == databases._WITNESS_INTERVAL and not failed:
            failed.append(True)
            raise MemoryError
        return sleep(seconds)

    def synced_now(self: Witness) -> None:
        sync(self)
        synced.append(True)

    database = await Database.open(settings)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(asyncio, "sleep", fail)
        patch.setattr(Witness, "sync", synced_now)
        await until(lambda: failed)
        await commit(database, 3)
        await until(lambda: synced)
    assert [entry["event"] for entry in logs] == ["witness_not_synced"]
    assert await database.read(names) == []
    await database.close()


@storage_test
async def test_a_witness_that_can_not_be_written_stops_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit stands, whatever happens to the witness; the log says so once."""

    def fail(self: Witness, stamp: Stamp) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(Witness, "write", fail)
    with capture_logs() as logs:
        await commit(database, 3)
    assert [entry["event"] for entry in logs] == ["witness_not_written"]
    assert not database.problem
