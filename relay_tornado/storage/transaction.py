"""The writer's transactions and checkpoints, as functions of its connection.

Invariants:
- Whatever a transaction raises, no BEGIN stays open, and its outcome is returned as a `Result`.
- A commit counts once COMMIT has returned, the file is still where it was, and the witness is written. Nothing counts
  as committed if the file was moved away meanwhile; nor, from the next checkpoint or `look` on, if it was written over.
- Nothing is copied into a file that was written over.
- No checkpoint is begun that the disk has no room for: it would take the last bytes, with which something could still
  be deleted. One that is completed gives the WAL's bytes back.

All of it runs on the connection's thread, except `begin_at_once` and `fill`, which the event loop may call, too, while
nothing runs there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from relay_tornado.errors import NoSpace
from relay_tornado.model import KIB
from relay_tornado.storage.connection import BUSY_TIMEOUT
from relay_tornado.storage.location_check import LocationCheck
from relay_tornado.storage.overwrite_check import OverwriteCheck
from relay_tornado.storage.piggyback import Ride
from relay_tornado.storage.space import writable
from relay_tornado.storage.witness import Stamp, Witness
from relay_tornado.storage.work import COMMITTED, Misplaced, Result, Work, undo

_MISPLACED = (
    "{} was deleted, moved or replaced while the relay ran: put it back where it was; docs/operations.md says how to "
    "save what is lost otherwise"
)
_WRITTEN_OVER = (
    "{} was written over while the relay ran: stop the relay; docs/operations.md says how to go on, and what is lost"
)

_NO_ROOM = "the disk has no room for what the write-ahead log adds to relay.db: it is copied once there is room"

_METADATA = 64 * KIB
"""Bytes that a file system may need beside the content of a file that grows. More would leave a WAL as it is although a
copy, which gives back what the WAL has, has room: ext4 and xfs need 4 KiB for one that adds 4 MiB."""

_log = structlog.get_logger(__name__)


class Transactions:
    """The transactions on one file. `stamp` is that of the last commit."""

    def __init__(self, path: Path, overwrite: OverwriteCheck, witness: Witness, stamp: Stamp) -> None:
        self.stamp = stamp
        self._path = path
        self._overwrite = overwrite
        self._location = LocationCheck(path)
        self._witness = witness
        self._witness_error: OSError | None = None
        self._patience = BUSY_TIMEOUT

    def run(self, raw: sqlite3.Connection, work: Work, ride: Ride | None = None) -> Result:
        """Runs a whole transaction. Never raises: an error on the thread might not reach the event loop unchanged."""
        try:
            self._await_locks(raw, BUSY_TIMEOUT)
            raw.execute("BEGIN IMMEDIATE")
            if ride is not None:
                ride.write(raw)
        except BaseException as error:
            return undo(raw, error, committing=False)
        filled = self.fill(raw, work)
        return filled if isinstance(filled, Result) else self.commit(raw, filled)

    def begin_at_once(self, raw: sqlite3.Connection) -> bool:
        """Begins a transaction. Returns False if that fails, or if another connection, which would have to be waited
        for, is writing."""
        try:
            self._await_locks(raw, 0)
            raw.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, MemoryError):
            return False
        return True

    def fill(self, raw: sqlite3.Connection, work: Work) -> Stamp | Result:
        """Executes the work in the open transaction. Returns the stamp that its commit makes true. Never raises."""
        try:
            appended = work.run(raw)
            stamp = Stamp(self.stamp.database, self.stamp.commits + 1, self.stamp.appended + appended)
            raw.execute("UPDATE meta SET commits = ?, appended = ?", (stamp.commits, stamp.appended))
        except BaseException as error:
            return undo(raw, error, committing=False)
        return stamp

    def commit(self, raw: sqlite3.Connection, stamp: Stamp) -> Result:
        """Commits the open transaction, whose work returned this stamp, and waits for the disk. Never raises."""
        try:
            raw.execute("COMMIT")
        except BaseException as error:
            return undo(raw, error, committing=True)
        if lost := self.misplaced(committed=True):
            return Result(Misplaced(lost), True)
        self.stamp = stamp
        self._to_witness(self._witness.write)
        return COMMITTED

    def copy(self, raw: sqlite3.Connection, mode: str, patience: int) -> tuple[int, int, int]:
        """Makes a checkpoint, which in a `mode` other than PASSIVE waits `patience` milliseconds for other connections.
        Returns whether one of them prevented it (1 or 0), the pages in the WAL, and how many of them are copied. Raises
        sqlite3.Error, NoSpace if the disk has no room for what it adds to the file, and Misplaced if the file was
        written over."""
        self._check_overwrite()  # without a checkpoint, what the witness notes still holds: see `older_wal`
        self._check_room()
        if mode != "PASSIVE":
            self.copy(raw, "PASSIVE", 0)  # once the WAL is emptied, it says no longer which pages it had
            self._await_locks(raw, patience)
        self._to_witness(lambda _: self._witness.note_copied(None))
        self._overwrite.before_checkpoint()
        self._check_overwrite()  # again, and last: behind this look only what the checkpoint did shows it
        try:
            busy, pages, copied = raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:  # it may have been broken off
            if self._overwrite.after_checkpoint():
                self._to_witness(lambda _: self._witness.condemn())
        self._refuse_overwritten()
        if 0 <= pages == copied:  # all is copied and synced
            self._to_witness(self._witness.note_copied)
        return busy, pages, copied

    def look(self) -> None:
        """Looks whether the file or its WAL was written over; then it is `misplaced` from now on."""
        self._overwrite.look()

    @property
    def written_over(self) -> str:
        """The message if the file or its WAL was found to be written over; "" if not."""
        name = self._overwrite.written_over
        return name and _WRITTEN_OVER.format(name)

    def misplaced(self, *, committed: bool = False) -> str:
        """The message if the file is not where it was opened or was written over; "" if all is well. `committed`: the
        WAL must exist now. On any thread."""
        if over := self.written_over:
            return over
        name = self._location.missing(committed=committed)
        return name and _MISPLACED.format(name)

    def closed(self) -> None:
        """The connection is about to be closed, and another one made."""
        self._location.closed()
        self._patience = BUSY_TIMEOUT

    def restart(self) -> None:
        """Has the witness begin afresh at the `stamp`, so that no later start reports what was lost before."""
        self._to_witness(self._witness.restart)

    def _check_overwrite(self) -> None:
        self.look()
        self._refuse_overwritten()

    def _check_room(self) -> None:
        with suppress(OSError):  # the checkpoint will tell
            grows = self._overwrite.index.length() - self._path.stat().st_size
            if grows > 0 and writable(self._path) < grows + _METADATA:
                raise NoSpace(_NO_ROOM)

    def _refuse_overwritten(self) -> None:
        if over := self.written_over:
            raise Misplaced(over)

    def _await_locks(self, raw: sqlite3.Connection, patience: int) -> None:
        """Sets how many milliseconds the next statements wait for another connection's lock (in the event loop: 0)."""
        if self._patience != patience:
            raw.execute(f"PRAGMA busy_timeout = {patience}")
            self._patience = patience

    def _to_witness(self, write: Callable[[Stamp], None]) -> None:
        """Writes the stamp to the witness."""
        try:
            write(self.stamp)
        except OSError as error:
            if self._witness_error is None:
                _log.error("witness_not_written", error=str(error), consequence="a loss might go unnoticed")
            self._witness_error = error
