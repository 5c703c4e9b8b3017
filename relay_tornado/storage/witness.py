"""A second record of how much was committed, so that a loss of committed work is noticed at the next start.

A flipped bit in the WAL silently drops every later commit, and no integrity check finds that. So after COMMIT has
returned and before anything is announced, the database's id, `commits` and `appended` are written here, without fsync
(1 µs), alternately into two sectors, so that a torn write damages only the older stamp. The witness is never ahead of
the file; so a witness that is ahead at a start proves that committed work is lost.

A third sector holds the stamp up to which the file itself has everything, without its WAL: see `older_wal`. Or it says
that the file is condemned.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from relay_tornado.storage import database_files, no_cow
from relay_tornado.storage.damage import malformed, sound

NAME = "relay.witness"
SECTOR = 4096
_COPIED = 2 * SECTOR

_RECORD = struct.Struct("<8s36sQQ")
_MAGIC = b"rlywit01"
_CRC = struct.Struct("<I")
_CONDEMNED = b"rlywit01 condemned"
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""A count that can be incremented: damage can make a number negative, or the largest possible."""
_sync = getattr(os, "fdatasync", os.fsync)
"""The file never changes its size, and its modification time does not matter, so no file system journal is waited
for."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """How much was committed to a database: write transactions, and the events in them."""

    database: str
    commits: int
    appended: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What was committed once and is not in the file any more."""

    commits: int
    events: int


def loss(witness: Stamp | None, found: Stamp) -> Loss | None:
    """The loss that the witness proves, compared with the file's stamp; None if it proves none."""
    if witness is None or witness.database != found.database or witness.commits <= found.commits:
        return None
    return Loss(witness.commits - found.commits, max(witness.appended - found.appended, 0))


def read_stamp(raw: sqlite3.Connection) -> Stamp:
    """The stamp in the file itself. Raises sqlite3.Error."""
    row = raw.execute("SELECT id, commits, appended FROM meta").fetchone()
    try:
        return Stamp(*sound(row, tuple[str, _Count, _Count]))
    except sqlite3.DatabaseError:
        raise malformed("its table meta is empty or damaged") from None


def peek(path: Path) -> Stamp | None:
    """The newest stamp in a witness that may be another process's; None if there is none. Raises OSError."""
    return _newest(_content(path))


def peek_copied(path: Path) -> Stamp | None:
    """The stamp up to which the file has everything without its WAL; None if that is unknown. Raises OSError."""
    return _decode(_content(path)[_COPIED:])


def notes_copies(path: Path) -> bool:
    """Whether what was copied is noted in it at all: before 0.5.20 it had two sectors. Raises OSError."""
    return len(_content(path)) > _COPIED


def condemned(path: Path) -> bool:
    """Whether the file was condemned. Raises OSError."""
    return _content(path)[_COPIED:].startswith(_CONDEMNED)


class Witness:
    """The open file. `write` is called on the writer's thread, `sync` on another one; both use only its descriptor.

    `untold` is a loss that a later start has to report: the written stamps stay ahead of the file by it.
    """

    def __init__(self, descriptor: int, *, notes: bool = True) -> None:
        """`notes`: whether there is room for what `note_copied` writes."""
        self._descriptor: int | None = descriptor
        self._notes = notes
        self._turn = 0
        self._condemned = False
        self.untold: Loss | None = None

    @classmethod
    def open(cls, path: Path) -> Witness:
        """Opens the file; creates and preallocates it if it is missing. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            no_cow.set_flag(descriptor)  # what is preallocated is room for its changes only then
            if not database_files.has_places(descriptor, _COPIED):
                os.posix_fallocate(descriptor, 0, _COPIED)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            if not database_files.has_places(descriptor, _COPIED + SECTOR):
                os.posix_fallocate(descriptor, _COPIED, SECTOR)
        except OSError:  # the disk is full; before 0.5.20 the file had two sectors
            return cls(descriptor, notes=False)
        return cls(descriptor)

    def read(self) -> Stamp | None:
        """The newest stamp; None if neither sector holds a complete one."""
        assert self._descriptor is not None, "the witness is closed"
        content = os.pread(self._descriptor, _COPIED, 0)
        newest = _newest(content)
        self._turn = int(newest is not None and newest == _decode(content[:SECTOR]))
        return newest

    def write(self, stamp: Stamp) -> None:
        """Replaces the older of the two stamps. Raises OSError."""
        assert self._descriptor is not None, "the witness is closed"
        if self.untold is not None:
            appended = stamp.appended + self.untold.events
            stamp = Stamp(stamp.database, stamp.commits + self.untold.commits, appended)
        os.pwrite(self._descriptor, _encode(stamp), self._turn * SECTOR)
        self._turn = 1 - self._turn

    def note_copied(self, stamp: Stamp | None) -> None:
        """The file has everything up to `stamp` without its WAL, and is synced; None: it is being written. Nothing
        is noted of a condemned file. Raises OSError."""
        assert self._descriptor is not None, "the witness is closed"
        if self._notes and not self._condemned:
            os.pwrite(self._descriptor, bytes(SECTOR) if stamp is None else _encode(stamp), _COPIED)

    def condemn(self) -> None:
        """The file is part of another one: no start may use it. Waits for the disk: nothing is committed any more, so
        no later sync is sure to come. Raises OSError."""
        assert self._descriptor is not None, "the witness is closed"
        self._condemned = True
        os.pwrite(self._descriptor, _CONDEMNED.ljust(SECTOR, b"\0"), _COPIED)
        self.sync()

    def restart(self, stamp: Stamp) -> None:
        """Replaces both stamps with `stamp`; what the file has without its WAL is unknown. Raises OSError."""
        self.note_copied(None)
        self.write(stamp)
        self.write(stamp)
        self.sync()

    def forget(self, stamp: Stamp) -> None:
        """The loss was reported: continues with `stamp`. Raises OSError."""
        self.untold = None
        self.restart(stamp)

    def sync(self) -> None:
        """Waits until the disk has stored it. Raises OSError."""
        if self._descriptor is not None:
            _sync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _content(path: Path) -> bytes:
    """The bytes of a witness; none if it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _newest(content: bytes) -> Stamp | None:
    """The newest stamp in the first two sectors; None if neither holds a complete one."""
    stamps = (_decode(content[:SECTOR]), _decode(content[SECTOR:_COPIED]))
    return max(filter(None, stamps), key=lambda stamp: stamp.commits, default=None)


def _encode(stamp: Stamp) -> bytes:
    record = _RECORD.pack(_MAGIC, stamp.database.encode(), stamp.commits, stamp.appended)
    return record + _CRC.pack(zlib.crc32(record))


def _decode(sector: bytes) -> Stamp | None:
    record, crc = sector[: _RECORD.size], sector[_RECORD.size : _RECORD.size + _CRC.size]
    if len(crc) != _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(record):
        return None
    magic, database, commits, appended = _RECORD.unpack(record)
    return Stamp(database.decode(), commits, appended) if magic == _MAGIC else None
