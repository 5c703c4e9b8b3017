"""What lies in the data directory when a relay starts."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from relay_tornado.errors import NotWritable, StartupError
from relay_tornado.ops.backup import make
from relay_tornado.ops.opening import open_file
from relay_tornado.ops.stats import stats
from relay_tornado.settings import Settings
from relay_tornado.storage import database_files, migrate, start, wal_check
from relay_tornado.storage.database import Database
from relay_tornado.storage.space import Space
from relay_tornado.storage.witness import NAME, Witness
from tests.needs import needs, needs_root
from tests.storage.faults import crash
from tests.storage.jobs import names, put

COLUMNS = ("id", "commits", "appended")

storage_test = pytest.mark.gen_test(timeout=60)


@storage_test
async def test_a_symlink_to_the_file(settings: Settings, tmp_path: Path) -> None:
    """The WAL lies beside the file that it leads to, and is looked for there; the witness stays in the directory."""
    settings.data.mkdir()
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "events.db"
    (settings.data / "relay.db").symlink_to(real)
    for name in "ab":
        database = await Database.open(settings)
        await database.write(put(name))
        assert database.problem == ""
        space = Space(database.path, 0)
        assert not space.low()
        assert space.wal == stats(database.path, 0).wal == real.with_name("events.db-wal").stat().st_size > 0
        await database.close()
    database = await Database.open(settings)
    await database.write(put("c"))
    assert await database.read(names) == ["a", "b", "c"]
    real.with_name("events.db-wal").unlink()
    assert database.problem.startswith("events.db-wal was deleted")
    await database.close()
    assert {path.name for path in settings.data.iterdir()} == {"relay.db", "relay.lock", "relay.witness"}


@storage_test
async def test_a_disk_that_is_not_mounted(settings: Settings, tmp_path: Path) -> None:
    """Nothing is made in the empty mount point, unless the witness of what was there before is moved away."""
    settings.data.mkdir()
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    (settings.data / "relay.db").symlink_to(disk / "relay.db")
    database = await Database.open(settings)
    await database.write(put("a"))
    await database.close()
    disk.rename(kept)
    for _ in range(2):
        with pytest.raises(StartupError, match=r"disk/relay\.db, which is not there: mount .*relay\.witness away"):
            await Database.open(settings)
        disk.mkdir(exist_ok=True)
    assert not list(disk.iterdir())
    disk.rmdir()
    kept.rename(disk)
    assert await stored(settings) == ["a"]
    disk.rename(kept)
    disk.mkdir()
    (settings.data / "relay.witness").unlink()
    assert await stored(settings) == []


@storage_test
async def test_a_symlink_to_the_directory(settings: Settings, tmp_path: Path) -> None:
    """It is as good as the directory itself."""
    (tmp_path / "real").mkdir()
    settings.data.symlink_to("real")
    for name in "ab":
        database = await Database.open(settings)
        await database.write(put(name))
        assert database.problem == ""
        assert (tmp_path / "real" / "relay.db-wal").stat().st_size > 0
        await database.close()
    database = await Database.open(settings)
    assert await database.read(names) == ["a", "b"]
    await database.close()


async def commit(settings: Settings, *jobs: str, keep: bool = False) -> Path:
    """The file after a crash behind these commits; `keep`: those before are in the WAL, too."""
    database = await Database.open(settings)
    if not keep:
        await database.shrink()
    for name in jobs:
        await database.write(put(name))
    await crash(database)
    return database.path


async def stored(settings: Settings) -> list[str]:
    database = await Database.open(settings)
    try:
        assert database.loss is None
        return await database.read(names)
    finally:
        await database.close()


def test_the_entry_of_a_new_file_is_synced(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that of its directory, which may be new, too: where the file is, and not where a symlink to it lies."""
    sync, synced = database_files.sync, []

    def note(path: Path) -> None:
        synced.append(path.resolve())
        sync(path)

    monkeypatch.setattr(database_files, "sync", note)
    real = tmp_path / "disk" / "data" / "events.db"
    real.parent.mkdir(parents=True)
    settings.data.mkdir()
    path = settings.data / "relay.db"
    path.symlink_to(real)
    start.secure(path)
    assert synced[:2] == [real.parent, real.parent.parent]
    assert real.exists()
    before = len(synced)
    start.secure(path)
    assert real.parent not in synced[before:]


@storage_test
@pytest.mark.parametrize("new", [True, False])
async def test_a_file_beside_the_witness_of_another(settings: Settings, tmp_path: Path, new: bool) -> None:
    """The witness is this file's from then on: what it loses is told."""
    elsewhere = replace(settings, data=tmp_path / "elsewhere")
    assert await stored(elsewhere) == []
    path = await commit(settings, *"abcdef")
    for end in ("", "-wal", "-shm"):
        path.with_name(f"relay.db{end}").unlink()
    if not new:
        shutil.copy(elsewhere.data / "relay.db", path)
    database = await Database.open(settings)
    shutil.copy(path, tmp_path / "older.db")
    await database.write(put("x"))
    await database.close()
    shutil.copy(tmp_path / "older.db", path)
    database = await Database.open(settings)
    assert database.loss is not None
    await database.close()


@storage_test
async def test_a_new_file_in_the_place_of_one_that_was_condemned(settings: Settings) -> None:
    """The mark is no more than of that one: it refuses none that is missing, and none that was made then."""
    path = await commit(settings, "a")
    witness = Witness.open(settings.data / NAME)
    witness.condemn()
    witness.close()
    with pytest.raises(StartupError, match="may have pages of both files"):
        await Database.open(settings)
    for end in ("", "-wal", "-shm"):
        path.with_name(f"relay.db{end}").unlink()
    for _ in range(2):
        assert await stored(settings) == []


@storage_test
@pytest.mark.parametrize("pages", [-3, 3])
async def test_a_journal_of_a_file_of_another_size(settings: Settings, pages: int) -> None:
    """It is rolled back into no file that is shorter or longer than its own can have been."""
    assert await stored(settings) == []
    path = settings.data / "relay.db"
    journal = path.with_name("relay.db-journal")
    before = path.read_bytes()
    head = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 0, len(before) // 4096 + pages, 512, 4096)
    journal.write_bytes(head.ljust(512, b"\0"))
    with pytest.raises(StartupError, match=r"relay\.db-journal does not belong to .*relay\.db, .*move it away"):
        await Database.open(settings)
    assert path.read_bytes() == before
    journal.unlink()
    assert await stored(settings) == []


@storage_test
@pytest.mark.parametrize("harm", ["missing", "empty"])
async def test_a_wal_without_its_file(settings: Settings, harm: str) -> None:
    """The start is refused, a look as well, and nothing is changed: with the file put back all is there."""
    path = await commit(settings, "a", "b")
    kept = path.rename(path.with_name("kept"))
    if harm == "empty":
        path.touch()
    before = path.with_name("relay.db-wal").read_bytes()
    advice = rf"relay\.db is {harm}, .*relay\.db-wal, relay\.db-shm and relay\.witness away"
    with pytest.raises(StartupError, match=advice):
        await Database.open(settings)
    with pytest.raises(StartupError, match=advice):
        open_file(path)
    assert path.exists() == (harm == "empty")
    assert path.with_name("relay.db-wal").read_bytes() == before != b""
    kept.replace(path)
    assert await stored(settings) == ["a", "b"]


@storage_test
@pytest.mark.parametrize("copy", ["a backup", "an older copy", "another relay's", "another relay's that has more"])
async def test_a_file_beside_the_wal_of_another(settings: Settings, tmp_path: Path, copy: str) -> None:
    """The two are not mixed: the start is refused, and succeeds with either the right file or no WAL."""
    other = tmp_path / "copy.db"
    theirs = list("vwxyz") if copy.endswith("more") else []
    await commit(settings, "a")
    assert await stored(settings) == ["a"]
    if copy == "a backup":
        make(settings.data / "relay.db", other, lambda *_: None)
    elif copy == "an older copy":
        shutil.copy(settings.data / "relay.db", other)
    else:
        elsewhere = replace(settings, data=tmp_path / "elsewhere")
        await commit(elsewhere, *theirs)
        assert await stored(elsewhere) == theirs
        shutil.copy(elsewhere.data / "relay.db", other)
    await commit(settings, "b")
    path = await commit(settings, "c", "d")
    shutil.copy(path, tmp_path / "kept")
    shutil.copy(other, path)
    with pytest.raises(StartupError, match=r"relay\.db-wal does not belong to .*relay\.db-shm and relay\.witness away"):
        await Database.open(settings)
    with pytest.raises(StartupError, match=r"relay\.db-wal does not belong to"):  # nor does a command read the mixture
        open_file(path)
    shutil.copy(tmp_path / "kept", path)
    assert await stored(settings) == ["a", "b", "c", "d"]
    for name in ("relay.db-wal", "relay.db-shm", "relay.witness"):
        path.with_name(name).unlink(missing_ok=True)
    shutil.copy(other, path)
    assert await stored(settings) == (theirs if "another" in copy else ["a"])


@storage_test
async def test_the_newest_backup_beside_the_wal(settings: Settings, tmp_path: Path) -> None:
    """It is refused, although the WAL begins with the commit behind it: SQLite would delete the WAL."""
    await commit(settings, "a")
    assert await stored(settings) == ["a"]
    make(settings.data / "relay.db", tmp_path / "copy.db", lambda *_: None)
    path = await commit(settings, "b")
    kept = path.rename(tmp_path / "kept")
    shutil.copy(tmp_path / "copy.db", path)
    first, last = wal_check.in_file(path)[0].commits, wal_check.in_file(kept)[0].commits
    assert first == last
    with pytest.raises(StartupError, match=r"relay\.db-wal does not belong to .*is a backup or a copy"):
        await Database.open(settings)
    kept.replace(path)
    assert await stored(settings) == ["a", "b"]


@storage_test
async def test_a_wal_whose_header_is_damaged(settings: Settings) -> None:
    """SQLite passes over all that is in it, and the start tells the loss, whatever bit was flipped of what says which
    byte order it has, or of the page size."""
    path = await commit(settings, "a")
    left = settings.data.with_name("left")
    settings.data.rename(left)
    for byte in (3, 10, 11):
        for bit in range(8):
            shutil.copytree(left, settings.data)
            wal = path.with_name("relay.db-wal")
            damaged = bytearray(wal.read_bytes())
            damaged[byte] ^= 1 << bit
            wal.write_bytes(damaged)
            database = await Database.open(settings)
            assert database.loss is not None
            assert await database.read(names) == []
            await database.close()
            shutil.rmtree(settings.data)


@storage_test
@pytest.mark.parametrize("cut", [None, 31, 42, 100])
async def test_a_wal_whose_frames_are_damaged(settings: Settings, cut: int | None) -> None:
    """What their checksums do not cover says nothing: it is no other relay's WAL, and the start tells the loss. Nor
    does one that ends within its header, or within a frame."""
    path = await commit(settings, "a")
    own = wal_check.in_file(path)[0].database.encode()
    wal = path.with_name("relay.db-wal")
    before = wal.read_bytes()
    wal.write_bytes(before[:cut] if cut else before.replace(own, b"0" * len(own)))
    assert wal.read_bytes() != before
    database = await Database.open(settings)
    assert database.loss is not None
    assert await database.read(names) == []
    await database.close()


@storage_test
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta",
        *(f"UPDATE meta SET {each} = NULL" for each in COLUMNS),
        "UPDATE meta SET commits = commits - 0x7fffffffffffffff - 1",  # its first bit
        "UPDATE meta SET appended = -1",
        "UPDATE meta SET commits = 0x7fffffffffffffff",
    ],
)
async def test_a_file_that_does_not_say_what_it_is(settings: Settings, damage: str) -> None:
    """The start is refused in words."""
    assert await stored(settings) == []
    with contextlib.closing(sqlite3.connect(settings.data / "relay.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'meta'")
        raw.execute("PRAGMA writable_schema = RESET")
        raw.execute(damage)
    with pytest.raises(StartupError, match=r"damaged .*its table meta is empty or damaged.*relay restore"):
        await Database.open(settings)


@storage_test
async def test_a_wal_and_its_own_file(settings: Settings, tmp_path: Path) -> None:
    """They are never told apart, wherever the crash was, and where the directory was copied or moved since."""
    expected: list[str] = []
    for number in range(24):
        jobs = [f"{number}-{job}" for job in range(number % 4)]
        await commit(settings, *jobs, keep=number % 3 != 1)
        expected += jobs
        settings.data.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", settings.data)
        shutil.rmtree(tmp_path / "moved")
    assert await stored(settings) == expected


@storage_test
async def test_too_few_descriptors(settings: Settings) -> None:
    """It is said as that, wherever they end, and not as want of rights or as an error of the disk."""
    database = await Database.open(settings)
    await database.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    said = set()
    for more in range(2, 6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, limits[1]))
        try:
            with pytest.raises(StartupError) as error:
                await (await Database.open(settings)).close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        said.add(str(error.value))
    assert len(said) == 1
    assert "no more files can be opened" in said.pop()


@pytest.mark.parametrize("linked", [False, True], ids=["directory", "file"])
def test_what_only_this_service_may_not_write(settings: Settings, tmp_path: Path, linked: bool) -> None:
    """As systemd shows a unit most of the machine: where the data lies there, the start says how the unit names it."""
    needs("unshare", "apt-get install util-linux")
    needs_root("it mounts a directory read-only")
    shut = tmp_path / "shut"
    (shut / "data").mkdir(parents=True)
    data = settings.data if linked else shut / "data"
    if linked:
        data.mkdir()
        (shut / "events.db").touch()
        (data / "relay.db").symlink_to(shut / "events.db")
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    serve = [sys.executable, "-m", "relay_tornado", "serve", "--port", "0", "--data", str(data)]
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(shut), *serve]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mount it read-write, or name it in ReadWritePaths= of the service's unit" in done.stderr


def test_no_room_for_the_index_of_the_wal(tmp_path: Path) -> None:
    """A disk that is full to the last byte is called so, though SQLite calls it an I/O error."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert "there is no room for" in str(start.refusal(tmp_path / "relay.db", error))
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert "can't be opened" in str(start.refusal(tmp_path / "relay.db", error))


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        *((OSError(each, "it failed"), "raise the limit") for each in (errno.EMFILE, errno.ENFILE)),
        *((OSError(each, "it failed"), "needs the right") for each in (errno.EACCES, errno.EPERM, errno.EISDIR)),
        (OSError(errno.EROFS, "it failed"), "mount it read-write"),
        (OSError(errno.EAGAIN, "raise the limit"), "raise the limit"),
        (OSError(errno.ENOSPC, "it failed"), "free some space"),
        (OSError(errno.EIO, "it failed"), "Check the disk"),
        *(
            (of_sqlite(each), "needs the right")
            for each in (sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
        ),
        (of_sqlite(sqlite3.SQLITE_FULL), "free some space"),
        *((of_sqlite(each), "restore a backup") for each in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)),
        (of_sqlite(sqlite3.SQLITE_IOERR), "Check the disk"),
    ],
    ids=str,
)
def test_why_a_file_can_not_be_opened(tmp_path: Path, error: sqlite3.Error | OSError, advice: str) -> None:
    """Who starts the relay is told what to do about that, and not about something else."""
    refusal = start.refusal(tmp_path / "relay.db", error)
    assert advice in str(refusal)
    assert isinstance(refusal, NotWritable) == (advice in ("needs the right", "mount it read-write"))


@storage_test
@pytest.mark.parametrize("missing", ["schema.sql", "storage/migrations/0001.sql", "storage/migrations"])
async def test_an_installation_that_is_damaged(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """It is said which of its files is missing, and nothing of relay.db; the whole one starts with the directory."""
    package = tmp_path / "relay_tornado"
    (package / "storage").mkdir(parents=True)
    source = Path(migrate.__file__).parents[1]
    shutil.copytree(source / "storage/migrations", package / "storage/migrations")
    shutil.copyfile(source / "schema.sql", package / "schema.sql")
    gone = package / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    files = SimpleNamespace(files=lambda name: tmp_path.joinpath(*name.split(".")))
    with monkeypatch.context() as damaged:
        damaged.setattr(migrate, "resources", files)
        with pytest.raises(StartupError, match=rf"^the installation .* is damaged: {gone}.* is missing\. Install it"):
            await Database.open(settings)
    database = await Database.open(settings)
    await database.close()
