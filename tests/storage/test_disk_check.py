"""Whether a disk fails is seen from what it can't read, wherever in the file that is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relay_tornado.storage.disk_check import fails

PAGE = 4096


def unreadable(patch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """From here on pages with such numbers, from 0, can't be read."""
    read = os.pread

    def failing(descriptor: int, size: int, at: int) -> bytes:
        if is_bad(at // PAGE):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, size, at)

    patch.setattr(os, "pread", failing)


def looks(path: Path, count: int) -> set[bool]:
    """What so many looks at the file said."""
    with path.open("rb") as file:
        return {fails(file.fileno()) for _ in range(count)}


@pytest.mark.parametrize("pages", [0, 1, 3, 1000])
def test_a_disk_that_reads(pages: int, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(bytes(pages * PAGE))
    assert looks(file, 3) == {False}


@pytest.mark.parametrize("pages", [2, 1000])
def test_a_disk_that_reads_nothing(pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "file").write_bytes(bytes(pages * PAGE))
    unreadable(monkeypatch, lambda page: True)
    assert looks(file, 3) == {True}


@pytest.mark.parametrize("pages", [2, 100])
def test_one_page_that_stays_unreadable(pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not make every look fail, however small the file is."""
    (file := tmp_path / "file").write_bytes(bytes(pages * PAGE))
    unreadable(monkeypatch, lambda page: page == 1)
    assert looks(file, 300) == {False, True}


def test_pages_are_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the kernel's memory: each is dropped there right before it is read."""
    (file := tmp_path / "file").write_bytes(bytes(100 * PAGE))
    steps: list[tuple[int, ...]] = []

    def seen(page: int) -> bool:
        steps.append((page * PAGE,))
        return False

    monkeypatch.setattr(os, "posix_fadvise", lambda _, *what: steps.append(what))
    unreadable(monkeypatch, seen)
    assert looks(file, 1) == {False}
    read = steps[1::2]
    assert steps[::2] == [(at, PAGE, os.POSIX_FADV_DONTNEED) for (at,) in read]
    assert len(set(read)) == 32


def test_a_file_that_can_not_be_looked_at(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    assert fails(descriptor)
