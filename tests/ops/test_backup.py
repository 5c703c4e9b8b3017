"""`relay backup`: a committed state as one file, whole and checked, or nothing at all."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.errors import NoSpace
from relay_tornado.model import MIB
from relay_tornado.ops import backup, copying
from relay_tornado.ops.backup import make
from relay_tornado.storage import database_files
from relay_tornado.storage.lock import Lock
from relay_tornado.storage.space import disk_of, share_space
from relay_tornado.storage.witness import Witness
from tests.acceptance.relay import TIMEOUT
from tests.cli.runner import Runner
from tests.faults.disk import Disk, needs_disk
from tests.needs import needs
from tests.ops.filling import change, consume, fill, quiet, rows

EVENTS = "SELECT log, seq, crc, body FROM event ORDER BY log, seq"


def test_a_backup_is_the_data(cli: Runner, tmp_path: Path) -> None:
    """Every row of every table, in one file for its owner only that needs nothing beside it; nothing else is left."""
    consume(cli.data, fill(cli.data, "orders", 700, resend_of="k3v9x1q7m2ab-4", verdict="checked"))
    cli.json("token", "create")
    made = cli.json("backup", tmp_path / "b.db")
    assert (made["events"], made["buckets"], made["file"]) == (700, 1, str(tmp_path / "b.db"))
    assert made["bytes"] == (tmp_path / "b.db").stat().st_size
    source = cli.data / "relay.db"
    tables = [name for (name,) in rows(source, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert len(tables) > 8
    for table in tables:
        there = rows(tmp_path / "b.db", f"SELECT * FROM {table}")
        assert there == rows(source, f"SELECT * FROM {table}")
        assert there or table not in ("event", "consumer", "parked", "dead_letter")
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    assert rows(tmp_path / "b.db", schema) == rows(source, schema)
    for pragma in ("user_version", "auto_vacuum", "page_size"):
        assert rows(tmp_path / "b.db", f"PRAGMA {pragma}") == rows(source, f"PRAGMA {pragma}")
    assert rows(tmp_path / "b.db", "PRAGMA journal_mode") == [("delete",)]
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"b.db", "data"}


GIVES_WAY = """
import atexit, os
from relay_tornado.cli.entry import main

atexit.register(lambda: print(os.nice(0)))
main()
"""


def test_senders_come_first(cli: Runner, tmp_path: Path) -> None:
    """A process that makes or checks a copy is not urgent; one that runs the command beside others stays as it was."""
    fill(cli.data, "orders", 3)

    def this() -> list[object]:
        return [os.nice(0), *map(signal.getsignal, (signal.SIGTERM, signal.SIGHUP))]

    before = this()
    for arguments in (["backup", tmp_path / "b.db"], ["check", tmp_path / "b.db"]):
        line = [sys.executable, "-c", GIVES_WAY, *arguments, "--data", cli.data]
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.stdout.splitlines()[-1] == "10", done.stderr
        cli.json(*arguments, *(["--force"] if "backup" in arguments else []))
        assert this() == before


def test_nothing_is_overwritten(cli: Runner, tmp_path: Path) -> None:
    """A file that is there stays, unless --force replaces it; the relay's own files always do, there or not, by
    whatever way they are named."""
    fill(cli.data, "orders", 3)
    (tmp_path / "b.db").write_bytes(b"precious")
    assert "--force" in cli.refused("backup", tmp_path / "b.db")
    assert (tmp_path / "b.db").read_bytes() == b"precious"
    cli.json("backup", tmp_path / "b.db", "--force")
    assert rows(tmp_path / "b.db", "SELECT count(*) FROM event") == [(3,)]
    (tmp_path / "link").symlink_to(cli.data / "relay.witness")
    (tmp_path / "folder").symlink_to(cli.data)
    own = [cli.data / f"relay.{name}" for name in ("db", "db-wal", "db-shm", "witness", "lock", "sock")]
    own += [cli.data / name for name in ("search.db", "search.db-wal", "series.db")]
    for target in (*own, tmp_path / "link", tmp_path / "folder" / "relay.db-wal"):
        assert "own files" in cli.refused("backup", target, "--force")
    assert "is a directory" in cli.refused("backup", tmp_path)
    assert "make it first" in cli.refused("backup", tmp_path / "no" / "b.db")
    assert "there is no" in cli.refused("backup", tmp_path / "c.db", "--data", tmp_path / "nowhere")


def test_a_condemned_file_gets_no_backup(cli: Runner, tmp_path: Path) -> None:
    """It may have pages of two files. The backup would not be marked as that, and would push out a better one."""
    fill(cli.data, "orders", 3)
    witness = Witness.open(cli.data / "relay.witness")
    witness.condemn()
    witness.close()
    assert "may have pages of both files: restore a backup" in cli.refused("backup", tmp_path / "b.db")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_symlink_to_the_file_is_not_replaced(cli: Runner, tmp_path: Path) -> None:
    """Nor is what it leads to, nor what lies beside either of them."""
    real = tmp_path / "elsewhere" / "events.db"
    real.parent.mkdir()
    cli.data.mkdir()
    (cli.data / "relay.db").symlink_to(real)
    fill(cli.data, "orders", 3)
    own = [cli.data / f"relay.{name}" for name in ("db", "db-wal", "db-shm", "witness", "lock")]
    own += [real.with_name(f"events.db{end}") for end in ("", "-wal", "-shm", "-journal")]
    for target in own:
        assert "own files" in cli.refused("backup", target, "--force")
    assert (cli.data / "relay.db").is_symlink()
    assert cli.json("backup", real.with_name("events.db.bak"))["events"] == 3


def test_two_backups_of_one_name(cli: Runner, tmp_path: Path) -> None:
    """The second one is refused while the first one is written; what one left that was killed is in nobody's way."""
    fill(cli.data, "orders", 3)
    part = tmp_path / "b.db.part"
    part.write_bytes(b"left over")
    part.chmod(0o666)
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "let it finish" in cli.refused("backup", tmp_path / "b.db")
    assert part.exists()
    cli.json("backup", tmp_path / "b.db")
    assert not part.exists()
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600


def test_another_users_file_is_not_written_to(cli: Runner, tmp_path: Path) -> None:
    """In a directory like /tmp somebody else may have made the file first, who has it open, or lead to another one."""
    fill(cli.data, "orders", 3)
    part, other = tmp_path / "b.db.part", tmp_path / "other"
    other.write_bytes(b"somebody's")
    part.hardlink_to(other)
    cli.json("backup", tmp_path / "b.db")
    part.symlink_to(other)
    assert "can't be made" in cli.refused("backup", tmp_path / "b.db", "--force")
    assert other.read_bytes() == b"somebody's"
    assert not (tmp_path / "b.db").is_symlink()


def test_a_backup_that_was_made_meanwhile_is_left_alone(
    cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one opens the first one's file before that gets its name, and locks it after: it is refused."""
    fill(cli.data, "orders", 3)
    target, part, flock = tmp_path / "b.db", tmp_path / "b.db.part", fcntl.flock

    def renamed_before(descriptor: int, how: int) -> None:
        part.write_bytes(b"a whole backup")
        part.replace(target)
        flock(descriptor, how)

    def replaced_before(descriptor: int, how: int) -> None:
        renamed_before(descriptor, how)
        part.write_bytes(b"of a third one")

    for meanwhile in (renamed_before, replaced_before):
        monkeypatch.setattr(fcntl, "flock", meanwhile)
        assert "let it finish" in cli.refused("backup", target, "--force")
        monkeypatch.setattr(fcntl, "flock", flock)
        assert target.read_bytes() == b"a whole backup"
    assert part.read_bytes() == b"of a third one"


def test_the_next_backup_of_that_name_is_left_alone(
    cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another one begins to write as soon as the file has its name is not removed."""
    fill(cli.data, "orders", 3)
    part = tmp_path / "b.db.part"
    monkeypatch.setattr(database_files, "sync", lambda directory: part.write_bytes(b"the next one"))
    cli.json("backup", tmp_path / "b.db")
    assert part.read_bytes() == b"the next one"


def test_room_is_looked_for_before(cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the copy would take what the relay keeps in reserve nothing is written, and the bytes are told."""
    fill(cli.data, "orders", 100)
    disk = SimpleNamespace(f_bavail=300, f_blocks=1 << 20, f_frsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    cli.json("backup", tmp_path / "a.db", RELAY_RESERVE="100MiB")
    said = cli.refused("backup", tmp_path / "b.db", RELAY_RESERVE="300MiB")
    assert "bytes are needed" in said
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "data"}


def test_another_disk_holds_no_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the relay keeps free for itself is on its own disk alone."""
    fill(tmp_path / "data", "orders", 10)
    disk = SimpleNamespace(f_bavail=300, f_blocks=1 << 20, f_frsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    source = tmp_path / "data" / "relay.db"
    with pytest.raises(NoSpace):
        make(source, tmp_path / "a.db", quiet, reserve=300 * MIB)
    monkeypatch.setattr(backup, "share_space", lambda one, other: False)
    assert make(source, tmp_path / "b.db", quiet, reserve=300 * MIB).bytes


def test_a_disk_is_known_by_its_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices with the same free bytes are one disk, also while something is written to it."""
    free = {"one": [5, 4, 3, 3], "same": [4, 3], "other": [5, 5]}
    for name in free:
        (tmp_path / name).mkdir()
    stat_of = Path.stat

    def another(path: Path, **options: bool) -> os.stat_result:
        found = list(stat_of(path, **options))
        found[stat.ST_DEV] = hash(path.name)
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", another)
    monkeypatch.setattr(
        "relay_tornado.storage.space.disk_of", lambda path: SimpleNamespace(free=free[path.name].pop(0))
    )
    assert share_space(tmp_path / "one", tmp_path / "one")
    assert share_space(tmp_path / "one", tmp_path / "same")
    free["one"] = [4, 4]
    assert not share_space(tmp_path / "one", tmp_path / "other")


def test_the_reserve_is_kept_in_another_subvolume(tmp_path: Path) -> None:
    """It is a device of its own, and takes its space from the same disk."""
    needs_disk("btrfs")
    with Disk(tmp_path, 128 * MIB, kind="btrfs") as disk:
        fill(disk.place / "data", "orders", 10)
        other = disk.place / "other"
        subprocess.run(("btrfs", "subvolume", "create", str(other)), check=True, stdout=subprocess.DEVNULL)
        assert other.stat().st_dev != disk.place.stat().st_dev
        reserve = disk_of(other).least(1 << 60)
        with (disk.place / "rest").open("wb") as file:
            while disk_of(other).free > reserve:
                file.write(os.urandom(4 * MIB))
                os.fsync(file.fileno())
        with pytest.raises(NoSpace):
            make(disk.place / "data" / "relay.db", other / "b.db", quiet, reserve=reserve)
        make(disk.place / "data" / "relay.db", other / "b.db", quiet)


@pytest.mark.parametrize("way", [copying.in_steps, copying.by_pages])
def test_a_backup_that_fails_leaves_nothing(
    cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., None]
) -> None:
    """Whatever is raised in the middle, no file is left, and one of that name is as it was."""
    fill(cli.data, "orders", 50)
    (tmp_path / "b.db").write_bytes(b"precious")

    def broken(*arguments: Any) -> None:
        way(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("relay_tornado.ops.backup._WAYS", (broken,))
    assert "no room" in cli.refused("backup", tmp_path / "b.db", "--force")
    assert (tmp_path / "b.db").read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"b.db", "data"}


WORDS = {
    "EFBIG": "the file is as large as it may be: raise the limit",
    "EDQUOT": "the quota is used up: free some space",
}


@pytest.mark.parametrize("error", ["EFBIG", "EDQUOT"])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_why_it_can_not_be_written(cli: Runner, tmp_path: Path, command: str, error: str) -> None:
    """Whatever keeps SQLite from writing is said in words, with what to do, and nothing is left."""
    fill(cli.data, "orders", 200, size=2_000)
    target, new = tmp_path / "b.db", tmp_path / "new"
    part = tmp_path / "b.db.part" if command == "backup" else new / "relay.db.restoring"
    arguments = ["backup", target, "--data", cli.data] if command == "backup" else ["restore", cli.data, "--data", new]
    if error == "EDQUOT":
        needs("strace", "install strace")
        failing = f"inject=pwrite64:error={error}:when=20+"
        refusing = ["strace", "-qq", "-o", os.devnull, "-P", part, "-e", "trace=pwrite64", "-e", failing]
    else:
        refusing = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]
    done = subprocess.run(
        [*refusing, sys.executable, "-m", "relay_tornado", *arguments], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"relay: {target if command == 'backup' else new}: {WORDS[error]}")
    assert {path.name for path in tmp_path.iterdir()} - {"new"} == {"data"}
    assert not new.exists() or {path.name for path in new.iterdir()} == {"relay.lock"}


def test_what_comes_to_be_there_meanwhile_stays(cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody makes under that name while the copy is written is not overwritten either."""
    fill(cli.data, "orders", 5)

    def slow(*arguments: Any) -> None:
        copying.by_pages(*arguments)
        (tmp_path / "b.db").write_bytes(b"precious")

    monkeypatch.setattr("relay_tornado.ops.backup._WAYS", (slow,))
    assert "--force" in cli.refused("backup", tmp_path / "b.db")
    assert (tmp_path / "b.db").read_bytes() == b"precious"


SIGNALLED = """
import os, signal
from relay_tornado.cli.entry import main
from relay_tornado.ops.copying import Pace

step = Pace.step
Pace.step = lambda pace: os.kill(os.getpid(), getattr(signal, os.environ["END_BY"])) or step(pace)
main()
"""


HEARS = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
"""Runs what hears of a terminal that goes: the tests may be run by what has that ignored."""


def signalled(data: Path, command: str, file: Path, name: str, *before: str) -> subprocess.CompletedProcess[str]:
    line = [*before, sys.executable, "-c", SIGNALLED, command, str(file), "--data", str(data)]
    return subprocess.run(line, env={**os.environ, "END_BY": name}, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_copy_that_is_told_to_end_leaves_nothing(cli: Runner, tmp_path: Path, name: str, code: int) -> None:
    """As where the relay ends meanwhile, that makes a backup, or the terminal goes. It says what is there."""
    fill(cli.data, "orders", 50)
    done = signalled(cli.data, "backup", tmp_path / "b.db", name, sys.executable, "-c", HEARS)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "relay: stopped: no backup was made; nothing is left\n"
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    cli.json("backup", tmp_path / "b.db")
    done = signalled(tmp_path / "new", "restore", tmp_path / "b.db", name, sys.executable, "-c", HEARS)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"relay: stopped: nothing was restored into {tmp_path / 'new'}; repeat the command\n"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"relay.lock"}
    assert signalled(tmp_path / "new", "restore", tmp_path / "b.db", "SIGCONT").returncode == 0


def test_a_backup_that_outlives_its_terminal(cli: Runner, tmp_path: Path) -> None:
    fill(cli.data, "orders", 50)
    done = signalled(cli.data, "backup", tmp_path / "b.db", "SIGHUP", "nohup")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data", "b.db"}


def test_a_copy_that_is_not_sound_is_no_backup(cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost between the file and its copy is found by the check, and the copy is removed."""
    fill(cli.data, "orders", 50)

    def lossy(raw: sqlite3.Connection, directory: Path, part: Path, *others: Any) -> None:
        copying.by_pages(raw, directory, part, *others)
        change(part, "DELETE FROM event WHERE seq = 7")

    monkeypatch.setattr("relay_tornado.ops.backup._WAYS", (lossy, lossy))
    assert "event 7 is missing" in cli.refused("backup", tmp_path / "b.db")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    # Where the steps went wrong, the pages are still right.
    monkeypatch.setattr("relay_tornado.ops.backup._WAYS", (lossy, copying.by_pages))
    assert cli.json("backup", tmp_path / "b.db")["events"] == 50
    assert rows(tmp_path / "b.db", "PRAGMA journal_mode") == [("delete",)]


def test_damage_of_the_source_is_kept_and_told(cli: Runner, tmp_path: Path) -> None:
    """One rotten event does not keep all others from being saved."""
    fill(cli.data, "orders", 50)
    change(cli.data / "relay.db", "UPDATE event SET body = x'00' WHERE seq = 7")
    result = cli("backup", tmp_path / "b.db")
    assert result.exit_code == 0
    assert "event 7 is damaged" in result.stdout
    assert rows(tmp_path / "b.db", "SELECT count(*) FROM event") == [(50,)]


def test_no_relay_is_disturbed_or_needed(tmp_path: Path) -> None:
    """A backup neither takes the relay's lock nor writes into its directory."""
    fill(tmp_path / "data", "orders", 20)
    held = Lock.acquire(tmp_path / "data")
    try:
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
        make(tmp_path / "data" / "relay.db", tmp_path / "b.db", quiet)
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    finally:
        held.release()
    assert {name: at for name, at in after.items() if not name.endswith("-shm")} == {
        name: at for name, at in before.items() if not name.endswith("-shm")
    }
