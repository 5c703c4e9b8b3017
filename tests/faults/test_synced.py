"""What was said to be made is there, and whole, after a loss of power: backups, restored data, checkpoints."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.client.checkpoint import FileCheckpoint
from relay_tornado.ops.backup import make
from relay_tornado.ops.check import check
from relay_tornado.ops.restore import restore
from relay_tornado.storage import database_files, migrate, witness
from tests.acceptance.relay import TIMEOUT
from tests.faults.disk import KINDS, MIB, Disk, needs_disk
from tests.needs import needs
from tests.ops.filling import fill, quiet, rows


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    needs_disk(request.param)
    with Disk(tmp_path, 300 * MIB, kind=request.param) as disk:
        yield disk


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A relay's file with 30 events, on another disk."""
    fill(tmp_path / "data", "orders", 30)
    return tmp_path / "data" / "relay.db"


def power_comes_back(disk: Disk) -> None:
    disk.lose_power()
    disk.unmount()
    disk.mount()


def events(path: Path) -> int:
    assert check(path, quiet).findings == []
    return int(rows(path, "SELECT count(*) FROM event")[0][0])


def test_a_backup(disk: Disk, source: Path) -> None:
    """As soon as it is said to be made."""
    make(source, disk.place / "b.db", quiet)
    power_comes_back(disk)
    assert events(disk.place / "b.db") == 30


def test_restored_data(disk: Disk, source: Path) -> None:
    """The file, and the witness that belongs to it."""
    make(source, disk.place / "b.db", quiet)
    restored = restore(disk.place / "b.db", disk.place / "new", quiet)
    power_comes_back(disk)
    assert events(restored.path) == 30
    (stamp,) = rows(restored.path, "SELECT id, commits, appended FROM meta")
    assert witness.peek(disk.place / "new" / "relay.witness") == witness.Stamp(*stamp)


def test_a_copy_before_a_migration(disk: Disk, source: Path) -> None:
    """The file that it is a copy of is changed right after."""
    with closing(sqlite3.connect(source, isolation_level=None)) as raw:
        migrate.backup(raw, disk.place / "copy.db")
    power_comes_back(disk)
    assert events(disk.place / "copy.db") == 30


def test_an_orderly_end(disk: Disk) -> None:
    """The witness then says as much as the file, however lately something was committed."""
    fill(disk.place / "data", "orders", 30)
    power_comes_back(disk)
    (stamp,) = rows(disk.place / "data" / "relay.db", "SELECT id, commits, appended FROM meta")
    assert witness.peek(disk.place / "data" / "relay.witness") == witness.Stamp(*stamp)
    assert events(disk.place / "data" / "relay.db") == 30


def test_an_export(tmp_path: Path, source: Path) -> None:
    """The file, and then the directory that has its name. (An ext4 would have both with the first.)"""
    needs("strace", "install strace")
    (tmp_path / "to").mkdir()
    environment = {**os.environ, "RELAY_DATA": str(source.parent)}
    relay = [sys.executable, "-m", "relay_tornado", "export", "orders", str(tmp_path / "to" / "e")]
    traced = ["strace", "-f", "-y", "-e", "trace=fsync", "-o", str(tmp_path / "trace"), *relay]
    subprocess.run(traced, env=environment, check=True, timeout=TIMEOUT)
    synced = re.findall(r"fsync\(\d+<([^>]+)>\) += 0", (tmp_path / "trace").read_text())
    assert synced == [str(tmp_path / "to" / "e"), str(tmp_path / "to")]


def test_a_checkpoint(disk: Disk) -> None:
    """Where the file has its name it has its text, too."""
    checkpoint = FileCheckpoint(disk.place / "orders.checkpoint")
    checkpoint.save_now("here")
    database_files.sync(disk.place)
    power_comes_back(disk)
    assert checkpoint.load_now() == "here"
