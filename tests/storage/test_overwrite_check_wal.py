"""A WAL that is written over while it is open: the next checkpoint notices, and copies none of it into the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import StartupError, Unknown
from relay_tornado.settings import Settings
from relay_tornado.storage import overwrite_check
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.transaction import Transactions
from tests.storage.faults import copy_onto
from tests.storage.jobs import names, put
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("quick")
storage_test = pytest.mark.gen_test(timeout=60)


@storage_test
@pytest.mark.parametrize("noticed", ["before the stop", "at the stop"])
async def test_an_older_wal_that_is_noticed_is_put_aside(settings: Settings, tmp_path: Path, noticed: str) -> None:
    """The next start continues with the file, which has everything up to its last checkpoint, and says what is lost."""
    path, older = settings.data / "relay.db", tmp_path / "wal"
    database = await Database.open(settings)
    await database.write(put("before"))
    copy_onto(older, wal_of(path))
    assert await database.shrink()
    await database.write(put("copied"))
    assert await database.shrink()
    await database.write(put("lost"))
    copy_onto(wal_of(path), older)
    if noticed == "before the stop":
        assert not await database.shrink()
    with capture_logs() as logs:
        await database.close()
    assert [entry["event"] for entry in logs] == ["checkpoint_failed"] * (noticed == "at the stop")
    with capture_logs() as logs:
        database = await Database.open(settings)
    assert [entry["event"] for entry in logs] == ["older_wal_put_aside", "committed_work_lost"]
    assert await database.read(names) == ["before", "copied"]
    await database.close()


@storage_test
@pytest.mark.parametrize("harm", ["emptied", "cut", "another one"])
async def test_a_wal_that_is_written_over(settings: Settings, tmp_path: Path, harm: str) -> None:
    """Nothing of it is copied into the file, which is sound; the next start says what is lost."""
    path = settings.data / "relay.db"
    wal = wal_of(path)
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    for number in range(3):
        await database.write(put(f"{number}" + "x" * 9_000))
    before = path.read_bytes()
    if harm == "another one":
        other = tmp_path / "wal"
        other.write_bytes(wal.read_bytes())
        assert await database.shrink()
        await database.write(put("of the next one"))
        before = path.read_bytes()
        copy_onto(wal, other)
    else:
        os.truncate(wal, 0 if harm == "emptied" else wal.stat().st_size - 4096)
    if harm == "emptied":  # and as long again as it was
        await database.write(put("later"))
    with capture_logs() as logs:
        assert not await database.shrink()
        assert database.problem.startswith("relay.db-wal was written over while the relay ran")
        with pytest.raises(Unknown, match=r"^relay\.db-wal was written over"):
            await database.write(put("first"))
        await until(lambda: database.refusal() is not None)
    assert [entry["event"] for entry in logs] == ["checkpoint_failed", "commit_failed", "database_unavailable"]
    await database.close()
    assert path.read_bytes() == before
    if harm == "emptied":
        with capture_logs() as logs:
            database = await Database.open(settings)
        assert [entry["event"] for entry in logs] == ["committed_work_lost"]
        assert await database.read(names) == ["before"]
        await database.close()


@storage_test
@pytest.mark.parametrize("left", [40, 32 + 24, 10_000, 32 + 4120 * 7, 5 / 8])
async def test_a_wal_that_is_cut_and_goes_on(settings: Settings, left: float) -> None:
    """The next commit makes it as long as it was, with a hole, of which nothing is copied into the file; what was
    before the hole is kept."""
    path = settings.data / "relay.db"
    database = await Database.open(settings)
    await database.write(put("before"))
    assert await database.shrink()
    for number in range(9):
        await database.write(put(f"{number}" + "x" * 9_000))
    before, size = path.read_bytes(), wal_of(path).stat().st_size
    os.truncate(wal_of(path), int(left if left > 1 else left * size))
    await database.write(put("later"))
    assert wal_of(path).stat().st_size > size
    assert not await database.shrink()
    assert database.problem.startswith("relay.db-wal was written over while the relay ran")
    await database.close()
    assert path.read_bytes() == before
    with capture_logs() as logs:
        database = await Database.open(settings)
    assert [entry["event"] for entry in logs] == ["committed_work_lost"]
    kept = await database.read(names)
    assert kept[0] == "before"
    assert [name[0] for name in kept[1:]] == [str(number) for number in range(len(kept) - 1)]
    await database.close()


@storage_test
async def test_pages_of_zeros_are_no_holes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system stores them as such."""
    seek = os.lseek
    monkeypatch.setattr(
        overwrite_check.os,
        "lseek",
        lambda descriptor, offset, how: 32 + 4120 * 3 + 100 if how == os.SEEK_HOLE else seek(descriptor, offset, how),
    )
    for number in range(9):
        await database.write(put(f"{number}" + "x" * 9_000))
    assert await database.shrink()
    assert database.problem == ""


@storage_test
async def test_the_wal_of_a_new_file_is_emptied(settings: Settings) -> None:
    """Before the first checkpoint the file holds nothing but its id, and that is enough to say what is lost."""
    path = settings.data / "relay.db"
    database = await Database.open(settings)
    await database.write(put("all there is"))
    commits = database.commits
    os.truncate(wal_of(path), 0)
    await database.close()
    with capture_logs() as logs:
        database = await Database.open(settings)
    [entry] = logs
    assert (entry["event"], entry["commits"]) == ("committed_work_lost", commits - database.commits)
    await database.close()


@storage_test
@pytest.mark.parametrize("harm", ["emptied", "cut", "another one"])
async def test_a_wal_that_is_written_over_right_before_a_checkpoint(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Behind the last look. If its pages were copied into the file, no start uses that; else what is lost is said."""
    wal, older = wal_of(settings.data / "relay.db"), tmp_path / "wal"
    database = await Database.open(settings)
    for number in range(9):
        await database.write(put(f"{number}" + "x" * 9_000))
    copy_onto(older, wal)
    assert await database.shrink()
    for number in range(9):
        await database.write(put(f"{number}" + "y" * 5_000))
    all_names = await database.read(names)
    look = Transactions._check_overwrite
    looks = 0

    def look_and_harm(self: Transactions) -> None:
        nonlocal looks
        look(self)
        looks += 1
        if looks == 3:  # the last one before the first checkpoint
            if harm == "another one":
                copy_onto(wal, older)
            else:
                os.truncate(wal, 0 if harm == "emptied" else wal.stat().st_size // 2)

    monkeypatch.setattr(Transactions, "_check_overwrite", look_and_harm)
    assert not await database.shrink()
    assert looks == 3
    await database.close()
    if harm == "another one":
        with pytest.raises(StartupError, match="may have pages of both files: restore a backup"):
            await Database.open(settings)
        return
    with capture_logs() as logs:
        database = await Database.open(settings)
    assert [entry["event"] for entry in logs] == ["committed_work_lost"]
    kept = await database.read(names)
    assert 9 <= len(kept) < 18
    assert kept == all_names[: len(kept)]
    await database.close()
