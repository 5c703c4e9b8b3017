"""Restores a backup into a data directory. The database gets a new id, so that no witness of the old one matches it.

Consumers and epochs stay. At the relay's start the newest epoch of each log ends at its head, as at every start: a
cursor up to there is honoured, a client with a later one is told what it misses, and new events get a new epoch. Tokens
that were revoked or rotated after the backup are valid again as they were, and public outputs are paused: the result
lists both.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay_tornado.errors import Conflict, Locked, NoSpace, StartupError
from relay_tornado.ids import new_uuid
from relay_tornado.ops import copying
from relay_tornado.ops.backup import Unsound
from relay_tornado.ops.check import check
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.findings import Report
from relay_tornado.ops.opening import open_file
from relay_tornado.search import file as search
from relay_tornado.series import file as series
from relay_tornado.storage import database_files, lock, migrate, permissions
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.damage import decode
from relay_tornado.storage.database import NAME
from relay_tornado.storage.lock import Lock
from relay_tornado.storage.space import disk_of
from relay_tornado.storage.sqlite_compat import guard_schema
from relay_tornado.storage.witness import Witness, read_stamp

_PAUSING = 3
"""The first schema version whose outputs can be paused."""

_ASIDE = (search.NAME, series.NAME)
_PART = NAME + ".restoring"


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore. `tokens` are the valid ones as (key, description), `paused` are (bucket, output), as a
    command names them.

    `disabled`: the schema is too old for pausing, so these outputs are disabled instead."""

    path: Path
    report: Report
    database: str
    tokens: tuple[tuple[str, str], ...]
    paused: tuple[tuple[str, str], ...]
    disabled: bool


def restore(file: Path, directory: Path, progress: Progress, *, damaged: bool = False) -> Restored:
    """Restores a backup into an empty or missing directory. Checks the backup before, and the result after.

    With `damaged`, also restores a backup that is not sound, as far as SQLite can read it: the result has the same
    damage, and no other. Raises Conflict if the directory is not empty, Locked if a relay runs on it, StartupError,
    NoSpace, and Unsound.
    """
    _check_idle(directory)
    _check_empty(directory)
    before = check(file, progress)
    if before.damaged and not damaged:
        raise Unsound(
            f"{file} is not sound: {before.damage[0].message}. Restore another backup, or this one as it is with "
            f"--damaged; `relay check {file}` says all."
        )
    held = Lock.acquire(directory)
    try:
        _check_empty(directory)
        return _restore(file, directory, progress, before)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpace(f"there is no room in {directory}: free some space, or choose another disk") from error
        raise
    finally:
        held.release()


def _restore(file: Path, directory: Path, progress: Progress, before: Report) -> Restored:
    part = directory / _PART
    if (long := permissions.too_long(part)) is not None:
        raise StartupError(f"{part} can't be made: {long}.")
    part.unlink(missing_ok=True)
    descriptor = database_files.create(part)
    try:
        with contextlib.closing(open_file(file)) as raw:
            copying.by_pages(raw, file.parent, part, descriptor, progress, disk_of(directory).free)
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as raw:
            guard_schema(raw)
            raw.text_factory = decode
            if before.damaged:
                _make_triggers(raw)
            paused = _make_own(raw)
            stamp = read_stamp(raw)
            tokens = _tokens(raw, time.time())
            disabled = not _pauses(raw)
        after = check(part, progress)
        new = [each for each in after.damage if each not in before.damage and each.kind not in before.cut_off]
        if new:
            raise Unsound(f"the restored file is not sound, and was removed: {new[0].message}")
        os.fsync(descriptor)
        witness = Witness.open(directory / witnesses.NAME)
        try:
            witness.restart(stamp)
            # It has no WAL, so a start has no reason to look for the damage that a part of one would leave.
            witness.note_copied(stamp)
            witness.sync()
        finally:
            witness.close()
        part.replace(directory / NAME)
        database_files.sync(directory)
    except (sqlite3.Error, TypeError, ValueError, AttributeError) as error:  # a damaged record may have any form
        refusal = copying.refusal(error, descriptor, directory) if isinstance(error, sqlite3.Error) else None
        if refusal is not None:
            raise refusal from error
        why = error if isinstance(error, sqlite3.Error) else _damaged_record(before) or error
        raise StartupError(f"{file} could not be restored ({why}); nothing was left in {directory}.") from error
    finally:
        os.close(descriptor)
        database_files.remove(part)
    return Restored(directory / NAME, after, stamp.database, tokens, paused, disabled)


def _damaged_record(before: Report) -> str:
    return next((finding.message for finding in before.damage if finding.kind == "record"), "")


def _make_own(raw: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    """Gives the copy a new id, and pauses the outputs to which the relay would forward as soon as it starts."""
    paused = []
    # A relay for an older schema does not know pausing, and would not accept such a record.
    switch = "paused" if _pauses(raw) else "disabled"
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("UPDATE meta SET id = ?", (new_uuid(),))
    for bucket_id, name, text in raw.execute("SELECT id, name, document FROM bucket").fetchall():
        document: dict[str, Any] = json.loads(text)
        running = [
            output
            for output in document.get("outputs", [])
            if not output.get("internal", True)
            and not output.get("disabled", False)
            and not output.get("paused", False)
        ]
        for output in running:
            output[switch] = True
            paused.append((name, _reference(output, document["outputs"])))
        if running:
            raw.execute(
                "UPDATE bucket SET document = ?, revision = revision + 1 WHERE id = ?",
                (json.dumps(document), bucket_id),
            )
    raw.execute("COMMIT")
    return tuple(paused)


def _reference(output: dict[str, Any], outputs: Sequence[dict[str, Any]]) -> str:
    """Names one of a bucket's outputs in a command: by its name, or by its id if others have that name, or if it looks
    like an option or can't be printed."""
    name = str(output.get("name") or "")
    alone = sum(str(each.get("name")) == name for each in outputs) == 1
    clear = name and alone and name.isprintable() and not name.startswith("-")
    return name if clear else str(output.get("id"))


def _make_triggers(raw: sqlite3.Connection) -> None:
    """Replaces all triggers with the relay's own: others in the file could change what the restore writes."""
    sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'"
    for name, _ in raw.execute(sql).fetchall():
        raw.execute('DROP TRIGGER "{}"'.format(name.replace('"', '""')))
    with contextlib.closing(migrate.empty(migrate.version(raw))) as own:
        for _, text in own.execute(sql):
            with contextlib.suppress(sqlite3.OperationalError):  # its table is missing
                raw.execute(text)


def _pauses(raw: sqlite3.Connection) -> bool:
    return migrate.version(raw) >= _PAUSING


def _tokens(raw: sqlite3.Connection, now: float) -> tuple[tuple[str, str], ...]:
    """Those that have not expired, as (key, description)."""
    found = []
    for key, text in raw.execute("SELECT key, document FROM token ORDER BY rowid").fetchall():
        token: dict[str, Any] = json.loads(text)
        expires = token.get("expires_at")
        if not isinstance(expires, int | float) or expires > now:
            found.append((key, str(token.get("description", ""))))
    return tuple(found)


def _check_idle(directory: Path) -> None:
    owner = lock.read_owner(directory)
    if owner is not None:
        raise Locked(
            f"a relay (process {owner.pid}) runs on {directory}: restore into another, empty directory, then stop it "
            "and start the relay there"
        )


def _check_empty(directory: Path) -> None:
    """Raises Conflict if the directory is not empty. What an interrupted restore left, a lock that nobody holds, and
    lost+found are allowed."""
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise Conflict(f"{directory} is a file: name a directory with --data") from None
    allowed = {lock.NAME, witnesses.NAME, "lost+found"} | {_PART + end for end in database_files.ENDS}
    # Search index and series follow the log, and notice by themselves that it is another one.
    allowed |= {name + end for name in _ASIDE for end in database_files.ENDS}
    if names - allowed:
        raise Conflict(
            f"{directory} is not empty: restore into another directory with --data, or move this one away first, with "
            "everything in it"
        )
