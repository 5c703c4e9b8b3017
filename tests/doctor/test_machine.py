"""What the doctor says about the machine and the data directory."""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado import __version__
from relay_tornado.doctor import machine
from relay_tornado.doctor.finding import Finding
from relay_tornado.model import GIB, MIB
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
    assert set(data.iterdir()) == files


def test_who_runs(data: Path) -> None:
    """No relay, or one of another version than this program, is said."""
    assert found(machine.look(data, MIB, None))["running"].level == "warn"
    other = found(machine.look(data, MIB, Owner(os.getpid(), "0.0.9")))["running"]
    assert (other.level, "0.0.9" in other.says) == ("warn", True)


def test_others_could_read(data: Path) -> None:
    """A directory or a file that others may open is named, with the command that mends it, and nobody else's files."""
    (data / "relay.db").chmod(0o644)
    data.chmod(0o755)
    said = found(machine.rights(data))
    assert "relay.db" in said["modes"].says
    assert said["modes"].remedy == f"chmod 0600 {data}/relay.db"
    assert (said["directory"].level, said["directory"].remedy) == ("warn", f"chmod 0700 {data}")
    (data / "relay.conf").touch(mode=0o644)
    said = found(machine.rights(data))
    assert said["modes"].remedy == f"chmod 0600 {data}/relay.db"
    assert "chmod" not in said["directory"].remedy


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
    assert machine.database(data) == Finding("database", "ok", "3 events were ever stored in it")
    change(data / "relay.db", "DELETE FROM meta")
    assert machine.database(data).level == "fail"
    (data / "relay.db").write_bytes(b"")
    assert "3 events" in machine.database(data).says
    with closing(sqlite3.connect(data / "relay.db")) as raw:
        raw.execute("CREATE TABLE notes (text)")
    assert "not a relay's" in machine.database(data).says


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
    assert owner.remedy == f"chown --reference={data} {data}/relay.witness"


@pytest.mark.parametrize(
    ("free", "inodes", "level"),
    [(100 * GIB, 10, "ok"), (300 * MIB, 10, "warn"), (256 * MIB, 10, "fail"), (100 * GIB, 0, "fail")],
)
def test_space(data: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int, level: str) -> None:
    """Warned of well before webhooks are refused."""
    disk = Disk(free // 4096, 4096, 200 * GIB // 4096, 100, inodes)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    assert machine.space(data, 256 * MIB).level == level


@pytest.mark.parametrize(("seconds", "level"), [(0.001, "ok"), (0.02, "warn"), (0.2, "fail")])
def test_syncs(data: Path, seconds: float, level: str) -> None:
    """A slow disk is found by its median sync."""
    ticks = iter(range(1_000))
    assert machine.syncing(data, lambda: next(ticks) * seconds).level == level


def test_a_directory_that_can_not_be_written(tmp_path: Path) -> None:
    """That is the finding, not a traceback."""
    assert machine.syncing(tmp_path / "none").level == "fail"


def test_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the running relay's own, or what a start would get."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert str(soft) in machine.descriptors(Owner(os.getpid(), "")).says
    for limit, level in ((256, "fail"), (1024, "warn"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (64, limit))
        assert machine.descriptors(None).level == level


def test_clocks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was never set, runs behind the files, or is kept by nobody is found."""
    assert found(machine.clock(data, lambda: 1_000_000_000.0))["clock"].level == "fail"
    os.utime(data / "relay.db", (time.time() + 3600,) * 2)
    assert found(machine.clock(data))["clock"].level == "fail"
    os.utime(data / "relay.db")
    for kept, level in ((True, "ok"), (False, "warn"), (None, "ok")):
        monkeypatch.setattr(machine, "_synchronised", lambda kept=kept: kept)
        assert found(machine.clock(data))["clock"].level == level
    monkeypatch.setattr(machine, "_written_at", lambda data: time.time() + 60)
    assert found(machine.clock(data))["clock"].level == "warn"


def test_file_systems(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's, and memory, are no place for a log."""
    for kind, level in (("ext4", "ok"), ("nfs4", "fail"), ("tmpfs", "fail"), ("", "ok")):
        monkeypatch.setattr(machine, "_mounted", lambda path, kind=kind: kind)
        assert machine._file_system(data).level == level
