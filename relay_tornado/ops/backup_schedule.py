"""The scheduled backups of `relay serve`: one every `backup_every` seconds, of which the newest `backup_keep` stay.

Each is made by a process of its own, `relay backup`, so that it shares neither memory nor interpreter with the relay.
All other work in the backup directory is done on a thread, as its disk may be slow, or a file server that hangs.
"""

from __future__ import annotations

import asyncio
import calendar
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from relay_tornado.errors import NO_THREAD, StartupError
from relay_tornado.low_memory import run_in_thread
from relay_tornado.settings import Settings
from relay_tornado.storage.database_files import size_of, sync

RETRY = (60.0, 3600.0)
"""Seconds until a failed backup is retried: the first delay, and the longest."""
PATIENCE = 2.0
"""Seconds that a backup's process gets to end when the relay stops; then it is killed. It does not react within a long
statement of SQLite, and reacts late on a busy processor, but the relay's stop may not wait for long. The next backup
removes what a killed one leaves."""

_ANSWERS: Final = 120.0
"""Seconds within which work in the directory, other than a backup, has to be done."""
LOOK = 60.0
"""Seconds between two checks of whether a backup's process makes progress."""
_LOOKS: Final = 10
"""The number of checks in a row without progress after which a backup is given up. They are counted, because a clock
goes on while the machine is suspended."""

_FIRST_TO_GO = "1000"
"""The oom_score_adj (proc(5)) of the process to be killed first if memory is short. Otherwise the kernel would kill the
relay, which is larger; a backup can be repeated."""
_NAME = re.compile(r"relay-([0-9]{8}T[0-9]{6})Z\.db")
_FORM = "%Y%m%dT%H%M%S"

T = TypeVar("T")

_log = structlog.get_logger(__name__)


def check_directory(directory: Path) -> None:
    """Raises StartupError if the path is there and no directory. A missing one, as on a disk that is not mounted yet,
    does not prevent the start."""
    if directory.exists() and not directory.is_dir():
        raise StartupError(
            f"no backups can be made in {directory}, which is a file: name a directory with --backup-dir"
        )


def name_at(at: float) -> str:
    """The name of a backup begun at that time, in UTC: `relay-20300102T030405Z.db`."""
    return f"relay-{time.strftime(_FORM, time.gmtime(at))}Z.db"


def backups(directory: Path) -> Sequence[tuple[float, Path]]:
    """The backups in the directory with their times, oldest first. Files with other names are ignored."""
    found = []
    for path in directory.iterdir():
        at = _time(path.name)
        if at is not None and path.is_file():
            found.append((at, path))
    return sorted(found)


def _time(name: str) -> float | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return calendar.timegm(time.strptime(match[1], _FORM))
    except ValueError:  # a 13th month
        return None


def _sweep(directory: Path) -> None:
    """Removes what killed backups left. A backup in progress, by hand or for a relay that was killed, keeps its file
    locked (ops/backup.py)."""
    for path in directory.iterdir():
        part = path.with_name(path.name.partition(".part")[0] + ".part")
        if _time(part.stem) is not None and path.name.startswith(part.name) and not _held(part):
            path.unlink(missing_ok=True)


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Backups:
    """Makes the backups, until `run` is cancelled. `newest` is when the newest was begun (unix time), and `size` its
    bytes, None while there is none; `seconds` is how long the last one of this process took, None before the first;
    `problem` says why the last try failed, "" if it did not."""

    def __init__(self, settings: Settings, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.newest: float | None = None
        self.size: int | None = None
        self.seconds: float | None = None
        self.problem = ""
        self._settings = settings
        self._directory = directory.absolute()
        self._clock = clock
        self._begun: float | None = None
        """When this process began its last backup."""
        self._stuck: asyncio.subprocess.Process | None = None
        """A backup's process that was killed, and may not have ended: a disk that hangs can prevent that."""

    async def run(self) -> None:
        """Makes a backup whenever one is due. The newest in the directory counts, also after a restart."""
        retry = RETRY[0]
        while True:
            try:
                now = self._clock()
                self.newest, self.size = await self._aside(partial(self._look, now))
                # Somebody may move each backup away as soon as it is made.
                last = max((at for at in (self.newest, self._begun) if at is not None and at <= now), default=None)
                due = 0.0 if last is None else last + self._settings.backup_every
                if due <= now:
                    await self._make()
            except Exception as error:
                known = isinstance(error, OSError | _Failed)
                self.problem = reason = str(error) if known else repr(error)
                told = {"directory": str(self._directory), "reason": reason, "again_in": retry}
                _log.error("backup_failed", **told, exc_info=not known)
                await asyncio.sleep(retry)
                retry = min(retry * 2, RETRY[1])
            else:
                self.problem = ""
                retry = RETRY[0]
                if due > now:
                    await asyncio.sleep(min(due - now, RETRY[1]))

    async def _make(self) -> None:
        if self._stuck is not None and self._stuck.returncode is None:
            raise _Failed(f"process {self._stuck.pid} of the backup before hangs, and does not end")
        await self._aside(partial(_sweep, self._directory))
        begun, started = self._clock(), time.monotonic()
        target = self._directory / name_at(begun)
        try:
            await _run(["backup", str(target), "--json"], self._settings)
        except _Stuck as error:
            self._stuck = error.process
            raise _Failed(
                f"it made no progress for {LOOK * _LOOKS:g} s and was ended: the disk of {self._directory}, or of "
                f"{self._settings.data.absolute()}, does not answer"
            ) from None
        self.newest = self._begun = begun
        self.seconds = round(time.monotonic() - started, 1)
        await self._aside(partial(self._made, target, begun))

    async def _aside(self, work: Callable[[], T]) -> T:
        """Runs slow work on a thread, within `_ANSWERS` seconds. Raises _Failed and OSError."""
        try:
            async with asyncio.timeout(_ANSWERS):
                return await run_in_thread(work)
        except TimeoutError:
            raise _Failed(f"the disk of {self._directory} gave no answer within {_ANSWERS:g} s") from None
        except RuntimeError:
            raise _Failed(NO_THREAD) from None

    def _look(self, now: float) -> tuple[float | None, int | None]:
        """The time and the bytes of the newest backup in the directory."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A backup with a future time, from a clock that was wrong, must not prevent new ones.
        past = [each for each in backups(self._directory) if each[0] <= now]
        return (past[-1][0], size_of(past[-1][1])) if past else (None, None)

    def _made(self, target: Path, begun: float) -> None:
        """Logs the backup, and removes older ones."""
        _log.info("backup_made", file=str(target), bytes=size_of(target), seconds=self.seconds)
        # A backup with a future time is neither counted nor removed: the clock was wrong then, or is wrong now.
        past = [path for at, path in backups(self._directory) if at <= begun and path != target]
        for path in past[: max(len(past) + 1 - self._settings.backup_keep, 0)]:
            try:
                path.unlink()
                sync(self._directory)
            except OSError as error:
                _log.warning("backup_not_removed", file=str(path), reason=str(error))
            else:
                _log.info("backup_removed", file=str(path), keep=self._settings.backup_keep)


class _Failed(Exception):
    """A command failed; the text is its error message."""


class _Stuck(Exception):
    """A command made no progress, and was terminated; it may not have ended yet."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process.pid)
        self.process = process


async def _run(arguments: Sequence[str], settings: Settings) -> None:
    """Runs `relay ARGUMENTS`; terminates it on cancellation or failure. Raises _Failed, _Stuck and OSError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}
    environment |= {"RELAY_DATA": str(settings.data.absolute()), "RELAY_RESERVE": str(settings.reserve)}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay_tornado", *arguments),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except RuntimeError:  # asyncio waits for a process in a thread
        raise _Failed(NO_THREAD) from None
    _put_first(process.pid)
    talk = asyncio.ensure_future(process.communicate())
    try:
        if await _stalls(process.pid, talk):
            raise _Stuck(process)
        _, said = talk.result()
    except BaseException:
        await _end(process)
        raise
    finally:
        talk.cancel()
    if process.returncode:
        text = said.decode(errors="replace").strip()
        raise _Failed(text.splitlines()[-1].removeprefix("relay: ") if text else f"exit code {process.returncode}")


async def _stalls(pid: int, end: asyncio.Future[Any]) -> bool:
    """Waits for the end of a process. Returns True if it makes no progress for too long instead."""
    used: int | None = None
    looks = 0
    while not (await asyncio.wait({end}, timeout=LOOK))[0]:
        before, used = used, _used(pid)
        looks = looks + 1 if used is not None and used == before else 0
        if looks == _LOOKS:
            return True
    return False


def _used(pid: int) -> int | None:
    """The processor time that the process has used, which grows with any work; None if it can't be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None


def _put_first(pid: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_TO_GO)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        # Not asyncio.timeout: in Python 3.11.2 it raises no TimeoutError in a task that is being cancelled.
        await asyncio.wait_for(process.wait(), PATIENCE)
    except TimeoutError:
        process.kill()
        with suppress(TimeoutError):  # if it hangs on a disk
            await asyncio.wait_for(process.wait(), PATIENCE)
