"""Creates relay.db with this relay's schema, or migrates an older file to it, step by step.

`PRAGMA user_version` is the schema's version. A step NNNN.sql leads from version NNNN - 1 to NNNN in one transaction,
so an interrupted migration continues where it stopped. Before the first step on an existing file, it is copied; the
copy of an interrupted migration is kept. Everything here runs on the writer's connection, before that serves anyone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import structlog

from relay_tornado import __version__
from relay_tornado.errors import NewerSchema, StartupError
from relay_tornado.ids import new_uuid
from relay_tornado.steps import Steps
from relay_tornado.storage import database_files
from relay_tornado.storage.connection import opened
from relay_tornado.storage.damage import code_of, unquoted
from relay_tornado.storage.space import free_pages, writable
from relay_tornado.storage.witness import read_stamp

PAGES = 4096
"""Pages (16 MiB) after which a copy checks whether it was halted."""

_log = structlog.get_logger(__name__)


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Step:
    """A script that leads to `version`. Its last statement sets user_version."""

    version: int
    script: str


def schema() -> str:
    """The text of schema.sql. Raises StartupError if it is missing, and OSError."""
    with _installed():
        return resources.files("relay_tornado").joinpath("schema.sql").read_text(encoding="utf-8")


def steps() -> Sequence[Step]:
    """All steps in order, from 1. Raises StartupError if one is missing, and OSError."""
    folder = resources.files("relay_tornado.storage").joinpath("migrations")
    with _installed():
        found = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
        read = [Step(int(f.name.removesuffix(".sql")), f.read_text(encoding="utf-8")) for f in found]
    there = [step.version for step in read]
    for number in range(1, max(len(there), 1) + 1):
        if number not in there:
            raise _damaged(f"{folder}/{number:04}.sql is missing")
    return read


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Tells of files that are not there as they were installed."""
    try:
        yield
    except FileNotFoundError as error:
        raise _damaged(f"{error.filename} is missing") from error
    except PermissionError as error:
        raise _damaged(f"{error.filename} can't be read ({error.strerror})") from error


def _damaged(why: str) -> StartupError:
    return StartupError(f"the installation of relay {__version__} is damaged: {why}. Install it again.")


def latest() -> int:
    """The version of schema.sql, which this relay reads and writes."""
    return steps()[-1].version


def empty(version: int) -> sqlite3.Connection:
    """An empty database in memory, with the schema of this version."""
    made = sqlite3.connect(":memory:")
    if version == latest():
        made.executescript(schema())
    else:
        for step in steps()[:version]:
            made.executescript(step.script)
    return made


def version(raw: sqlite3.Connection) -> int:
    return int(raw.execute("PRAGMA user_version").fetchone()[0])


def version_of(path: Path) -> int:
    """The version that the file states; 0 if it can't be read, which opening it will then explain."""
    try:
        with opened(path) as raw:
            return version(raw)
    except sqlite3.Error:
        return 0


def check(raw: sqlite3.Connection, path: Path, newest: int) -> int:
    """The file's version, 0 for a new file. Raises NewerSchema, and StartupError if it is not a relay's file."""
    found = version(raw)
    if found > newest:
        raise NewerSchema(
            f"{path} has schema version {found}, written by relay {_writer(raw)}; this is relay {__version__}, which "
            f"knows versions up to {newest}. Install that relay or a newer one, or put back the copy that was "
            "made before it was migrated, as Upgrade in docs/backup.md says."
        )
    if found == 0 and raw.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None:
        raise StartupError(f"{path} is a database, but not a relay's. Choose another directory with --data.")
    return found


def _writer(raw: sqlite3.Connection) -> str:
    try:
        return str(raw.execute("SELECT version FROM meta").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return "of an unknown version"


def create(raw: sqlite3.Connection) -> None:
    """Creates the schema in an empty file, with the row of `meta`, in one transaction."""
    _script(raw, schema(), first=True)


def copy_of(path: Path, version: int) -> Path:
    """The path of the copy that is made before a file is migrated to a version."""
    return path.with_name(f"{path.name}.before-v{version}")


def migrate(
    raw: sqlite3.Connection,
    path: Path,
    todo: Sequence[Step],
    halted: Callable[[], bool] = never,
    steps: Steps | None = None,
) -> None:
    """Copies the file, and runs the steps above its version. Tells `steps` what it does. Raises StartupError if a step
    fails, or if the copy is `halted`."""
    steps = steps or Steps("")
    found = version(raw)
    todo = [step for step in todo if step.version > found]
    if not todo:
        return
    copy = copy_of(path, todo[-1].version)
    _log.info("database_migrating", path=str(path), version=found, to=todo[-1].version, bytes=path.stat().st_size)
    original = _interrupted(raw, copy)
    if original is None:
        original = found
        steps.begin(f"copying relay.db to {copy.name} before it is migrated")
        backup(raw, copy, halted, steps.advance)
    for step in todo:
        steps.begin(f"migrating relay.db to version {step.version}")
        try:
            _script(raw, step.script)
        except sqlite3.Error as error:
            advice = "Look at the disk and the space on it, and start again"
            if code_of(error) == sqlite3.SQLITE_CORRUPT:
                advice = (
                    "`relay check` says which events are damaged, `relay export BUCKET FILE --after SEQ` gets those "
                    "behind them, and `relay import` takes them into a new directory"
                )
            raise StartupError(
                f"{path} could not be migrated to version {step.version} ({error}). It is of version {version(raw)} "
                f"now, and {copy} is a copy of version {original}, as it was before. {advice}; to go back to the relay "
                "that wrote it, see Upgrade in docs/backup.md."
            ) from error
        _log.info("database_migrated", path=str(path), version=step.version, copy=str(copy))


def _interrupted(raw: sqlite3.Connection, copy: Path) -> int | None:
    """The version of an earlier copy with the same content as the file, from before some or none of the steps; None if
    there is none."""
    try:
        with opened(copy) as earlier:
            found = version(earlier)
            return found if found <= version(raw) and read_stamp(earlier) == read_stamp(raw) else None
    except sqlite3.Error:
        return None


def backup(
    raw: sqlite3.Connection,
    target: Path,
    halted: Callable[[], bool] = never,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Copies the database, completely or not at all: into a file beside the target, which is synced and renamed. Copies
    page by page, so that a damaged page does not prevent an upgrade. `advance` is told how many pages are copied, of
    how many. Raises StartupError, also if it is `halted`."""
    part = target.with_name(target.name + ".part")

    def go_on(_: int, left: int, total: int) -> None:
        advance(total - left, total)
        if halted():
            raise StartupError(f"the copy {target} was not made to its end; nothing was changed")

    try:
        database_files.remove(part)
        if writable(target.parent) < free_pages(raw)[1]:  # a start that is repeated would fill it again and again
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.close(database_files.create(part))
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            raw.backup(copy, pages=PAGES, progress=go_on)
            to_one_file(copy)
        database_files.sync(part)
        part.replace(target)
        database_files.sync(target.parent)
    except (sqlite3.Error, OSError) as error:
        raise StartupError(
            f"no copy could be made before migrating ({error}): look at the disk of {target.parent}, which needs room "
            "for one more relay.db."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            database_files.remove(part)  # if it was not renamed


def to_one_file(copy: sqlite3.Connection) -> None:
    """Removes the WAL flag from a copy's header, which is the source's. Raises sqlite3.Error."""
    with unquoted():
        copy.executescript("PRAGMA journal_mode = DELETE")  # `execute` would stop at the row, before the commit


def _script(raw: sqlite3.Connection, script: str, first: bool = False) -> None:
    with raw:
        raw.executescript(f"BEGIN IMMEDIATE;\n{script}")
        if first:
            row = (new_uuid(), time.time(), __version__)
            raw.execute("INSERT INTO meta VALUES (1, ?, 0, 0, ?, ?)", row)
        else:
            raw.execute("UPDATE meta SET version = ?", (__version__,))
