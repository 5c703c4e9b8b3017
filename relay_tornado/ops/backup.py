"""Makes a backup: a committed state of relay.db as one file, complete and checked, or nothing at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relay_tornado.errors import Conflict, NotFound, RelayError, StartupError, Unavailable
from relay_tornado.model import MIB
from relay_tornado.ops import copying
from relay_tornado.ops.check import check
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.findings import Report
from relay_tornado.ops.opening import open_file
from relay_tornado.search import file as search
from relay_tornado.series import file as series
from relay_tornado.storage import database_files, permissions, start
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.space import disk_of, share_space

OWN = ("relay.", search.NAME, series.NAME)
"""How the names of a relay's own files begin: relay.db and its WAL, relay.witness, relay.lock, and the files that the
relay makes anew if they are missing."""

MARGIN = 16 * MIB
"""Bytes that stay free beside the copy, at least."""

_WAYS = (copying.in_steps, copying.by_pages)
"""The ways to copy, in the order in which they are tried."""


class Unsound(RelayError):
    """The copy, or the file that it was copied from, is not sound."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup: its file, and the report of its check. Damage in it is damage of the source, too."""

    path: Path
    bytes: int
    seconds: float
    report: Report


def make(source: Path, target: Path, progress: Progress, *, force: bool = False, reserve: int = 0) -> Made:
    """Copies the relay's file `source` to the file `target`, for its owner only, and checks the copy.

    Only a complete and checked copy gets the target's name. `reserve` bytes stay free if both are on one file system.
    Raises Conflict if the target exists (without `force`), NotFound if its directory does not, NoSpace, StartupError if
    the source can't be read or is condemned, Unsound, and OSError if the target can't be written.
    """
    begun = time.monotonic()
    _check_target(source, target, force)
    with contextlib.suppress(OSError):  # a witness that can't be read
        start.check_condemned(source)
    part = target.with_name(target.name + ".part")
    if (long := permissions.too_long(part)) is not None:
        raise StartupError(f"{part} can't be made: {long}.")
    with _written(part, target) as descriptor:
        try:
            report = _copied(source, part, descriptor, progress, _room(source, target, reserve))
        except sqlite3.Error as error:
            raise _failed(target, error, descriptor) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise copying.no_room(target) from error
            raise
        if not force and target.exists():
            raise _there(target)
        part.replace(target)
        database_files.sync(target.parent)
    return Made(target, target.stat().st_size, time.monotonic() - begun, report)


@contextlib.contextmanager
def _written(part: Path, target: Path) -> Iterator[int]:
    """Creates the file to write into, locked against other backups. Removes it unless it was renamed."""
    busy = Conflict(f"another backup is being made as {target}: let it finish, or name another file")
    with contextlib.ExitStack() as opened:
        try:
            with contextlib.suppress(FileNotFoundError):
                left = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                opened.callback(os.close, left)
                _hold(left, part, busy)
                part.unlink()
            descriptor = database_files.create(part)
        except FileExistsError:
            raise busy from None
        except OSError as error:
            raise StartupError(f"{part} can't be made ({error.strerror}): choose another place for it.") from error
        opened.callback(os.close, descriptor)
        _hold(descriptor, part, busy)
        try:
            yield descriptor
        finally:
            if _is_at(descriptor, part):  # after a rename, another backup may have begun at this path
                database_files.remove(part)


def _hold(descriptor: int, part: Path, busy: Conflict) -> None:
    """Locks the open file for as long as it is open. Raises `busy` if another process holds it, or if the path names
    another file by now: the process that held it has renamed or removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    if not _is_at(descriptor, part):
        raise busy


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the path names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _copied(source: Path, part: Path, descriptor: int, progress: Progress, room: int) -> Report:
    """Copies and checks. If the copy in steps is damaged, as when rowids were reused, copies page by page."""
    report = Report(part)
    with contextlib.closing(open_file(source)) as raw:
        for copy in _WAYS:
            os.ftruncate(descriptor, 0)
            try:
                copy(raw, source.parent, part, descriptor, progress, room)
            except sqlite3.DatabaseError as error:
                if copy is _WAYS[-1] or isinstance(error, sqlite3.OperationalError):
                    raise
                continue
            report = check(part, progress)
            if not report.damaged:
                return report
    if set(report.damage) <= set(check(source, progress).damage):
        return report
    raise Unsound(
        f"the copy is not sound, and was removed: {report.damage[0].message}. `relay check` says what the "
        "relay's own file is like."
    )


def _check_target(source: Path, target: Path, force: bool) -> None:
    if target.is_dir():
        raise Conflict(f"{target} is a directory: name a file in it, like {target / 'relay-backup.db'}")
    if not target.parent.is_dir():
        raise NotFound(f"there is no directory {target.parent}: make it first")
    real, own = target.resolve(), source.resolve()
    # relay.db may be a symlink to a file of another name elsewhere.
    files = [own.with_name(own.name + end) for end in database_files.ENDS]
    if real in files or (real.parent == source.parent.resolve() and real.name.startswith(OWN)):
        raise Conflict(f"{target} is one of the relay's own files: name another one")
    if target.exists() and not force:
        raise _there(target)


def _there(target: Path) -> Conflict:
    return Conflict(f"{target} is there already: name another file, or replace it with --force")


def _room(source: Path, target: Path, reserve: int) -> int:
    disk = disk_of(target.parent)
    kept = disk.least(reserve) if share_space(source, target.parent) else 0
    return disk.free - max(min(MARGIN, disk.size // 16), kept)


def _failed(target: Path, error: sqlite3.Error, descriptor: int) -> RelayError | OSError:
    refusal = copying.refusal(error, descriptor, target)
    full = refusal is not None and refusal.errno == errno.ENOSPC
    if full or code_of(error) == sqlite3.SQLITE_FULL:
        return copying.no_room(target)
    if refusal is not None:
        return refusal
    return Unavailable(f"the backup could not be made ({error}); nothing was left behind. `relay check` may say why")
