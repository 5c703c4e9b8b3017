"""Where the file is: each way to take it away is noticed, also where its directory had not changed for long."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relay_tornado.storage.location_check import LocationCheck


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    for name in ("relay.db", "relay.db-wal", "relay.witness"):
        (made / name).write_bytes(b"x")
    return made


def settle(folder: Path) -> None:
    """Has the directory be as it is for long."""
    then = time.time() - 60
    os.utime(folder, (then, then))


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


WAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "database deleted": (lambda folder: (folder / "relay.db").unlink(), "relay.db"),
    "database moved": (lambda folder: (folder / "relay.db").rename(folder / "old.db"), "relay.db"),
    "database moved out": (lambda folder: (folder / "relay.db").rename(folder.parent / "old.db"), "relay.db"),
    "database replaced": (lambda folder: replace(folder / "relay.db"), "relay.db"),
    "WAL deleted": (lambda folder: (folder / "relay.db-wal").unlink(), "relay.db-wal"),
    "WAL replaced": (lambda folder: replace(folder / "relay.db-wal"), "relay.db-wal"),
    "directory moved": (lambda folder: folder.rename(folder.parent / "old"), "relay.db"),
    "directory replaced": (
        lambda folder: (folder.rename(folder.parent / "old"), shutil.copytree(folder.parent / "old", folder)),
        "relay.db",
    ),
    "directory replaced by a file": (
        lambda folder: (folder.rename(folder.parent / "old"), folder.write_bytes(b"x")),
        "relay.db",
    ),
}


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_taken_away_is_named(folder: Path, way: str, settled: bool) -> None:
    take, name = WAYS[way]
    if settled:
        settle(folder)
    location = LocationCheck(folder / "relay.db")
    for _ in range(3):
        assert location.missing(committed=True) == ""
    take(folder)
    assert location.missing(committed=True) == name
    assert location.missing(committed=True) == name


def test_what_else_changes_in_the_directory_is_nothing(folder: Path) -> None:
    settle(folder)
    location = LocationCheck(folder / "relay.db")
    assert location.missing(committed=True) == ""
    (folder / "relay.witness").unlink()
    assert location.missing(committed=True) == ""


def test_a_wal_is_only_missed_once_it_was_there(folder: Path) -> None:
    (folder / "relay.db-wal").unlink()
    settle(folder)
    location = LocationCheck(folder / "relay.db")
    assert location.missing() == ""
    assert location.missing(committed=True) == "relay.db-wal"


def test_a_database_that_is_opened_anew_has_another_wal(folder: Path) -> None:
    settle(folder)
    location = LocationCheck(folder / "relay.db")
    assert location.missing(committed=True) == ""
    replace(folder / "relay.db-wal")
    settle(folder)
    location.closed()
    assert location.missing(committed=True) == ""


def test_what_a_symlink_leads_to(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "relay.db"
    link.symlink_to(folder / "relay.db")
    settle(folder)
    settle(tmp_path)
    location = LocationCheck(link)
    assert location.missing(committed=True) == ""
    (folder / "relay.db-wal").unlink()
    assert location.missing(committed=True) == "relay.db-wal"


def test_no_file_is_looked_at_where_its_directory_is_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that has just changed may change again at the same time, as file systems keep it; and so may one
    whose time lies ahead."""
    looked: list[str] = []
    stat = Path.stat

    def note(path: Path, **options: bool) -> os.stat_result:
        looked.append(path.name)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", note)
    now = time.time()
    for changed_at, files in ((now - 60, 0), (int(now) - 1, 2), (int(now) - 60, 0), (now + 3600, 2)):
        os.utime(folder, (changed_at, changed_at))
        location = LocationCheck(folder / "relay.db")
        location.missing(committed=True)
        looked.clear()
        location.missing(committed=True)
        assert looked == ["data", "relay.db", "relay.db-wal"][: 1 + files]
