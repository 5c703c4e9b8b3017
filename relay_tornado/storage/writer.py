"""The one task that writes: it takes transactions in turn, runs each on the write connection's thread, and tells.

Invariants:
- One transaction at a time, each one function on the thread; whatever it raises, no BEGIN stays open. Of a quick one
  only the COMMIT is there: two threads that run Python at once take the interpreter's lock from each other at every
  row, and what a few rows of busy logs change lies in memory. The loop waits for no lock of the file and for no sync.
- Store, commit, then announce: `Work.committed` is called in the loop after COMMIT returned and the witness was
  written, and before the next transaction starts, so what it changes in memory is what that one builds on.
- Every work is told exactly once, committed or failed, also at the end. What fails in that, or in those who ride along,
  ends nothing: everybody reads again what they keep in memory, as after an error of the disk, and the next one comes.
- Nothing counts as committed that is in a file which was taken away meanwhile; nor, from the next checkpoint on, in the
  WAL of one that was written over, into which nothing is copied.
- Jobs and batches of events take turns, so neither starves the other.
- After an error that may come from the disk the connection is opened anew and everybody reads again what they keep in
  memory, before anything else is written. While that fails, for whatever reason, all that comes is refused at once.
  Of damage that a transaction met, and that undid it, this happens once a second at most, and where it found the file
  other than memory says, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from relay_tornado.errors import NO_DESCRIPTOR, Malformed, NoSpace, RelayError, Unavailable, Unknown
from relay_tornado.low_memory import try_log, wake
from relay_tornado.storage.checkpoints import Checkpoints
from relay_tornado.storage.connection import BUSY_TIMEOUT, Connection, Factory, keep_statements_in_memory
from relay_tornado.storage.content import Content
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.piggyback import Ride, Riders
from relay_tornado.storage.rights import descriptors_lack
from relay_tornado.storage.space import Space
from relay_tornado.storage.whereabouts import Whereabouts
from relay_tornado.storage.witness import Loss, Stamp, Witness, loss, read_stamp
from relay_tornado.storage.work import (
    CLOSED,
    COMMITTED,
    FULL,
    WRITTEN_OVER,
    Keeper,
    Misplaced,
    Probe,
    Result,
    Source,
    Work,
    again,
    classify,
    misplaced,
    undo,
)

_MOMENT = 0.001
"""Seconds in which what was committed is delivered."""

_ENOUGH = 128
_GATHER = 0.002
"""So many events, or jobs, that wait are enough for a transaction, and so many seconds are: no more are gathered."""

_RIDE = 8
"""About how many pages those who ride along change."""

_BRIEF = 100
"""Milliseconds for which a checkpoint that is to empty the WAL waits for readers: meanwhile nothing is written, and who
reads from outside may take for ever."""

_BROKEN = "the task that writes has failed: see the log, and restart the relay"

_BACKOFF = (0.05, 5.0)
"""Seconds between two tries to open the file anew: at first, and at most."""

_DAMAGE_EVERY = 1.0
"""Seconds between two times that the file is opened anew for damage in it: whoever writes elsewhere waits no more."""

_log = structlog.get_logger(__name__)


class Writer:
    """Owns the write connection. `trouble` is what keeps it from writing, None while nothing does; `closed` is whether
    it takes nothing more."""

    def __init__(
        self,
        path: Path,
        connection: Connection,
        content: Content,
        witness: Witness,
        stamp: Stamp,
        space: Space,
        factory: Factory,
    ) -> None:
        self.trouble: RelayError | None = None
        self.closed = False
        self.loss: Loss | None = None
        self.stamp = stamp
        self.keepers: list[Keeper] = []
        self.source: Source | None = None
        self.riders = Riders(lambda: self.submit(Probe()))
        self._path = path
        self._whereabouts = Whereabouts(path)
        self._connection = connection
        self._content = content
        self._checkpoints = Checkpoints(space)
        self._witness = witness
        self._witness_error: OSError | None = None
        self._factory = factory
        self._jobs: deque[Work] = deque()
        self._job_next = True
        self._work: Work | None = None
        self._ride: Ride | None = None
        """What was taken, and is still to be told how it ended."""
        self._patience = BUSY_TIMEOUT
        self._damage_again = 0.0
        self._idle: asyncio.Future[None] | None = None
        self.held_back = False
        """Whether something kept the WAL from being emptied when that was asked for last."""
        self._shrinking: list[asyncio.Future[bool]] = []
        self._closing = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-writer")

    def submit(self, work: Work) -> None:
        """Queues a work. Raises the `refusal`, where there is one."""
        self._check()
        self._jobs.append(work)
        self.notify()

    @property
    def refusal(self) -> RelayError | None:
        """The error with which everything is refused now, one for each who asks; None while all is well."""
        if self.trouble is not None:
            return again(self.trouble)
        return Unavailable(CLOSED) if self.closed else None

    def _check(self) -> None:
        if (refusal := self.refusal) is not None:
            raise refusal

    @property
    def misplaced(self) -> str:
        """What is to be said where the file is not where it was opened, or not what it was, "" where it is."""
        return self._misplaced()

    def _misplaced(self, *, committed: bool = False) -> str:
        if self._content.written_over:
            return WRITTEN_OVER
        return misplaced(self._whereabouts.missing(committed=committed))

    def notify(self) -> None:
        """Says that the source has something."""
        if self._idle is not None and not self._idle.done():
            wake(self._idle, None)

    async def shrink(self) -> bool:
        """Copies the WAL into the file and cuts it to nothing, where readers allow it. Returns whether they did. Raises
        the `refusal`."""
        self._check()
        shrunk: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._shrinking.append(shrunk)
        self.notify()
        return await shrunk

    async def close(self) -> None:
        """Commits what is queued, copies the WAL into the file and lets go of it. May be repeated."""
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
            self._forsake(_BROKEN)
            self.riders.close()
            self._shrunk(False)
            self._reject(Unavailable(CLOSED))
            self._connection.abandon()

    async def _turn(self) -> bool:
        """Does what is next; where that is nothing, waits for something. False where nothing comes any more."""
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
        """There was no memory for something: how far it came is not known, and so the file says."""
        await asyncio.sleep(0)
        self._forsake("there was no memory left for the write; it may have been stored")
        await self._recover(self._reopen)

    def _forsake(self, why: str) -> None:
        """Tells what was taken that nobody knows what became of it."""
        if self._work is not None:
            self._tell(self._work, Unknown(why))
        ride, self._ride = self._ride, None
        if ride is not None:
            ride.ended(False)

    async def _rest(self) -> None:
        """Waits for something to do; where nothing comes for a moment, there may be time for a checkpoint."""
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
        """Goes around the loop as long as more comes in each time: who was answered sends the next, and what a sync
        costs is shared by all that is in it."""
        before, now, end = 0, self._waiting(), time.perf_counter() + _GATHER
        while before < now < _ENOUGH and time.perf_counter() < end:
            await asyncio.sleep(0)
            before, now = now, self._waiting()

    def _waiting(self) -> int:
        return len(self._jobs) + (self.source.waiting() if self.source is not None else 0)

    def _next(self) -> Work | None:
        if self._jobs and self._job_next:
            self._job_next = False
            return self._jobs.popleft()
        work = self.source.take() if self.source is not None else None
        if work is not None:
            self._job_next = True
            return work
        return self._jobs.popleft() if self._jobs else None

    async def _perform(self, work: Work) -> int:
        """Does a work, and has it told. Returns about how many pages that changed."""
        self._ride = ride = self.riders.board() if self.riders else None
        try:
            result = await self._execute(work, ride)
        except Exception as failure:  # memory is short, say: how far it came is not known
            result = Result(failure, committing=True)
        error = None if result.error is None else classify(result)
        pages = self._tell(work, error)
        if ride is not None:
            self._checkpoints.pages += _RIDE
            self._ride = None
            ride.ended(error is None)
        if pages is None:
            await self._recover(self._reopen)
        # What the job itself raised says nothing of the disk: it was rolled back, and that was all.
        elif isinstance(error, RelayError) and (error is not result.error or result.stuck):
            if isinstance(error, Malformed):
                if time.monotonic() < self._damage_again:
                    return pages
                self._damage_again = time.monotonic() + _DAMAGE_EVERY
            try_log(
                _log.error, "commit_failed", code=error.code, error=repr(result.error), committing=result.committing
            )
            # A full disk rolls back by itself, and works again once there is room.
            await self._recover(self._try_again if isinstance(error, NoSpace) else self._reopen)
        return pages or 0

    def _tell(self, work: Work, error: Exception | None) -> int | None:
        """Tells a work how it ended. Returns about how many pages it changed; None where something failed over that:
        what is in memory is then perhaps not what the file says."""
        self._work = None
        try:
            if error is not None:
                work.failed(error)
                return work.pages()
            work.committed()
            pages = work.pages()
            self._checkpoints.pages += pages
        except Exception:
            try_log(_log.exception, "outcome_not_told", committed=error is None)
            return None
        return pages

    async def _execute(self, work: Work, ride: Ride | None) -> Result:
        if ride is None and work.quick() and self._connection.here(self._begin_at_once):
            filled = self._connection.here(lambda raw: self._fill(raw, work))
            if isinstance(filled, Result):
                return filled
            return await self._connection.run(lambda raw: self._commit(raw, filled))
        return await self._connection.run(lambda raw: self._transact(raw, work, ride))

    def _begin_at_once(self, raw: sqlite3.Connection) -> bool:
        """Begins a transaction, where nothing is wrong and nobody else, who would be waited for, writes to the file."""
        try:
            self._await_locks(raw, 0)
            raw.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, MemoryError):
            return False
        return True

    def _await_locks(self, raw: sqlite3.Connection, patience: int) -> None:
        """How many milliseconds what comes next waits for a lock that somebody else holds; in the loop none."""
        if self._patience != patience:
            raw.execute(f"PRAGMA busy_timeout = {patience}")
            self._patience = patience

    def _transact(self, raw: sqlite3.Connection, work: Work, ride: Ride | None = None) -> Result:
        """Runs on the thread. Never raises: what is raised there might not reach the loop as it is."""
        try:
            self._await_locks(raw, BUSY_TIMEOUT)
            raw.execute("BEGIN IMMEDIATE")
            if ride is not None:
                ride.write(raw)
        except BaseException as error:
            return undo(raw, error, committing=False)
        filled = self._fill(raw, work)
        return filled if isinstance(filled, Result) else self._commit(raw, filled)

    def _fill(self, raw: sqlite3.Connection, work: Work) -> Stamp | Result:
        """Does the work, in the transaction that was begun. Returns what its commit makes true. Never raises."""
        try:
            appended = work.run(raw)
            stamp = Stamp(self.stamp.database, self.stamp.commits + 1, self.stamp.appended + appended)
            raw.execute("UPDATE meta SET commits = ?, appended = ?", (stamp.commits, stamp.appended))
        except BaseException as error:
            return undo(raw, error, committing=False)
        return stamp

    def _commit(self, raw: sqlite3.Connection, stamp: Stamp) -> Result:
        """Runs on the thread: here the disk is waited for. Never raises."""
        try:
            raw.execute("COMMIT")
        except BaseException as error:
            return undo(raw, error, committing=True)
        if lost := self._misplaced(committed=True):
            return Result(Misplaced(lost), True)
        self.stamp = stamp
        self._testify(self._witness.write)
        return COMMITTED

    def _testify(self, write: Callable[[Stamp], None]) -> None:
        """Runs on the thread: has the witness know what was committed."""
        try:
            write(self.stamp)
        except OSError as error:
            if self._witness_error is None:
                _log.error("witness_not_written", error=str(error), consequence="a loss might go unnoticed")
            self._witness_error = error

    # after an error

    async def _recover(self, way: Callable[[], Awaitable[RelayError | None]]) -> None:
        """Goes that way, and then the one over the file again and again. Comes back once something can be committed, or
        at the close."""
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
        """Goes that way. Returns what went wrong, whatever it was: the next try begins from the file again."""
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
        """Opens the file anew, has everybody read again, and commits something. Returns or raises what went wrong."""
        # While it is open, what was deleted can still be copied; and who opens an empty file deletes its WAL.
        self._content.look()
        if self.misplaced:
            return Unavailable(self.misplaced)
        self._whereabouts.closed()
        with contextlib.suppress(sqlite3.Error):
            await self._connection.close()
        self._connection = await Connection.writer(self._path, self._factory)
        self._patience = BUSY_TIMEOUT
        await self._connection.run(keep_statements_in_memory)
        stamp, kept = await self._connection.run(
            lambda raw: (read_stamp(raw), [keeper.read(raw) for keeper in self.keepers])
        )
        found = loss(self.stamp, stamp)
        if found is not None:
            self.loss = found
            _log.error("committed_work_lost", commits=found.commits, events=found.events, while_running=True)
        self.stamp = stamp
        if found is not None:  # no later start is to tell it again
            await self._connection.run(lambda raw: self._testify(self._witness.restart))
        for keeper, value in zip(self.keepers, kept, strict=True):
            keeper.apply(value)
        return await self._try_again()

    async def _try_again(self) -> RelayError | None:
        """Commits something; in a WAL that was copied and starts anew, which needs no room. Returns or raises what
        went wrong."""
        await self._checkpoint("PASSIVE")
        result = await self._connection.run(lambda raw: self._transact(raw, Probe()))
        if result.error is None:
            return None
        failure = classify(result)
        return failure if isinstance(failure, RelayError) else Unavailable(str(failure))

    def _reject(self, error: RelayError) -> None:
        jobs, self._jobs = self._jobs, deque()
        for work in jobs:
            work.failed(again(error))
        if self.source is not None:
            self.source.reject(error)

    # checkpoints and the end

    async def _checkpoint(self, mode: str, patience: int = 0) -> bool:
        """Copies what it can of the WAL into the file; a reader's snapshot may hold some of it back until later.
        Returns whether nobody was in the way, within so many milliseconds."""
        try:
            busy, pages, copied = await self._connection.run(lambda raw: self._copy(raw, mode, patience))
        except Exception as error:  # there is no memory for it, say
            try_log(_log.warning, "checkpoint_failed", error=str(error) or repr(error))
            self._checkpoints.failed()
            return False
        self._checkpoints.copied(max(pages - copied, 0))
        return not busy

    def _copy(self, raw: sqlite3.Connection, mode: str, patience: int) -> Any:
        self._check_content()
        if mode != "PASSIVE":
            self._await_locks(raw, patience)
        copied = raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self._check_content()  # and knows from now on what was copied
        return copied

    def _check_content(self) -> None:
        if self._content.look():
            raise Misplaced(WRITTEN_OVER)

    def _shrunk(self, whole: bool) -> None:
        while self._shrinking:
            shrunk = self._shrinking.pop()
            if not shrunk.done():
                wake(shrunk, whole)

    async def _finish(self) -> None:
        await self._checkpoint("TRUNCATE", BUSY_TIMEOUT)
        with contextlib.suppress(sqlite3.Error):
            await self._connection.close()
