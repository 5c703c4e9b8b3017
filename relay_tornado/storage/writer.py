"""The one task that writes: it takes works in turn, runs each as a transaction, and reports the outcome.

Invariants:
- One transaction at a time, as one function on the write connection's thread (`storage/transaction.py`). Of a quick
  one, only the COMMIT runs on the thread: two threads that run Python take the GIL from each other at every row, and
  the pages that a few rows of busy logs change are in memory. The event loop waits for no file lock and no sync.
- Store, commit, then announce: `Work.committed` is called in the event loop after COMMIT has returned and the witness
  is written, and before the next transaction starts, which builds on what it changes in memory.
- Every work is told its outcome exactly once, committed or failed, also at the end. If telling it, or telling a rider,
  fails, then every keeper reads the file again, as after a disk error, and the writer continues.
- Jobs and batches of events take turns, so neither starves the other. Neighbouring jobs that may share a transaction
  do, also with a batch that waits. If that fails before its COMMIT, each gets one of its own, the batch first: each
  fails through its own fault alone, and no event overtakes another.
- After an error that may come from the disk, the connection is reopened and every keeper reads the file again, before
  anything else is written. While that fails, for whatever reason, everything is refused at once. For damage that a
  transaction met and that rolled it back, or if it found that the file differs from memory, this is done once a second
  at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice, takewhile
from pathlib import Path

import structlog

from relay_tornado.errors import NO_DESCRIPTOR, Malformed, NoSpace, RelayError, Unavailable, Unknown
from relay_tornado.low_memory import try_log, wake
from relay_tornado.storage.checkpoints import Checkpoints
from relay_tornado.storage.connection import Connection, Factory, keep_statements_in_memory
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.overwrite_check import OverwriteCheck
from relay_tornado.storage.permissions import descriptors_lack
from relay_tornado.storage.piggyback import Ride, Riders
from relay_tornado.storage.space import Space
from relay_tornado.storage.transaction import Transactions
from relay_tornado.storage.witness import Loss, Stamp, Witness, loss, read_stamp
from relay_tornado.storage.work import CLOSED, FULL, Keeper, Result, Source, Together, Work, again, classify

_MOMENT = 0.001
"""Seconds without work after which there may be a checkpoint: what was committed is delivered first."""

_ENOUGH = 128
_GATHER = 0.002
"""Gathering for a transaction ends at so many waiting events and jobs (`_ENOUGH`), or after so many seconds
(`_GATHER`)."""

_TOGETHER = 64
"""The most jobs in one transaction."""

_RIDE = 8
"""About how many pages the riders of a transaction change."""

_BRIEF = 100
"""Milliseconds for which a checkpoint that empties the WAL waits for readers: nothing is written meanwhile, and a
reader in another process may take for ever."""

_LAST = 2.0
"""Seconds after which the last checkpoint is broken off, and milliseconds for which it waits for other programs
(`_LAST_WAIT`): senders are refused meanwhile. What it does not copy stays in the WAL for the next start."""
_LAST_WAIT = 1000

_BROKEN = "the task that writes has failed: see the log, and restart the relay"

_BACKOFF = (0.05, 5.0)
"""Seconds between two tries to reopen the file: at first, and at most."""

_DAMAGE_EVERY = 1.0
"""Seconds between two times that the file is reopened for damage in it, so that writes elsewhere are not held up."""

_log = structlog.get_logger(__name__)


class Writer:
    """Owns the write connection. `trouble` is the error that prevents writing, or None; `closed`: nothing more is
    accepted."""

    def __init__(
        self,
        path: Path,
        connection: Connection,
        overwrite: OverwriteCheck,
        witness: Witness,
        stamp: Stamp,
        space: Space,
        factory: Factory,
    ) -> None:
        self.trouble: RelayError | None = None
        self.closed = False
        self.loss: Loss | None = None
        self.keepers: list[Keeper] = []
        self.source: Source | None = None
        self.riders = Riders(self._go)
        self._path = path
        self._connection = connection
        self._transactions = Transactions(path, overwrite, witness, stamp)
        self._checkpoints = Checkpoints(space)
        self._factory = factory
        self._jobs: deque[Work] = deque()
        self._alone = 0
        """How many of the oldest jobs get a transaction of their own, after a shared one failed."""
        self._job_next = True
        self._work: Work | None = None
        self._ride: Ride | None = None
        """The riders of the current transaction, until they are told its outcome."""
        self._damage_again = 0.0
        self._idle: asyncio.Future[None] | None = None
        self.held_back = False
        """Whether the last attempt to empty the WAL was prevented."""
        self._shrinking: list[asyncio.Future[bool]] = []
        self._closing = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-writer")

    def submit(self, work: Work) -> None:
        """Queues a work. Raises the `refusal` if there is one."""
        self._check()
        self._jobs.append(work)
        self.notify()

    def _go(self) -> None:
        """Has a transaction run, for riders, unless one is coming anyway. Raises the `refusal` if there is one."""
        if not self._waiting():
            self.submit(Work())

    @property
    def refusal(self) -> RelayError | None:
        """The error with which everything is refused now, a new one for each call; None while all is well."""
        if self.trouble is not None:
            return again(self.trouble)
        return Unavailable(CLOSED) if self.closed else None

    def _check(self) -> None:
        if (refusal := self.refusal) is not None:
            raise refusal

    @property
    def misplaced(self) -> str:
        """The message if the file is not where it was opened or was written over; "" if all is well."""
        return self._transactions.misplaced()

    @property
    def stamp(self) -> Stamp:
        """That of the last commit."""
        return self._transactions.stamp

    def notify(self) -> None:
        """Tells the writer that the source has something to write."""
        if self._idle is not None and not self._idle.done():
            wake(self._idle, None)

    @property
    def checkpoint_failure(self) -> str:
        """The error of the last checkpoint; "" if it had none."""
        return self._checkpoints.failure

    async def shrink(self) -> bool:
        """Copies the WAL into the file and truncates it, if readers allow it. Returns whether they did. Raises the
        `refusal`."""
        self._check()
        shrunk: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._shrinking.append(shrunk)
        self.notify()
        return await shrunk

    async def copy(self) -> None:
        """Copies the WAL into the file, as far as readers allow. Only while nothing was submitted yet."""
        await self._checkpoint("PASSIVE")

    async def look(self) -> None:
        """Looks whether the file or its WAL was written over. Raises Unavailable if it was. On the thread, so that no
        checkpoint is under way, but without the connection, which the event loop may use meanwhile."""
        if self.refusal is None:
            with contextlib.suppress(ValueError):  # the connection is being reopened
                await self._connection.run(lambda _: self._transactions.look())
        if over := self._transactions.written_over:
            raise Unavailable(over)

    async def close(self) -> None:
        """Commits what is queued, copies the WAL into the file and closes it. May be repeated."""
        self._close()
        self.notify()
        await asyncio.wait([self._task])

    def _close(self) -> None:
        self.closed = True
        self._closing.set()

    async def _run(self) -> None:
        lacking = False
        try:
            while True:
                try:
                    if lacking:
                        await self._begin_again()
                        lacking = False
                    elif not await self._turn():
                        break
                except MemoryError:
                    lacking = True
                    try_log(_log.exception, "writer_lacks_memory")
            await self._finish()
        except Exception:
            _log.exception("writer_failed")
            self.trouble = Unavailable(_BROKEN)
            with contextlib.suppress(sqlite3.Error):
                await self._connection.close()
        finally:
            self._close()
            self._tell_unknown(_BROKEN)
            self.riders.close()
            self._shrunk(False)
            self._reject(Unavailable(CLOSED))
            self._connection.abandon()

    async def _turn(self) -> bool:
        """Executes the next work; waits if there is none. Returns False once the writer is closed and nothing is
        left."""
        if self._shrinking:
            self.held_back = not await self._checkpoint("TRUNCATE", _BRIEF)
            self._shrunk(not self.held_back)
        await self._gather()
        self._work = work = self._next()
        if work is None:
            if self.closed:
                return False
            await self._rest()
        elif self._checkpoints.due_behind(await self._perform(work), self._waiting()):
            await self._checkpoint("PASSIVE")
        return True

    async def _begin_again(self) -> None:
        """Recovers from a lack of memory: the outcome of the last step is unknown, so the file is read again."""
        await asyncio.sleep(0)
        self._tell_unknown("there was no memory left for the write; it may have been stored")
        await self._recover(self._reopen)

    def _tell_unknown(self, why: str) -> None:
        """Tells the current work and its riders that their outcome is unknown."""
        if self._work is not None:
            self._tell(self._work, Unknown(why))
        ride, self._ride = self._ride, None
        if ride is not None:
            ride.ended(False)

    async def _rest(self) -> None:
        """Waits for something to do. If nothing comes for a moment, a checkpoint may be made."""
        if self._called():
            return
        loop = asyncio.get_running_loop()
        self._idle = loop.create_future()
        if not self._checkpoints.due:
            await self._idle
            return
        timer = loop.call_later(_MOMENT, self.notify)
        await self._idle
        timer.cancel()
        if not self._called():
            await self._checkpoint("PASSIVE")

    def _called(self) -> bool:
        return self._waiting() > 0 or bool(self._shrinking) or self.closed

    async def _gather(self) -> None:
        """Lets the event loop turn as long as each turn brings more: answered senders send again, and all that is
        gathered shares one sync."""
        before, now, end = 0, self._waiting(), time.perf_counter() + _GATHER
        while before < now < _ENOUGH and time.perf_counter() < end:
            await asyncio.sleep(0)
            before, now = now, self._waiting()

    def _waiting(self) -> int:
        return len(self._jobs) + (self.source.waiting() if self.source is not None else 0)

    def _next(self) -> Work | None:
        """A batch, with the oldest jobs that may share its transaction, or jobs only. They leave the queue last, when
        no step is left that needs memory."""
        jobs = [] if self._alone else [*takewhile(lambda job: job.shared(), islice(self._jobs, _TOGETHER))]
        batch = None
        if self.source is not None and (jobs or not (self._jobs and self._job_next)):
            batch = self.source.take()
        if batch is None and not jobs:
            jobs = [*islice(self._jobs, 1)]
        works = jobs if batch is None else [batch, *jobs]
        if not works:
            return None
        work = works[0] if len(works) == 1 else Together(works)
        for _ in jobs:
            self._jobs.popleft()
        self._alone = max(self._alone - len(jobs), 0)
        self._job_next = batch is not None
        return work

    async def _perform(self, work: Work) -> int:
        """Executes a work, and tells its outcome. Returns about how many pages it changed."""
        self._ride = ride = self.riders.prepare() if self.riders else None
        try:
            result = await self._execute(work, ride)
        except Exception as failure:  # for lack of memory, for example: the outcome is unknown
            result = Result(failure, committing=True)
        if isinstance(work, Together) and result.error is not None and not (result.committing or result.stuck):
            self._jobs.extendleft(reversed(work.works))  # a batch among them is next: after one it is a job's turn
            self._alone = len(work.works)
            self._work = work = Work()
        error = None if result.error is None else classify(result)
        pages = self._tell(work, error)
        if ride is not None:
            self._checkpoints.committed(_RIDE)
            self._ride = None
            ride.ended(error is None)
        if pages is None:
            await self._recover(self._reopen)
        # An error of the job itself does not concern the disk: it was rolled back, and nothing else is needed.
        elif isinstance(error, RelayError) and (error is not result.error or result.stuck):
            if isinstance(error, Malformed):
                if time.monotonic() < self._damage_again:
                    return pages
                self._damage_again = time.monotonic() + _DAMAGE_EVERY
            try_log(
                _log.error, "commit_failed", code=error.code, error=repr(result.error), committing=result.committing
            )
            # A full disk needs no reopening: SQLite rolls back, and works again once there is room.
            await self._recover(self._try_again if isinstance(error, NoSpace) else self._reopen)
        return pages or 0

    def _tell(self, work: Work, error: Exception | None) -> int | None:
        """Tells a work its outcome. Returns about how many pages it changed; None if telling failed, so that the state
        in memory may differ from the file."""
        self._work = None
        try:
            if error is not None:
                work.failed(error)
                return 0
            work.committed()
            pages = work.pages()
            self._checkpoints.committed(pages, work.logs())
        except Exception:
            try_log(_log.exception, "outcome_not_told", committed=error is None)
            return None
        return pages

    async def _execute(self, work: Work, ride: Ride | None) -> Result:
        connection, transactions = self._connection, self._transactions
        if ride is None and work.quick() and connection.here(transactions.begin_at_once):
            filled = connection.here(lambda raw: transactions.fill(raw, work))
            if isinstance(filled, Result):
                return filled
            return await connection.run(lambda raw: transactions.commit(raw, filled))
        return await connection.run(lambda raw: transactions.run(raw, work, ride))

    # after an error

    async def _recover(self, way: Callable[[], Awaitable[RelayError | None]]) -> None:
        """Tries `way`, then reopens the file again and again. Returns once something can be committed, or at the
        close."""
        delay = _BACKOFF[0]
        traced = False
        failure = await self._attempt(way)
        while failure is not None:
            unforeseen = failure.__cause__
            if self.trouble is None or (unforeseen is not None and not traced):
                try_log(_log.error, "database_unavailable", error=str(failure), exc_info=unforeseen)
                traced = unforeseen is not None
            self.trouble = failure
            self._reject(failure)
            if self.closed:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
            delay = min(delay * 2, _BACKOFF[1])
            failure = await self._attempt(self._reopen)
        if self.trouble is not None:
            self.trouble = None
            _log.info("database_available")

    async def _attempt(self, way: Callable[[], Awaitable[RelayError | None]]) -> RelayError | None:
        """Tries `way`. Returns the error, whatever it was: the next try begins with the file again."""
        try:
            return await way()
        except (sqlite3.Error, OSError) as error:
            if code_of(error) == sqlite3.SQLITE_FULL:
                return NoSpace(FULL)
            why = NO_DESCRIPTOR if descriptors_lack() else error
            return Unavailable(f"relay.db can't be opened ({why}); the relay tries again by itself")
        except Exception as error:
            name = type(error).__name__
            failure = Unavailable(f"relay.db can't be opened ({name}, see the log); the relay tries again by itself")
            failure.__cause__ = error
            return failure

    async def _reopen(self) -> RelayError | None:
        """Reopens the file, has every keeper read it, and commits something. Returns or raises the error."""
        # A deleted file can be copied while it is open; and opening an empty file would delete its WAL.
        transactions = self._transactions
        transactions.look()
        if self.misplaced:
            return Unavailable(self.misplaced)
        transactions.closed()
        with contextlib.suppress(sqlite3.Error):
            await self._connection.close()
        self._connection = await Connection.writer(self._path, self._factory)
        await self._connection.run(keep_statements_in_memory)
        stamp, kept = await self._connection.run(
            lambda raw: (read_stamp(raw), [keeper.read(raw) for keeper in self.keepers])
        )
        found = loss(transactions.stamp, stamp)
        if found is not None:
            self.loss = found
            _log.error("committed_work_lost", commits=found.commits, events=found.events, while_running=True)
        transactions.stamp = stamp
        if found is not None:
            await self._connection.run(lambda _: transactions.restart())
        for keeper, value in zip(self.keepers, kept, strict=True):
            keeper.apply(value)
        return await self._try_again()

    async def _try_again(self) -> RelayError | None:
        """Commits something, after a checkpoint: a WAL that restarts at its beginning needs no room. Returns or raises
        the error."""
        await self._checkpoint("PASSIVE")
        result = await self._connection.run(lambda raw: self._transactions.run(raw, Work()))
        if result.error is None:
            return None
        failure = classify(result)
        return failure if isinstance(failure, RelayError) else Unavailable(str(failure))

    def _reject(self, error: RelayError) -> None:
        jobs, self._jobs = Together(self._jobs), deque()
        self._alone = 0
        jobs.failed(error)
        if self.source is not None:
            self.source.reject(error)

    # checkpoints and the end

    async def _checkpoint(self, mode: str, patience: int = 0) -> bool:
        """Copies what it can of the WAL into the file; a reader's snapshot may hold some back until later. Returns
        whether no other connection prevented it, within `patience` milliseconds."""
        try:
            busy, pages, copied = await self._connection.run(lambda raw: self._transactions.copy(raw, mode, patience))
        except Exception as error:  # for lack of memory, for example
            why = str(error) or repr(error)
            if code_of(error) != sqlite3.SQLITE_INTERRUPT and self._checkpoints.failed(why):
                try_log(_log.warning, "checkpoint_failed", error=why)
            return False
        self._checkpoints.copied(max(pages - copied, 0))
        return not busy

    def _shrunk(self, whole: bool) -> None:
        while self._shrinking:
            shrunk = self._shrinking.pop()
            if not shrunk.done():
                wake(shrunk, whole)

    async def _finish(self) -> None:
        end = asyncio.get_running_loop().call_later(_LAST, self._connection.interrupt)
        whole = await self._checkpoint("TRUNCATE", _LAST_WAIT)
        end.cancel()
        if not whole and not self.misplaced:
            _log.info("wal_stays", path=str(wal_of(self._path)), hint="the next start needs it, as it does relay.db")
        with contextlib.suppress(sqlite3.Error):
            await self._connection.close()
