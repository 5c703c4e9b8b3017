"""Faults that a healthy disk does not have: a SQLite connection that fails where a test says so, a file that is written
over, and a crash."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.storage import database_files
from relay_tornado.storage.database import Database


class Faults:
    """What fails: `on` is asked for each statement and returns the error code to raise, before or after it ran.
    `opening` is the error of each try to open the file, `refused` how many there were."""

    def __init__(self) -> None:
        self.before: Callable[[str], int | None] = lambda sql: None
        self.after: Callable[[str], int | None] = lambda sql: None
        self.opening: int | None = None
        self.refused = 0
        self.statements: list[str] = []

    def factory(self, *args: Any, **options: Any) -> sqlite3.Connection:
        """What `Database.open` takes as its factory."""
        if self.opening is not None:
            self.refused += 1
            raise error(self.opening)
        made = _Faulty(*args, **options)
        made.faults = self
        return made

    def heal(self) -> None:
        self.before = self.after = lambda sql: None
        self.opening = None


class _Faulty(sqlite3.Connection):
    faults: Faults

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        self.faults.statements.append(sql)
        code = self.faults.before(sql)
        if code is not None:
            raise error(code)
        cursor = super().execute(sql, *args)
        code = self.faults.after(sql)
        if code is not None:
            cursor.close()  # as SQLite's own errors do
            raise error(code)
        return cursor


def error(code: int) -> Exception:
    """The error that Python's module makes of SQLite's of this code."""
    if code == sqlite3.SQLITE_NOMEM:
        return MemoryError()
    made = sqlite3.OperationalError(f"injected {code}")
    made.sqlite_errorcode = code
    return made


def once(match: str, code: int) -> Callable[[str], int | None]:
    """Fails the first statement that begins so."""
    left = [code]
    return lambda sql: left.pop() if left and sql.startswith(match) else None


def always(match: str, code: int) -> Callable[[str], int | None]:
    """Fails every statement that begins so."""
    return lambda sql: code if sql.startswith(match) else None


@contextmanager
def no_threads() -> Iterator[None]:
    """No thread can be started: each would get a stack of more than there is to address."""
    before = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(before)


def copy_onto(path: Path, source: Path) -> None:
    """As `cp` does: the same file, with another content."""
    shutil.copyfile(source, path)


async def crash(database: Database) -> None:
    """Ends it, and leaves its directory as a crash at this moment would."""
    data = database.path.parent
    left = shutil.copytree(data, data.with_name("crashed"))
    await database.close()
    shutil.rmtree(data)
    left.rename(data)


def take_the_first_name(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Has another program create a file with the first `free_name`, at the moment when it is chosen. Returns the list
    that will hold its path."""
    free_name, others = database_files.free_name, []

    def taken(path: Path, why: str) -> Path:
        name = free_name(path, why)
        if not others:
            others.append(name)
            name.write_bytes(b"another's")
        return name

    monkeypatch.setattr(database_files, "free_name", taken)
    return others
