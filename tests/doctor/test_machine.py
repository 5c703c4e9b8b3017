"""What the doctor says about the machine and the data directory."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from relay_tornado import __version__
from relay_tornado.doctor import machine
from relay_tornado.doctor.finding import Finding
from relay_tornado.model import GIB, MIB
from relay_tornado.storage import sqlite_compat
from relay_tornado.storage.lock import Owner
from tests.needs import needs_root
from tests.ops.filling import change, fill

Disk = namedtuple("Disk", "f_bavail f_frsize f_blocks f_files f_favail")


@pytest.fixture
def data(disk_path: Path) -> Path:
    directory = disk_path / "data"
    directory.mkdir(mode=0o700)
    for name in ("relay.db", "relay.db-wal", "relay.witness"):
        (directory / name).touch(mode=0o600)
    return directory


def found(findings: object) -> dict[str, Finding]:
    return {each.name: each for each in findings}  # type: ignore[attr-defined]


def test_a_directory_in_order(data: Path) -> None:
    """Of a good directory nothing is said but good, and nothing is left in it."""
    files = set(data.iterdir())
    here = Owner(os.getpid(), __version__)
    said = found(machine.look(data, MIB, here))
    assert {name for name, each in said.items() if each.level == "fail"} == set()
    warned = {name for name, each in said.items() if each.level == "warn"}
    assert warned <= {"clock", "sync", "descriptors", "space", "database"}
    assert all(each.remedy for each in said.values() if each.level != "ok")
    assert set(said) == {
        *("running", "database", "directory", "files", "file system", "space", "sync", "descriptors", "clock", "sqlite")
    }
    assert set(data.iterdir()) == files


def test_who_runs(data: Path) -> None:
    """No relay, or one of another version than this program, is said."""
    nobody = found(machine.look(data, MIB, None))["running"]
    assert (nobody.level, nobody.remedy.partition(":")[0]) == ("warn", "start it")
    other = found(machine.look(data, MIB, Owner(os.getpid(), "0.0.9")))["running"]
    assert (other.level, "0.0.9" in other.says) == ("warn", True)
    (data / "relay.db").write_bytes(b"junk")
    assert found(machine.look(data, MIB, None))["running"].remedy.startswith("see to the database first")


def test_others_could_read(data: Path) -> None:
    """A directory or a file that others may open is named, with the command that mends it, and nobody else's files."""
    (data / "relay.db").chmod(0o644)
    data.chmod(0o755)
    said = found(machine.rights(data))
    assert "relay.db" in said["modes"].says
    assert said["modes"].remedy == f"chmod 0600 {data}/relay.db"
    assert "files" not in said
    assert (said["directory"].level, said["directory"].remedy) == ("warn", f"chmod 0700 {data}")
    (data / "relay.conf").touch(mode=0o644)
    said = found(machine.rights(data))
    assert said["modes"].remedy == f"chmod 0600 {data}/relay.db"
    assert "chmod" not in said["directory"].remedy
    data.chmod(0o701)
    (data / "relay.db").chmod(0o601)
    said = found(machine.rights(data))
    assert (said["directory"].level, said["modes"].remedy) == ("warn", f"chmod 0600 {data}/relay.db")


def test_many_files_are_told_in_short(data: Path) -> None:
    """Three by their names, and how many more there are; what mends it names all."""
    for name in ("relay.lock", "series.db"):
        (data / name).touch()
    names = sorted(path.name for path in data.iterdir())
    for name in names:
        (data / name).chmod(0o644)
    said = found(machine.rights(data))["modes"]
    assert said.says.startswith("relay.db, relay.db-wal, relay.lock and 2 more in ")
    assert said.remedy == f"chmod 0600 {' '.join(f'{data}/{name}' for name in names)}"
    (data / "relay.lock").unlink()
    assert "relay.witness and 1 more in " in found(machine.rights(data))["modes"].says
    (data / "relay.witness").unlink()
    assert found(machine.rights(data))["modes"].says.startswith("relay.db, relay.db-wal, series.db in ")


def test_a_file_on_another_disk(data: Path, disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where relay.db is a symlink, its own disk is looked at; the symlink's mode is nobody's."""
    (data / "relay.db").rename(disk_path / "relay.db")
    (data / "relay.db").symlink_to(disk_path / "relay.db")
    monkeypatch.setattr(machine, "space", lambda disk, reserve: Finding("space", "ok", str(disk)))
    said = found(machine.look(data, MIB, Owner(os.getpid(), __version__)))
    assert said["space"].says == str(disk_path)
    assert (said["database"].level, "is empty" in said["database"].says, said["files"].level) == ("warn", True, "ok")


def test_the_sessions_of_the_page(data: Path) -> None:
    """They are the relay's own, too: a directory with them in it may be closed, and so may they."""
    for name in ("sessions.json", "sessions.new"):
        (data / name).touch()
        (data / name).chmod(0o644)
    data.chmod(0o755)
    said = found(machine.rights(data))
    assert said["directory"].remedy == f"chmod 0700 {data}"
    assert said["modes"].remedy == f"chmod 0600 {data}/sessions.json {data}/sessions.new"


def test_no_relays_directory(tmp_path: Path) -> None:
    """One finding, which fails, whatever else lies there."""
    (tmp_path / "relay.conf").touch()
    tmp_path.chmod(0o755)
    (only,) = machine.look(tmp_path, MIB, None)
    assert (only.name, only.level) == ("data", "fail")
    assert not list(tmp_path.glob(".doctor*"))


def test_databases(data: Path) -> None:
    """A relay's is told from an empty one, from none, from another program's, and from one that was lost."""
    assert machine.database(data).level == "warn"
    (data / "relay.db").write_bytes(b"junk")
    assert (machine.database(data).level, "relay check" in machine.database(data).remedy) == ("fail", True)
    (data / "relay.db").unlink()
    assert machine.database(data).level == "fail"
    fill(data, "orders", 3)
    assert machine.database(data) == Finding("database", "ok", "events that were ever stored in it: 3")
    change(data / "relay.db", "DELETE FROM meta")
    assert machine.database(data).level == "fail"
    (data / "relay.db").write_bytes(b"")
    assert "3 events" in machine.database(data).says
    with closing(sqlite3.connect(data / "relay.db")) as raw:
        raw.execute("CREATE TABLE notes (text)")
    assert "not a relay's" in machine.database(data).says


def test_a_database_that_can_not_be_opened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is mounted read-only, or the wrong owner, is no damage: no backup has to be restored."""

    def look(path: Path) -> None:
        raise error

    monkeypatch.setattr(machine.start, "look", look)
    monkeypatch.setattr(machine.permissions, "advice", lambda directory: f"mount {directory} read-write")
    error: Exception = sqlite3.OperationalError("unable to open database file")
    assert machine.database(data).remedy == f"mount {data} read-write"
    error = PermissionError(errno.EACCES, "Permission denied", str(data / "relay.witness"))
    assert machine.database(data).remedy == f"mount {data} read-write"
    error = sqlite3.DatabaseError("database disk image is malformed")
    assert "restore" in machine.database(data).remedy
    monkeypatch.setattr(machine.permissions, "advice", lambda directory: None)
    error = IsADirectoryError(errno.EISDIR, "Is a directory", str(data / "relay.witness"))
    assert machine.database(data).remedy == "relay check says more"


def test_an_older_wal(data: Path, tmp_path: Path) -> None:
    """It is no damage of the file, and the next start knows what to do."""
    wal = data / "relay.db-wal"
    fill(data, "orders", 1)
    with closing(sqlite3.connect(data / "relay.db")) as raw:
        raw.execute("UPDATE meta SET commits = commits + 1")
        raw.commit()
        shutil.copy(wal, tmp_path / "old")
    fill(data, "orders", 1)
    shutil.copy(tmp_path / "old", wal)
    for owner in (None, Owner(1, __version__)):  # nobody, or a relay that is being started
        said = machine.database(data, owner)
        assert (said.level, said.remedy) == ("fail", "relay serve puts it aside, or says what to do")
        assert f"{wal} ends at commit" in said.says


def test_a_directory_that_was_emptied_under_a_running_relay(data: Path) -> None:
    """It is one all the same, and what it acknowledged is in the files that it has open."""
    for path in data.iterdir():
        path.unlink()
    said = found(machine.look(data, MIB, Owner(os.getpid(), __version__)))
    assert said["database"].remedy.startswith("do not stop the relay")
    assert said["clock"].level != "fail"


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_was_taken_from_a_running_relay(data: Path, tmp_path: Path, link: bool) -> None:
    """What was acknowledged is in the files that it has open: so nobody is told to stop it."""
    (data / "relay.db").unlink()
    if link:
        (data / "relay.db").symlink_to(tmp_path / "gone")
    said = found(machine.look(data, MIB, Owner(os.getpid(), __version__)))["database"]
    assert said.level == "fail"
    assert said.remedy.startswith("do not stop the relay")
    assert "RelayNotReady" in said.remedy
    assert "do not stop" not in machine.database(data).remedy


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_another_file_in_the_place_of_a_running_relays(data: Path, content: bytes) -> None:
    """Before it is stopped, whoever reads this looks whether that is the file that it has open."""
    fill(data, "orders", 3)
    (data / "relay.db").write_bytes(content)
    said = machine.database(data, Owner(os.getpid(), __version__))
    assert said.level == "fail"
    assert said.remedy.index("do not stop the relay") < said.remedy.index("; stop the relay")
    assert "do not stop" not in machine.database(data).remedy


@pytest.mark.parametrize("place", ["disk", "disk/relay"])
def test_a_disk_that_is_not_mounted(data: Path, tmp_path: Path, place: str) -> None:
    """Where relay.db is a symlink to it, that is said, and all else is looked at."""
    (tmp_path / "disk").mkdir()
    (data / "relay.db").unlink()
    (data / "relay.db").symlink_to(tmp_path / place / "relay.db")
    said = found(machine.look(data, MIB, None))
    assert said.keys() == found(machine.look(data, MIB, Owner(os.getpid(), __version__))).keys()
    assert (said["database"].level, said["clock"].level != "fail", said["sync"].level != "fail") == ("fail", True, True)
    assert f"{tmp_path / place / 'relay.db'}, which is not there" in said["database"].says
    assert "mount the disk" in said["database"].remedy


def test_a_file_of_another_user(data: Path) -> None:
    """What root made in a relay's directory is found: the relay could not write it."""
    needs_root("it gives a file to another user")
    os.chown(data / "relay.witness", 12345, 12345)
    owner = found(machine.rights(data))["owner"]
    assert (owner.level, "relay.witness" in owner.says) == ("fail", True)
    assert "files" not in found(machine.rights(data))
    assert owner.remedy == f"chown --reference={data} {data}/relay.witness"


@pytest.mark.parametrize(
    ("free", "inodes", "level"),
    [
        (100 * GIB, 10, "ok"), (GIB, 10, "ok"), (GIB - 4096, 10, "warn"), (300 * MIB, 10, "warn"),
        (256 * MIB, 10, "fail"), (100 * GIB, 0, "fail"), (100 * GIB, None, "ok"),
    ],
)  # fmt: skip
def test_space(data: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int | None, level: str) -> None:
    """Warned of well before webhooks are refused. A file system that counts no inodes has enough of them."""
    disk = Disk(free // 4096, 4096, 200 * GIB // 4096, 0 if inodes is None else 100, inodes or 0)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    assert machine.space(data, 256 * MIB).level == level


@pytest.mark.parametrize(("seconds", "level"), [(0.001, "ok"), (0.02, "warn"), (0.2, "fail")])
def test_syncs(data: Path, seconds: float, level: str) -> None:
    """A slow disk is found by its median sync."""
    ticks = iter(range(1_000))
    assert machine.syncing(data, lambda: next(ticks) * seconds).level == level


def test_a_disk_that_hardly_syncs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found after a few syncs: all of them would take a minute."""
    now = [0.0]
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: now.append(now[-1] + 1.5))
    assert machine.syncing(data, lambda: now[-1]).level == "fail"
    assert len(now) == 1 + 2


def test_each_write_is_synced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the sync that is timed, and the worst of them is told."""
    times = [0.001] * (machine.SYNCS - 1) + [0.5]
    now = [0.0]
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: now.append(now[-1] + times.pop()))
    assert machine.syncing(data, lambda: now[-1]) == Finding("sync", "ok", "1.0 ms a sync, 500.0 at worst")
    assert times == []


def test_a_directory_that_can_not_be_written(tmp_path: Path) -> None:
    """That is the finding, not a traceback."""
    said = machine.syncing(tmp_path / "none")
    assert (said.level, said.remedy.partition(";")[0]) == ("fail", "run this as the relay's user")


@pytest.mark.parametrize(
    ("number", "advised"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "the disk has failed"),
        (errno.EROFS, "mount its disk read-write"),
        (errno.EACCES, "as the relay's user"),
    ],
)
def test_what_mends_a_directory_that_can_not_be_written(
    data: Path, monkeypatch: pytest.MonkeyPatch, number: int, advised: str
) -> None:
    """A full disk, or one that became read-only, is no matter of rights."""

    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    said = machine.syncing(data)
    assert (said.level, advised in said.remedy) == ("fail", True)


def test_a_file_that_the_disk_can_not_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is to be looked at, before a backup is restored onto it."""

    def look(path: Path) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(machine.start, "look", look)
    said = machine.database(data)
    assert (said.level, said.remedy.partition(":")[0]) == ("fail", "the disk has failed")
    assert "dmesg" in said.remedy


def test_descriptors_that_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that has as many open as it may fails, whatever the limit; one that has nearly as many still works."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "ulimit -n 5000; echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        here = Owner(other.pid, "")
        assert machine.descriptors(here).level == "ok"
        resource.prlimit(other.pid, resource.RLIMIT_NOFILE, (3, 5000))
        said = machine.descriptors(here)
        monkeypatch.setattr(machine, "_open_in", lambda owner: 4600)
        resource.prlimit(other.pid, resource.RLIMIT_NOFILE, (5000, 5000))
        near = machine.descriptors(here)
        other.communicate()
    assert (said.level, "accepts no more" in said.remedy) == ("fail", True)
    assert (near.level, "accepts no more" in near.remedy) == ("warn", False)


def test_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the running relay's own, or what a start would get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with subprocess.Popen(
        ["/bin/sh", "-c", "ulimit -Sn 777; echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert machine.descriptors(Owner(other.pid, "")).says.startswith("777 may be open")
        other.communicate()
    assert machine.descriptors(Owner(other.pid, "")).says.startswith(str(hard))
    for limit, level in (
        *((256, "fail"), (511, "fail"), (512, "warn"), (4095, "warn"), (4096, "ok")),
        (resource.RLIM_INFINITY, "ok"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (64, limit))
        said = machine.descriptors(None)
        assert (said.level, said.remedy == "") == (level, level == "ok")


def test_clocks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was never set, runs behind the files, or is kept by nobody is found."""
    for path in data.iterdir():
        os.utime(path, (0, 0))
    assert found(machine.clock(data, lambda: 1_000_000_000.0))["clock"].level == "fail"
    os.utime(data / "relay.db", (time.time() + 3600,) * 2)
    assert found(machine.clock(data))["clock"].level == "fail"
    os.utime(data / "relay.db")
    for kept, level in ((True, "ok"), (False, "warn"), (None, "ok")):
        monkeypatch.setattr(machine, "_synchronised", lambda kept=kept: kept)
        assert found(machine.clock(data))["clock"].level == level
    monkeypatch.setattr(machine, "_written_at", lambda data: time.time() + 60)
    assert found(machine.clock(data))["clock"].level == "warn"
    monkeypatch.setattr(machine, "_written_at", lambda data: None)
    assert found(machine.clock(data))["clock"].level == "ok"


def test_the_file_systems_clock(data: Path) -> None:
    """It is asked by a file in the directory itself, where one can be made."""
    (data / "before").touch()
    at = machine._written_at(data)
    (data / "after").touch()
    assert at is not None
    assert (data / "before").stat().st_mtime <= at <= (data / "after").stat().st_mtime
    assert machine._written_at(data / "none") is None


@pytest.mark.parametrize(("state", "kept"), [(0, True), (4, True), (5, False), (-1, None)])
def test_who_keeps_the_clock(monkeypatch: pytest.MonkeyPatch, state: int, kept: bool | None) -> None:
    """The system says by what it answers, and may not answer."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(ntp_adjtime=lambda asked: state))
    assert machine._synchronised() is kept


def test_an_old_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that will do will do, and an older one fails."""
    monkeypatch.setattr(sqlite_compat, "LEAST_SQLITE", sqlite3.sqlite_version_info)
    assert machine._sqlite().level == "ok"
    monkeypatch.setattr(sqlite_compat, "LEAST_SQLITE", (99, 1, 2))
    assert (machine._sqlite().level, "older than 99.1.2" in machine._sqlite().says) == ("fail", True)


def test_file_systems(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's, and memory, are no place for a log."""
    for kind, level in (("ext4", "ok"), ("nfs4", "fail"), ("tmpfs", "fail"), ("", "ok")):
        monkeypatch.setattr(machine, "_mounted", lambda path, kind=kind: kind)
        said = machine._file_system(data)
        assert said.level == level
        assert said.says == (kind or "not known") or level == "fail"


def test_which_file_system_holds_a_path(tmp_path: Path) -> None:
    """The one that is mounted nearest above it, and of two in one place the later one."""
    assert machine._mounted(Path("/proc/self")) == "proc"
    mounts = tmp_path / "mounts"
    (tmp_path / "a b").mkdir()
    here = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(
        f"x / ext4 rw 0 0\nx {here} xfs rw 0 0\nx {here} btrfs rw 0 0\nx {here}/a\\040b nfs4 rw 0 0\n"
        f"x {here}/c tmpfs rw 0 0\nx / overlay rw 0 0\n"
    )
    for path, kind in ((tmp_path, "btrfs"), (tmp_path / "a b" / "d", "nfs4"), (Path("/nowhere"), "overlay")):
        assert machine._mounted(path, mounts) == kind
    for name, escaped in ((b"a\tb", b"a\\011b"), (b"a\nb", b"a\\012b"), (b"#\\\xff\x85", b"\\043\\134\xff\x85")):
        mounts.write_bytes(b"x / ext4 rw 0 0\nx %s/%s nfs4 rw 0 0\n" % (os.fsencode(here), escaped))
        assert machine._mounted(tmp_path / os.fsdecode(name), mounts) == "nfs4"
    assert machine._mounted(tmp_path, tmp_path / "none") == ""
