"""The WAL's index: what it says of the WAL, and how it is created where a full disk would end the process otherwise."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.settings import Settings
from relay_tornado.storage import no_cow, wal_index
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import beside
from relay_tornado.storage.wal_index import FRAME_HEAD, HEAD, WalIndex
from relay_tornado.storage.witness import NAME
from tests.faults.disk import Disk, needs_disk
from tests.faults.full_disks import SIZES
from tests.storage.jobs import names, put

PAGE = 4096


def flagged(path: Path) -> bool:
    with path.open("rb") as file:
        return no_cow.has_flag(file.fileno())


def in_wal_mode(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    raw.execute("CREATE TABLE t (x)")
    return raw


def test_what_a_checkpoint_has_yet_to_copy(tmp_path: Path) -> None:
    """Everything but the WAL's header at first; nothing once it is copied, though the WAL stays as long; then what was
    added, and what a reader's snapshot holds back."""
    path = tmp_path / "x.db"
    with closing(in_wal_mode(path)) as raw, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        index = WalIndex(path, PAGE)
        wal = beside(path, "-wal")
        for _ in range(3):
            raw.execute("INSERT INTO t VALUES (zeroblob(3000))")
        assert index.uncopied() == wal.stat().st_size - HEAD > 0
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert (index.uncopied(), wal.stat().st_size > HEAD) == (0, True)
        raw.execute("INSERT INTO t VALUES (1)")
        assert index.uncopied() == FRAME_HEAD + PAGE
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        raw.execute("INSERT INTO t VALUES (2)")
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert index.uncopied() == FRAME_HEAD + PAGE
        reader.execute("ROLLBACK")
    assert index.uncopied() is None  # SQLite has removed it
    index.close()
    assert index.uncopied() is None


def test_how_long_the_file_becomes(tmp_path: Path) -> None:
    """As long as a checkpoint makes it, longer or shorter; unknown without frames."""
    path = tmp_path / "x.db"
    with closing(in_wal_mode(path)) as raw:
        index = WalIndex(path, PAGE)
        for sql in ("INSERT INTO t VALUES (zeroblob(30000))", "DELETE FROM t; VACUUM"):
            raw.executescript(sql)
            length = index.length()
            assert length != path.stat().st_size
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
            assert length == index.length() == path.stat().st_size
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert index.length() == 0
    index.close()


def test_which_pages_a_wal_has(tmp_path: Path) -> None:
    """Those of its frames, and after it began again none of before."""
    path = tmp_path / "x.db"
    with closing(in_wal_mode(path)) as raw:
        index = WalIndex(path, PAGE)
        for _ in range(5):
            raw.execute("INSERT INTO t VALUES (zeroblob(3000))")
        before = index.read()
        assert before is not None
        wal = beside(path, "-wal").read_bytes()
        places = range(HEAD, len(wal), FRAME_HEAD + PAGE)
        assert index.pages(before) == {int.from_bytes(wal[place : place + 4]) for place in places}
        raw.execute("PRAGMA wal_checkpoint(RESTART)")
        raw.execute("UPDATE t SET x = 1 WHERE rowid = 5")
        after = index.read()
        assert after is not None
        assert after.number < before.number
        assert after.salts != before.salts
        assert 0 < len(index.pages(after)) <= after.number
        assert 0 not in index.pages(after)
    index.close()


def test_space_counts_what_is_not_copied(tmp_path: Path) -> None:
    """A WAL that is copied takes no more space than it has taken: its bytes are no longer free, and are not subtracted
    from those that are."""

    async def run() -> list[tuple[bool, bool]]:
        database = await Database.open(Settings(data=tmp_path))
        found = []
        try:
            for number in range(20):
                await database.write(put(f"some {number}"))
            for _ in range(2):
                database._space._next_look = 0.0
                space = database.space
                found.append((space.wal > 0, space.room == space.free - space.least))
                await database._writer._checkpoint("PASSIVE")
        finally:
            await database.close()
        return found

    assert asyncio.run(run()) == [(True, False), (True, True)]


def test_the_index_is_created_where_the_file_system_has_the_flag(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any connection is made, for the owner only; SQLite uses it as its own."""
    index = settings.data / "relay.db-shm"
    found: list[int] = []

    def set_flag(descriptor: int) -> bool:
        found.append(os.fstat(descriptor).st_ino)
        return True

    monkeypatch.setattr(no_cow, "set_flag", set_flag)

    async def run() -> list[str]:
        database = await Database.open(settings)
        try:
            await database.write(put("one"))
            assert (index.stat().st_ino in found, index.stat().st_mode & 0o777) == (True, 0o600)
            return await database.read(names)
        finally:
            await database.close()

    assert asyncio.run(run()) == ["one"]


def test_elsewhere_nothing_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: another program might open it."""
    monkeypatch.setattr(no_cow, "set_flag", lambda descriptor: os.listdir(tmp_path) != [])  # noqa: PTH208
    wal_index.create(tmp_path / "relay.db")
    assert list(tmp_path.iterdir()) == []


def test_an_index_without_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of an earlier version: it is emptied and gets the flag, unless another program has the database open."""
    path, flagged = tmp_path / "x.db", set[int]()
    monkeypatch.setattr(no_cow, "set_flag", lambda descriptor: flagged.add(os.fstat(descriptor).st_ino) or True)
    monkeypatch.setattr(no_cow, "has_flag", lambda descriptor: os.fstat(descriptor).st_ino in flagged)
    shm = beside(path, "-shm")
    other = "import sqlite3, sys; raw = sqlite3.connect(sys.argv[1]); raw.execute('SELECT * FROM t'); print(); input()"
    with closing(in_wal_mode(path)):
        shutil.copy(shm, tmp_path / "left")
    with subprocess.Popen(
        (sys.executable, "-c", other, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = shm.read_bytes()
        wal_index.create(path)
        assert (shm.read_bytes() == used, shm.stat().st_ino in flagged) == (True, False)
        process.communicate(b"\n")
    shutil.copy(tmp_path / "left", shm)  # as a kill -9 leaves it
    wal_index.create(path)
    assert (shm.stat().st_size, shm.stat().st_ino in flagged) == (0, True)
    shutil.copy(tmp_path / "left", shm)
    wal_index.create(path)
    assert shm.stat().st_size > 0  # it has the flag
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_on_btrfs(tmp_path: Path) -> None:
    """The index and the witness are changed in place, so that a full disk has room for their changes; the events have
    btrfs's checksums. (./scripts/prove disk-btrfs fills such a disk.)"""
    needs_disk("btrfs")

    async def run(data: Path) -> dict[str, bool]:
        database = await Database.open(Settings(data=data))
        try:
            await database.write(put("one"))
            return {name: flagged(data / name) for name in ("relay.db", "relay.db-wal", "relay.db-shm", NAME)}
        finally:
            await database.close()

    with Disk(tmp_path, SIZES["btrfs"], kind="btrfs") as disk:
        found = asyncio.run(run(disk.place / "data"))
    assert found == {"relay.db": False, "relay.db-wal": False, "relay.db-shm": True, NAME: True}
