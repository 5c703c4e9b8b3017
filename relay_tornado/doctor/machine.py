"""Checks the machine and the data directory: file descriptors, clock, space, the disk's syncs, ownership of files."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shlex
import sqlite3
import stat
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from relay_tornado import __version__
from relay_tornado.doctor.finding import Finding
from relay_tornado.errors import StartupError
from relay_tornado.model import KIB, MIB
from relay_tornado.storage import older_wal, permissions, start
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.database import NAME
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.lock import Owner
from relay_tornado.storage.space import disk_of
from relay_tornado.storage.sqlite_compat import NEWER_SQLITE, old_sqlite

LEAST_DESCRIPTORS: Final = 512
"""Fewer are not enough for the relay's own files and a few clients."""

FEW_DESCRIPTORS: Final = 16
"""Fewer free ones than this are used up at any moment. A relay with as many connections as it allows has more."""

GOOD_DESCRIPTORS: Final = 4096
SYNCS: Final = 32
LONGEST_SYNCS: Final = 2.0
"""Seconds after which no more syncs are measured."""

SLOW_SYNC: Final = 0.010
VERY_SLOW_SYNC: Final = 0.100
"""Seconds of the median sync: every commit waits for one."""

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
"""A character of a path in /proc/mounts that would break its line, as an octal number (proc_pid_mounts(5))."""

_CLOCKS_APART: Final = 2.0
_BEFORE_ANY_RELEASE: Final = 1_735_689_600.0
"""2025-01-01: a clock that says less was never set."""

_TIME_ERROR: Final = 5
"""What ntp_adjtime(3) returns for a clock that is not synchronized."""

_ROOM: Final = (
    "free some space, make the disk larger, or let old events leave earlier: relay bucket set NAME --retention-age"
)

_NOT_WRITTEN: Final = {
    errno.EROFS: "mount its disk read-write; a disk that became read-only by itself has failed: look at it first",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EIO: "the disk has failed: look at it (dmesg, smartctl), and move the directory to another one",
}
"""What to do if the directory can't be written, by errno."""

_STILL_OPEN: Final = (
    f"do not stop the relay: what it acknowledged is only in the files that it has open; {NAME} was moved: move it "
    "back, and the relay goes on by itself; deleted: copy it out of the process first, as RelayNotReady in "
    "docs/operations.md says"
)
"""What to do if a running relay's file is gone."""

_PERHAPS_OPEN: Final = (
    f"do not stop the relay, and restore nothing, before you have read RelayNotReady in docs/operations.md: {NAME} or "
    "its WAL may have been deleted, moved or written over; if not, "
)

_TIMEX_SIZE: Final = 512
"""Bytes, more than a struct timex has on any Linux. With all bytes 0 the call only reads."""

_REMOTE: Final = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs")


def look(data: Path, reserve: int, owner: Owner | None) -> Iterator[Finding]:
    """Yields the findings about the machine and the data directory. `reserve` is the setting, `owner` the process that
    runs there now.

    If the directory is not a relay's, that is the only finding: advice for a relay's could ruin another directory.
    """
    if owner is None and not any(path.name.startswith("relay.") for path in permissions.own_files(data)):
        yield Finding(
            "data",
            "fail",
            f"{data} is no relay's: there is no {NAME} in it",
            "name the relay's directory with --data or RELAY_DATA; relay serve begins a new one",
        )
        return
    found = database(data, owner)
    yield _running(data, owner, found.level != "fail")
    yield found
    yield from rights(data)
    disk = wal_of(data / NAME).parent
    if not disk.is_dir():
        disk = data  # another finding says already that the file's own directory is missing
    yield _file_system(disk)
    yield space(disk, reserve)
    yield syncing(disk)
    yield descriptors(owner)
    yield from clock(data)
    yield _sqlite()


def _running(data: Path, owner: Owner | None, sound: bool) -> Finding:
    if owner is None:
        return Finding(
            "running",
            "warn",
            f"no relay runs on {data}",
            "start it: relay serve, or systemctl start relay; or name its directory with --data"
            if sound
            else "see to the database first: it would not start",
        )
    if owner.version != __version__:
        return Finding(
            "running",
            "warn",
            f"process {owner.pid} is relay {owner.version}, this program is {__version__}",
            "restart the relay, so that the version that is installed runs",
        )
    return Finding("running", "ok", f"process {owner.pid}, relay {owner.version}")


def database(data: Path, owner: Owner | None = None) -> Finding:
    """Whether relay.db is a relay's file that this program can read. As at a start, only its beginning is read.

    A running relay (`owner`) may have another file open than the one that is found.
    """
    name, path = "database", data / NAME
    perhaps = _PERHAPS_OPEN if owner is not None else ""
    remedy = f"{perhaps}relay check says more; stop the relay, and relay restore the newest backup into a new directory"
    if path.is_symlink() and not path.exists():
        says = f"{path} is a symlink to {path.readlink()}, which is not there"
        mount = "mount the disk that it is on, before the relay is started"
        return Finding(name, "fail", says, mount if owner is None else f"{_STILL_OPEN}; unmounted: mount it again")
    if not path.exists():
        says = f"there is no {NAME} in {data}, which was a relay's"
        return Finding(name, "fail", says, remedy if owner is None else _STILL_OPEN)
    # While it is being started, a relay may wait until the WAL can be put aside.
    if (owner is None or owner.socket is None) and (older := older_wal.find(path)) is not None:
        return Finding(name, "fail", older_wal.describe(path, older), "relay serve puts it aside, or says what to do")
    try:
        found = start.look(path)
        stamp = witnesses.peek(data / witnesses.NAME)
    except StartupError as error:
        return Finding(name, "fail", str(error), f"{perhaps}relay check says more")
    except (sqlite3.Error, OSError, TypeError) as error:
        if "disk I/O error" in str(error) or getattr(error, "errno", None) == errno.EIO:
            remedy = perhaps + _NOT_WRITTEN[errno.EIO]
        elif isinstance(error, OSError):
            remedy = f"{perhaps}relay check says more"
        # SQLite's module raises OperationalError for what is no damage.
        no_damage = isinstance(error, (sqlite3.OperationalError, OSError))
        mend = permissions.advice(data) if no_damage else None
        return Finding(name, "fail", f"{path} can't be read ({error})", mend or remedy)
    if found is not None:
        return Finding(name, "ok", f"events that were ever stored in it: {found.appended}")
    if stamp is not None:
        return Finding(name, "fail", f"{path} is empty, and {stamp.appended} events were stored in it", remedy)
    return Finding(name, "warn", f"{path} is empty: no relay has written to it (yet)", "relay serve makes a new one")


def rights(data: Path) -> Iterator[Finding]:
    """Whether the directory and the relay's files in it belong to one user, and no other can read them."""
    mode = data.stat()
    if mode.st_mode & 0o077:
        yield Finding(
            "directory",
            "warn",
            f"{data} has mode {stat.S_IMODE(mode.st_mode):04o}: others may look into it",
            _closed(data),
        )
    else:
        yield Finding("directory", "ok", f"{data} belongs to uid {mode.st_uid} alone")
    foreign, open_to_others = [], []
    for path in permissions.own_files(data):
        with suppress(FileNotFoundError):
            found = path.lstat()
            if found.st_uid != mode.st_uid:
                foreign.append(path)
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                open_to_others.append(path)
    if foreign:
        yield Finding(
            "owner",
            "fail",
            f"{_some(foreign)} in {data} belong to another user than the directory: the relay can't write them",
            f"chown --reference={shlex.quote(str(data))} {_quoted(foreign)}",
        )
    if open_to_others:
        yield Finding(
            "modes",
            "warn",
            f"{_some(open_to_others)} in {data} can be read by others; events and secrets stand in them",
            f"chmod 0600 {_quoted(open_to_others)}",
        )
    if not foreign and not open_to_others:
        yield Finding("files", "ok", "belong to the directory's owner, and nobody else can read them")


def _closed(data: Path) -> str:
    """How to close the directory to others; one that holds other files as well is not to be closed."""
    if all(permissions.OWN.fullmatch(path.name) for path in data.iterdir()):
        return f"chmod 0700 {shlex.quote(str(data))}"
    return "files that are not the relay's lie in it: give the relay a directory of its own, with mode 0700"


def _quoted(paths: list[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)


def _some(paths: list[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _file_system(data: Path) -> Finding:
    kind = _mounted(data)
    if kind.startswith(_REMOTE):
        return Finding(
            "file system",
            "fail",
            f"{data} lies on {kind}: SQLite's write-ahead log does not work over a network",
            "move the data directory to a disk of this machine",
        )
    if kind in ("tmpfs", "ramfs"):
        return Finding(
            "file system", "fail", f"{data} lies in memory ({kind}): a restart loses it", "move it to a disk"
        )
    return Finding("file system", "ok", kind or "not known")


def _mounted(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds the path, "" if it can't be known."""
    path = path.resolve()
    best, kind = -1, ""
    with suppress(OSError):
        for line in filter(None, os.fsdecode(mounts.read_bytes()).split("\n")):
            _, place, type_, *_ = line.split(" ")
            place = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), place)
            if path.is_relative_to(place) and len(place) >= best:
                best, kind = len(place), type_
    return kind


def space(data: Path, reserve: int) -> Finding:
    """Free space and free inodes on the database's disk."""
    disk, inodes = disk_of(data), os.statvfs(data)
    least = disk.least(reserve)
    says = f"{disk.free // MIB} MiB free of {disk.size // MIB}, webhooks are refused at {least // MIB}"
    if inodes.f_files and not inodes.f_favail:
        return Finding("space", "fail", f"{says}; no inode is left", "remove files that nobody needs")
    if disk.free <= least:
        return Finding("space", "fail", says, _ROOM)
    return Finding("space", "warn", says, _ROOM) if disk.free < 4 * least else Finding("space", "ok", says)


def syncing(data: Path, clock: Callable[[], float] = time.perf_counter) -> Finding:
    """How long a sync takes, in the data directory itself."""
    try:
        with tempfile.NamedTemporaryFile(dir=data, prefix=".doctor-") as file:
            os.write(file.fileno(), bytes(SYNCS * 4 * KIB))
            os.fsync(file.fileno())
            times: list[float] = []
            for number in range(SYNCS):
                if sum(times) > LONGEST_SYNCS:
                    break
                os.pwrite(file.fileno(), os.urandom(4 * KIB), number * 4 * KIB)
                began = clock()
                os.fdatasync(file.fileno())
                times.append(clock() - began)
    except OSError as error:
        usual = "run this as the relay's user; if that is who runs it, give the directory to it"
        remedy = _NOT_WRITTEN.get(error.errno or 0, usual)
        return Finding("sync", "fail", f"{data} can't be written ({error.strerror})", remedy)
    middle, worst = statistics.median(times), max(times)
    says = f"{middle * 1000:.1f} ms a sync, {worst * 1000:.1f} at worst"
    remedy = (
        "every sender waits for a sync: see what else writes to this disk (iotop -oa), and whether it fails (dmesg, "
        "smartctl); put the data directory on a local SSD"
    )
    if middle > VERY_SLOW_SYNC:
        return Finding("sync", "fail", says, remedy)
    return Finding("sync", "warn", says, remedy) if middle > SLOW_SYNC else Finding("sync", "ok", says)


def descriptors(owner: Owner | None) -> Finding:
    """How many connections there can be."""
    limit = _limit_of(owner) if owner is not None else None
    if limit is None:
        # `relay serve` raises the soft limit to the hard one.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit == resource.RLIM_INFINITY:
        return Finding("descriptors", "ok", "no limit")
    used = 0 if owner is None else _open_in(owner)
    says = f"{limit} may be open, each connection is one" + (f"; {used} are" if used else "")
    whose = (
        "(LimitNOFILE= in the systemd unit, ulimits in compose); first see whose connections they are: "
        "ss -tn | awk '{print $5}' | sort | uniq -c | sort -n"
    )
    if limit - used < FEW_DESCRIPTORS:
        remedy = (
            f"the relay accepts no more connections, and answers no command: restart it with a higher limit {whose}"
        )
        return Finding("descriptors", "fail", says, remedy)
    if used >= 0.9 * limit:
        return Finding("descriptors", "warn", says, f"before they are used up, raise the limit {whose}")
    remedy = "raise LimitNOFILE= in the systemd unit, ulimits in compose, or nofile in /etc/security/limits.conf"
    if limit < GOOD_DESCRIPTORS:
        return Finding("descriptors", "fail" if limit < LEAST_DESCRIPTORS else "warn", says, remedy)
    return Finding("descriptors", "ok", says)


def _open_in(owner: Owner) -> int:
    """How many descriptors the process has open; 0 if this can't be known."""
    try:
        return sum(1 for _ in Path(f"/proc/{owner.pid}/fd").iterdir())
    except OSError:
        return 0


def _limit_of(owner: Owner) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{owner.pid}/limits").read_text().splitlines():
            if line.startswith("Max open files"):
                return int(line.split()[3])
    return None


def clock(data: Path, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Whether the system clock is plausible, agrees with the file system's, and is synchronized."""
    at = now()
    newest = max((path.stat().st_mtime for path in data.glob("relay.db*") if path.exists()), default=0.0)
    remedy = "set the clock (timedatectl set-ntp true), then restart the relay"
    if at < _BEFORE_ANY_RELEASE or at < newest - _CLOCKS_APART:
        says = f"the clock says {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))} UTC, which is in the past"
        yield Finding("clock", "fail", says, remedy)
        return
    written = _written_at(data)
    if written is not None and abs(written - now()) > _CLOCKS_APART:
        yield Finding(
            "clock", "warn", f"the file system's clock is {written - now():+.0f} s off this machine's", remedy
        )
        return
    match _synchronised():
        case True:
            yield Finding("clock", "ok", "agrees with the file system's, and is kept by a time service")
        case False:
            yield Finding(
                "clock",
                "warn",
                "the clock is not synchronized; received_at and retention by age go by it",
                "install chrony, or run timedatectl set-ntp true (in a container: on its host)",
            )
        case None:
            yield Finding("clock", "ok", "agrees with the file system's; whether it is synchronized can't be seen here")


def _written_at(data: Path) -> float | None:
    """The present time by the file system's clock."""
    try:
        with tempfile.NamedTemporaryFile(dir=data, prefix=".doctor-") as file:
            os.write(file.fileno(), b"x")
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _synchronised() -> bool | None:
    try:
        ask = ctypes.CDLL(None).ntp_adjtime
    except (OSError, AttributeError):
        return None
    state = ask(ctypes.create_string_buffer(_TIMEX_SIZE))
    return None if state < 0 else state != _TIME_ERROR


def _sqlite() -> Finding:
    if (old := old_sqlite()) is not None:
        return Finding("sqlite", "fail", old, NEWER_SQLITE)
    return Finding("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}")
