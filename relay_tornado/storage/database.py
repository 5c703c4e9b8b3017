"""The open data directory: one writer, a few readers, the lock, the witness, and the state of the file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from relay_tornado.errors import NoSpace, NotWritable, RelayError, Unavailable, Unknown
from relay_tornado.low_memory import Lock as LoopLock
from relay_tornado.low_memory import try_log, wake
from relay_tornado.model import MIB
from relay_tornado.settings import Settings
from relay_tornado.steps import Steps
from relay_tornado.storage import older_wal, start
from relay_tornado.storage.connection import Connection, Factory
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.halt import Halt
from relay_tornado.storage.lock import Lock
from relay_tornado.storage.overwrite_check import OverwriteCheck
from relay_tornado.storage.piggyback import Rider
from relay_tornado.storage.space import Space, writable
from relay_tornado.storage.sqlite_compat import check_sqlite
from relay_tornado.storage.witness import Loss, Witness
from relay_tornado.storage.work import CHECK, Keeper, Source, Work
from relay_tornado.storage.writer import Writer

T = TypeVar("T")

NAME = "relay.db"

_READERS = 2
_LONG_WAL = 4 * MIB
"""Bytes of the WAL to copy from which that is done before the relay serves: later, the first checkpoint copies them at
once, and senders wait."""
_WITNESS_INTERVAL = 1.0
_PART = 4
_PAGE = 4096
_NO_SPACE = "the disk is nearly full; free some space, or let old events leave earlier"
_UNREADABLE = "the disk fails to read relay.db: look at it (dmesg, smartctl)"

_log = structlog.get_logger(__name__)


class Database:
    """relay.db and the files beside it. `found` is the loss that the witness proved at this start."""

    def __init__(
        self,
        path: Path,
        lock: Lock,
        overwrite: OverwriteCheck,
        witness: Witness,
        space: Space,
        writer: Writer,
        found: Loss | None,
    ) -> None:
        self.path = path
        self._lock = lock
        self._overwrite = overwrite
        self._witness = witness
        self._space = space
        self._writer = writer
        self._loss = found
        self._readers: list[Connection] = []
        self._reading: list[int] = []
        self._checking = LoopLock()
        self._checks_begun = 0
        self._last_check = 0, False
        """The number of the last check of the disk that ended, and whether the disk failed."""
        self._syncing: asyncio.Task[None] | None = None
        self._closing = False

    @classmethod
    async def open(
        cls, settings: Settings, *, factory: Factory = sqlite3.Connection, steps: Steps | None = None
    ) -> Database:
        """Takes the lock, checks the WAL, puts an older one aside, checks the witness, creates or migrates the file
        (after a copy), opens it, and copies a long WAL into it. Tells `steps` what it does.

        A loss is logged. The next start reports it again, unless `told` is called. Raises Locked, NotWritable,
        NewerSchema or StartupError; then nothing is held. `factory` makes the raw connections.
        """
        check_sqlite()
        steps = steps or Steps("")
        lock = Lock.acquire(settings.data)
        path = settings.data / NAME
        opened = contextlib.AsyncExitStack()
        opened.callback(lock.release)
        try:
            steps.begin("checking relay.db and its write-ahead log")
            halt = Halt()
            await halt.run(partial(start.check, path))
            await older_wal.put_aside(path, halt)
            witness, verdict = await halt.run(partial(start.examine, path, steps, halt), lambda found: found[0].close())
            opened.callback(witness.close)
            descriptor = os.open(path, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            steps.begin("opening relay.db")
            connection = await Connection.writer(path, factory)
            opened.push_async_callback(_close_early, connection, path)
            opened.callback(halt.set)  # a cancelled start does not wait for the end of a copy
            stamp = await connection.run(lambda raw: start.prepare(raw, path, halt.halted, steps))
            if not verdict.holds:
                witness.untold = verdict.loss
                witness.restart(stamp)
            overwrite = await connection.run(lambda raw: OverwriteCheck(path, descriptor, raw, stamp))
            space = Space(path, settings.reserve, uncopied=overwrite.index.uncopied)
            writer = Writer(path, connection, overwrite, witness, stamp, space, factory)
            database = cls(path, lock, overwrite, witness, space, writer, verdict.loss)
            opened.pop_all()
            opened.push_async_callback(database.close)
            # Before a copy: SQLite copies the WAL, unchecked, as the last connection is closed if that may write.
            for _ in range(_READERS):
                database._readers.append(await Connection.reader(path, factory))
                database._reading.append(0)
            uncopied = overwrite.index.uncopied() or 0
            if uncopied > _LONG_WAL:
                steps.begin(f"copying {uncopied // MIB} MiB of the write-ahead log into relay.db")
                await writer.copy()
                steps.begin("opening relay.db")
            database._syncing = asyncio.get_running_loop().create_task(database._sync_witness(), name="relay-witness")
        except (sqlite3.Error, OSError) as error:
            await opened.aclose()
            raise start.refusal(path, error) from error
        except BaseException:
            await opened.aclose()
            raise
        opened.pop_all()
        return database

    @property
    def loss(self) -> Loss | None:
        """Events known to be missing: found by the witness at this start, or after an error since."""
        return self._writer.loss or self._loss

    async def told(self) -> None:
        """The caller reports the `loss` as long as it runs: the witness forgets it, so that no later start reports it
        again. If that can't be written now, it is logged."""
        if self._loss is None:
            return
        try:
            await self.write(lambda raw: self._witness.forget(self._writer.stamp))
        except (RelayError, OSError) as error:
            _log.warning("loss_not_forgotten", reason=str(error), consequence="the next start may tell it again")

    async def write(
        self,
        job: Callable[[sqlite3.Connection], T],
        announce: Callable[[T], None] | None = None,
        size: int = 0,
        *,
        shared: bool = False,
    ) -> T:
        """Runs the job in a transaction of its own, and returns its result once that is committed.

        `announce` is called with the result right after the commit, in the event loop, before another transaction
        starts. `size` are the bytes that it writes, if they may be many. A `shared` job may be in one transaction with
        others, and may run twice: see `Work.shared`. An error of the job rolls it back, and is raised. Raises NoSpace,
        Unavailable or Unknown if the file can't be written. If the caller is cancelled, the job is done all the same.
        """
        work = _Job(job, announce, size, shared)
        self._writer.submit(work)
        return await work.future

    async def read(self, job: Callable[[sqlite3.Connection], T], what: str = "") -> T:
        """Runs the job on a read-only connection's thread. Raises what the job raises, and Unavailable. If `what` names
        the data being read, SQLite's errors become Unavailable, too."""
        if not self._readers:
            raise Unavailable("the relay is shutting down")
        index = min(range(len(self._readers)), key=self._reading.__getitem__)
        self._reading[index] += 1
        try:
            return await self._readers[index].run(job)
        except sqlite3.Error as error:
            if what:
                raise Unavailable(f"{what} can't be read ({error}): {CHECK}") from error
            raise
        finally:
            self._reading[index] -= 1

    async def check_disk(self) -> None:
        """Raises Unavailable if the disk fails to read relay.db now: what seems to be damaged may then be sound.

        Many may meet the same damage at once: they share one check, which has to begin after each has met it."""
        begun = self._checks_begun
        async with self._checking:
            number, fails = self._last_check
            if number <= begun:
                self._checks_begun = number = self._checks_begun + 1
                fails = await self.read(lambda raw: self._overwrite.disk_fails())
                self._last_check = number, fails
        if fails:
            raise Unavailable(_UNREADABLE)

    def attach(self, source: Source) -> None:
        """Has the writer take works from the source, in turn with the jobs of `write`."""
        self._writer.source = source

    def notify(self) -> None:
        """Tells the writer that the attached source has something to write."""
        self._writer.notify()

    def keep(self, read: Callable[[sqlite3.Connection], T], apply: Callable[[T], None]) -> None:
        """Registers a cache of rows, which is read again whenever the file was reopened after an error: `read` on the
        writer's thread, then `apply` in the event loop, before anything else is written."""
        self._writer.keepers.append(Keeper(read, apply))

    def ride(self, rider: Rider) -> None:
        """Has the rider write with the next transaction, or soon in one of its own if none comes. See
        `storage.piggyback`."""
        self._writer.riders.add(rider)

    @property
    def commits(self) -> int:
        """How many transactions were ever committed to the file."""
        return self._writer.stamp.commits

    @property
    def space(self) -> Space:
        """The disk, as seen within the last second."""
        self._space.low()
        return self._space

    @property
    def squeezed(self) -> bool:
        """Whether space is low and much of the reserve is in a WAL that can't be emptied, because another connection
        reads the file or it can't be written. Deleting then only makes the WAL longer, and frees nothing. If the WAL is
        longer than what is free, another program has taken from the reserve, and the rest is for urgent writes."""
        space = self._space
        return self._writer.held_back and space.low() and space.wal > min(space.least // _PART, space.free)

    @property
    def checkpoint_failure(self) -> str:
        """The error of the last checkpoint; "" if it had none, also if readers held it back."""
        return self._writer.checkpoint_failure

    async def shrink(self) -> bool:
        """Copies the WAL into the file and truncates it, if readers allow it. Returns whether they did. Raises
        Unavailable."""
        return await self._writer.shrink()

    async def look(self) -> None:
        """Looks whether another program has written over the file or its WAL: a relay that writes little makes few
        checkpoints, which look, too. Cheap. Raises Unavailable if it was, and then nothing is committed any more."""
        await self._writer.look()

    def refusal(self, coming: int = 0, waiting: int = 0) -> RelayError | None:
        """The error with which `coming` bytes of events have to be refused now (a new one for each call), or None.
        `waiting` bytes were accepted before and are not written yet. Quick."""
        writer = self._writer
        if writer.closed or writer.trouble is not None:
            return writer.refusal
        if self._space.low(coming, waiting):
            return NoSpace(_NO_SPACE)
        return None

    @property
    def problem(self) -> str:
        """What prevents commits of events; "" if nothing does."""
        error = self.refusal()
        return self._writer.misplaced if error is None else str(error)

    def owner(self, socket_path: Path | None) -> None:
        """Writes the path of the control socket, and the reserve, into relay.lock, for other processes. Logs if the
        relay before did not stop."""
        self._lock.write(socket_path, self._space.reserve)
        if self._lock.unstopped:
            kept = "no committed event is lost"
            _log.warning(
                "earlier_relay_did_not_stop",
                pid=self._lock.unstopped,
                consequence=kept if self.loss is None else "committed events are lost, see committed_work_lost",
                hint="it was killed (want of memory: `journalctl -k | grep -i oom`), it crashed, the power failed, or "
                "this is a copy of the directory of a relay that ran",
            )

    async def close(self) -> None:
        """Commits what is queued, copies the WAL into the file, syncs the witness and releases the lock. May be
        repeated."""
        self._closing = True
        readers = self._readers
        try:
            if self._syncing is not None:
                self._syncing.cancel()
                await asyncio.wait([self._syncing])
            for reader in readers:  # whoever still reads holds back the WAL, too
                reader.interrupt()
            await self._writer.close()
            self._readers = []
            for reader in readers:
                await reader.close()
        finally:  # after a cancellation, as by Ctrl-C, no thread may keep the process alive
            for reader in readers:
                reader.abandon()
        self._overwrite.close()
        try:
            self._witness.sync()
        except OSError as error:
            _log.warning("witness_not_synced", error=str(error))
        self._witness.close()
        with contextlib.suppress(NotWritable):
            self._lock.stopped()
        self._lock.release()

    async def _sync_witness(self) -> None:
        """Once a second, if something was committed, on a reader's thread, so that the event loop does not wait for the
        disk."""
        synced = self._writer.stamp
        try:
            while True:
                try:
                    await asyncio.sleep(_WITNESS_INTERVAL)
                    if self._writer.stamp != synced:
                        synced = self._writer.stamp
                        await self.read(lambda raw: self._witness.sync())
                except Exception as error:  # for lack of memory, for example
                    try_log(_log.warning, "witness_not_synced", error=str(error) or repr(error))
                    await asyncio.sleep(0)
        finally:
            if not self._closing:  # everything is being cancelled: no thread may keep the process alive
                for reader in self._readers:
                    reader.abandon()


async def _close_early(connection: Connection, path: Path) -> None:
    """Closes the writer of a start that ended before there were readers. As the last connection it has SQLite copy the
    WAL into the file, unchecked: not if the disk may have no room for that."""
    async with contextlib.AsyncExitStack() as closing:
        try:
            with contextlib.suppress(sqlite3.Error, OSError):
                if (size_of(wal_of(path)) or 0) > writable(path):
                    reader = await Connection.reader(path)
                    closing.push_async_callback(reader.close)
        finally:
            closing.push_async_callback(connection.close)


class _Job(Work, Generic[T]):
    """A function as a work of the writer, with a future for its result."""

    def __init__(
        self, job: Callable[[sqlite3.Connection], T], announce: Callable[[T], None] | None, size: int, shared: bool
    ) -> None:
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._job = job
        self._announce = announce
        self._size = size
        self._shared = shared
        self._result: Any = None
        self._changes = 0

    def run(self, raw: sqlite3.Connection) -> int:
        before = raw.total_changes
        self._result = self._job(raw)
        self._changes = raw.total_changes - before
        return 0

    def shared(self) -> bool:
        return self._shared

    def pages(self) -> int:
        return 8 + self._changes + self._size // _PAGE

    def committed(self) -> None:
        try:
            if self._announce is not None:
                self._announce(self._result)
        except Exception as error:
            self.failed(Unknown(f"it was stored, and the relay failed on it ({type(error).__name__}, see the log)"))
            raise
        if not self.future.done():
            wake(self.future, self._result)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            # A StopIteration can't be set on a future.
            wake(self.future, error if not isinstance(error, StopIteration) else RuntimeError(repr(error)))
