"""Ensures that one process owns a data directory: by an flock on relay.lock, which also names the owner, and one on the
directory itself, for the case that relay.lock is removed while its owner runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay_tornado import __version__
from relay_tornado.errors import NO_DESCRIPTOR, Locked, NotWritable
from relay_tornado.storage import permissions

NAME = "relay.lock"

_NO_LOCKS: Final = "files can't be locked on its file system, as on NFS without its lock service; use a local disk"
_PATIENCE = 0.5
"""Seconds for which a held lock is tried again: another process's `read_owner` holds it for a moment."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of the lock: its process, the relay's version, and the path of its control socket, if it has one.
    `reserve` is a relay's setting of that name, None if it is not known."""

    pid: int
    version: str
    socket: Path | None = None
    reserve: int | None = None


class Lock:
    """The lock on a directory, held until `release` or until the process ends, however it ends.

    `unstopped` is the process id of the relay that ran there last, if it ended without a stop; else 0.
    """

    def __init__(self, path: Path, descriptor: int, directory: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._directory = directory
        self.unstopped = 0
        self._serves = False

    @classmethod
    def acquire(cls, directory: Path) -> Lock:
        """Creates the directory (0700) if it is missing, and locks it. Raises Locked or NotWritable."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except BaseException:
                os.close(folder)
                raise
        except OSError as error:
            raise NotWritable(_refusal(directory, error)) from error
        lock = cls(directory, descriptor, folder)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not lock._try():
                if time.monotonic() > deadline:
                    raise Locked(_held(directory, _parse(os.pread(descriptor, 4096, 0))))
                time.sleep(0.02)
            # If all files exist, nothing else fails until the next one is created, and that one would be blamed.
            if not os.access(directory, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            lock.unstopped = _unstopped(os.pread(descriptor, 4096, 0))
            lock.write(None)
        except OSError as error:
            lock.release()
            raise NotWritable(_refusal(directory, error)) from error
        except BaseException:
            lock.release()
            raise
        return lock

    def _try(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # some file systems can't lock a directory; relay.lock is held anyway
        return True

    def write(self, socket: Path | None, reserve: int | None = None) -> None:
        """Writes who holds the lock, where its control socket is, and its `reserve`; a process with a socket is a
        relay. Raises NotWritable."""
        assert self._descriptor is not None, "the lock was released"
        self._serves = self._serves or socket is not None
        unstopped = self.unstopped
        if self._serves:
            unstopped = 0 if socket is None else os.getpid()
        owner = {
            "pid": os.getpid(),
            "version": __version__,
            "socket": None if socket is None else str(socket),
            "unstopped": unstopped,
            "reserve": reserve,
        }
        data = json.dumps(owner).encode() + b"\n"
        try:
            os.pwrite(self._descriptor, data, 0)
            os.ftruncate(self._descriptor, len(data))
        except OSError as error:
            raise NotWritable(_refusal(self._path, error)) from error

    def stopped(self) -> None:
        """Writes that the relay stopped, if this is one. Raises NotWritable."""
        if self._descriptor is not None and self._serves:
            self.write(None)

    def release(self) -> None:
        """Releases the lock. The file stays: if it were removed, two processes could lock two files of the same
        name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            os.close(self._directory)
            self._descriptor = None


def read_owner(directory: Path) -> Owner | None:
    """The holder of the directory's lock; None if no living process holds it, or there is no such directory.

    A holder that has not yet written who it is has pid 0. Raises NotWritable if the lock can't be read.
    """
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NotWritable(_refusal(directory, error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _parse(os.pread(descriptor, 4096, 0)) or Owner(0, "")
    else:
        return None
    finally:
        os.close(descriptor)


def serves(directory: Path, *, unknown: bool) -> bool:
    """Whether a relay runs on the directory and is past the checks of its start, or this process holds the lock;
    `unknown` if that can't be found out."""
    try:
        owner = read_owner(directory)
    except (OSError, NotWritable):
        return unknown
    return owner is not None and (owner.socket is not None or owner.pid == os.getpid())


def _parse(data: bytes) -> Owner | None:
    try:
        owner = json.loads(data)
        socket, reserve = owner["socket"], owner.get("reserve")  # relays before 0.5.22 wrote no reserve
        return Owner(
            int(owner["pid"]),
            str(owner["version"]),
            None if socket is None else Path(socket),
            None if reserve is None else int(reserve),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _unstopped(data: bytes) -> int:
    """The process id of a relay that did not stop; 0 if it did, or if that is not known."""
    try:
        found = json.loads(data)["unstopped"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
    return found if isinstance(found, int) else 0


def _held(directory: Path, owner: Owner | None) -> str:
    who = "another process" if owner is None else f"process {owner.pid} (relay {owner.version})"
    return (
        f"{directory} is in use by {who}. One process owns a data directory: stop that one, or name another "
        "directory with --data."
    )


def _refusal(directory: Path, error: OSError) -> str:
    if directory.is_symlink() and not directory.exists():
        return (
            f"the data directory {directory} is a symlink to {directory.readlink()}, which is not there: mount the "
            "disk that it is on, or choose another one with --data."
        )
    advice = {
        errno.EACCES: "give the user that runs the relay the right to write there",
        errno.EPERM: "give the user that runs the relay the right to write there",
        errno.EROFS: f"the file system is mounted read-only; {permissions.READ_ONLY}",
        errno.ENOTDIR: "a part of the path is a file; name a directory",
        errno.EEXIST: "it is a file; name a directory",
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the quota is used up; free some space",
        errno.EIO: "the disk failed; look at it",
        errno.ENAMETOOLONG: "a name in it, or all of it, is too long; shorten it",
        errno.ENOLCK: _NO_LOCKS,
        errno.EOPNOTSUPP: _NO_LOCKS,
    }.get(error.errno or 0, "check the path and its rights")
    refusal = f"can't write to the data directory {directory} ({os.strerror(error.errno or 0)}): "
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{refusal}{NO_DESCRIPTOR}."
    mend = permissions.advice(directory) if error.errno in (errno.EACCES, errno.EPERM) else None
    return refusal + (mend or f"{advice}, or choose another one with --data.")
