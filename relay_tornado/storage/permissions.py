"""Finds what prevents this process from opening or writing the relay's files, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from relay_tornado.storage.database_files import beside, wal_of

_ENOUGH: Final = 16
"""Descriptors: opening a database with its WAL takes fewer; after a failure they are closed again."""
_LONGEST: Final = 504
"""Bytes of the longest full path that SQLite can use: its limit is 512, and it appends to the name."""

OWN: Final = re.compile(r"relay\.(lock|sock|witness)|(relay|search|series)\.db([-.].*)?|sessions\.(json|new)")
"""The names of a relay's own files: other files in its directory are ignored."""

READ_ONLY: Final = "mount it read-write, or name it in ReadWritePaths= of the service's unit"
"""The advice for a read-only file system: to a service, systemd shows most file systems as such."""


def descriptors_lack() -> bool:
    """Whether this process, or the machine, has too few free descriptors. SQLite does not say why it could not open a
    file."""
    opened: list[int] = []
    try:
        while len(opened) < _ENOUGH:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for each in opened:
            os.close(each)
    return False


def too_long(path: Path) -> str | None:
    """The problem, if the path is too long for SQLite; None if it is not."""
    size = len(os.fsencode(os.path.realpath(path)))
    if size <= _LONGEST:
        return None
    return f"its full path has {size} bytes, and SQLite opens {_LONGEST} at most: choose a directory of a shorter one"


def own_files(directory: Path) -> list[Path]:
    """The relay's own files in its data directory."""
    return sorted(path for path in directory.iterdir() if OWN.fullmatch(path.name))


def advice(directory: Path) -> str | None:
    """Names the files of a data directory that can't be accessed, or says that the disk can't be written; None if
    neither is the case."""
    if not os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
        return None
    database = directory / "relay.db"
    wal = wal_of(database)
    if wal.parent.is_dir() and os.statvfs(wal.parent).f_flag & os.ST_RDONLY:
        return f"{wal.parent} is mounted read-only: {READ_ONLY}, or copy it to another disk, and name that"
    shut = _shut((directory / "relay.lock", database, wal, beside(database, "-shm"), directory / "relay.witness"))
    if not shut:
        return None
    shut += [path for path in _shut(own_files(directory)) if path not in shut]
    user, owners = os.geteuid(), {path.stat().st_uid for path in shut}
    named = " ".join(shlex.quote(str(path)) for path in shut)
    if owners == {user}:
        return f"give their owner the right to write: chmod 0600 {named}"
    uids = " and ".join(f"uid {uid}" for uid in sorted(owners))
    if directory.stat().st_uid == user:
        mend = f"chown --reference={shlex.quote(str(directory))} {named}"
        return f"there are files of {uids}, perhaps since a command ran as that user: as root, {mend}"
    mend = f"chown -R {user} {shlex.quote(str(directory))}"
    return (
        f"there are files of {uids}: run this as that user, or choose another directory with --data; if the relay runs "
        f"as this user: as root, {mend}"
    )


def _shut(files: Iterable[Path]) -> list[Path]:
    """Those of the files that this process may not read and write."""
    return [path for path in files if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True)]
