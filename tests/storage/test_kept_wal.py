"""A loss of committed work keeps the WAL aside: once, whole, and for its owner alone."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path
from typing import IO, Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.settings import Settings
from relay_tornado.steps import Steps
from relay_tornado.storage import start
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.witness import SECTOR
from tests.storage.faults import crash
from tests.storage.witnesses import lead

storage_test = pytest.mark.gen_test


async def lose_one(settings: Settings) -> Path:
    """The witness is one commit ahead of a file whose WAL has some pages. Returns the file's path."""
    database = await Database.open(settings)
    for _ in range(20):
        await database.write(lambda raw: None)
    await crash(database)
    lead(settings.data)
    return database.path


@storage_test
async def test_the_kept_wal_is_the_owners_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first byte on: it may have secrets, and the directory may be open to others."""
    path = await lose_one(settings)
    rights: list[int] = []
    copy = shutil.copyfileobj

    def note(source: IO[bytes], target: IO[bytes]) -> None:
        rights.append(os.fstat(target.fileno()).st_mode & 0o777)
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", note)
    mask = os.umask(0)
    try:
        with capture_logs() as logs:
            start.examine(path, Steps(""))[0].close()
    finally:
        os.umask(mask)
    assert rights == [0o600]
    (told,) = logs
    kept = Path(told["wal_copy"])
    assert (kept.stat().st_mode & 0o777, kept.read_bytes()) == (0o600, wal_of(path).read_bytes())


@storage_test
async def test_a_wal_that_can_not_be_kept_leaves_nothing(settings: Settings) -> None:
    """The start goes on without the copy, and no part of it takes the space that is left."""
    path = await lose_one(settings)
    before = set(settings.data.iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * SECTOR, limit[1]))
    try:
        with capture_logs() as logs:
            start.examine(path, Steps(""))[0].close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [entry["event"] for entry in logs] == ["wal_not_copied", "committed_work_lost"]
    assert logs[1]["wal_copy"] is None
    assert set(settings.data.iterdir()) - before <= {path.with_name("relay.db-shm")}


@storage_test
async def test_a_start_that_is_repeated_keeps_one_copy(settings: Settings) -> None:
    """However often it fails, as while another program has its port: the copies would fill the disk."""
    path = await lose_one(settings)
    kept = set()
    for _ in range(3):
        with capture_logs() as logs:
            start.examine(path, Steps(""))[0].close()
        kept.add(logs[-1]["wal_copy"])
    assert {Path(copy) for copy in kept} == set(settings.data.glob("*.lost-*"))
    assert len(kept) == 1
    with wal_of(path).open("r+b") as wal:
        wal.write(b"another")
    with capture_logs() as logs:
        start.examine(path, Steps(""))[0].close()
    assert logs[-1]["wal_copy"] not in kept


@storage_test
async def test_a_copy_that_can_not_be_read_is_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL is copied again, as if there were none."""
    path = await lose_one(settings)
    start.examine(path, Steps(""))[0].close()
    (earlier,) = settings.data.glob("*.lost-*")
    real = Path.open

    def refused(self: Path, *how: Any, **more: Any) -> Any:
        if self == earlier:
            raise PermissionError(errno.EACCES, "it is another user's")
        return real(self, *how, **more)

    monkeypatch.setattr(Path, "open", refused)
    with capture_logs() as logs:
        start.examine(path, Steps(""))[0].close()
    assert [entry["event"] for entry in logs] == ["committed_work_lost"]
    assert set(settings.data.glob("*.lost-*")) == {earlier, Path(logs[0]["wal_copy"])}
    assert logs[0]["wal_copy"] != str(earlier)


@storage_test
async def test_a_wal_that_is_empty_is_not_kept(settings: Settings) -> None:
    path = await lose_one(settings)
    os.truncate(wal_of(path), 0)
    with capture_logs() as logs:
        start.examine(path, Steps(""))[0].close()
    assert (logs[-1]["wal_copy"], list(settings.data.glob("*.lost-*"))) == (None, [])
