"""What the writer executes, and how the outcome of a transaction is reported."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from relay_tornado.errors import Malformed, NoSpace, RelayError, Unavailable, Unknown
from relay_tornado.storage.damage import MALFORMED_TEXT, code_of, quotes_a_text

CLOSED = "the relay is shutting down; send it again in a moment"
FULL = "the disk of relay.db is full, so nothing was stored: free some space on it"
CHECK = "`relay check` on the relay's machine says whether relay.db is damaged, and what to do"

_ENVIRONMENT = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOTADB,
}
"""Errors that are about the file or the machine, not about the request."""


class Work:
    """The content of one transaction. As it is, it only increments the count of commits."""

    __slots__ = ()

    def quick(self) -> bool:
        """Whether `run` takes almost no time and changes little: then it is called in the event loop."""
        return False

    def shared(self) -> bool:
        """Whether it may share a transaction with other such works, and with one of the source: it is brief, `run` may
        be repeated, and builds on nothing that another one's `committed` changes."""
        return False

    def run(self, raw: sqlite3.Connection) -> int:
        """Runs between BEGIN and COMMIT, on the thread unless it is `quick`. Returns the number of appended events."""
        return 0

    def pages(self) -> int:
        """About how many pages `run` changed. Asked after `committed`, as `logs`."""
        return 1

    def logs(self) -> Collection[int]:
        """The logs that `run` appended to. Of the pages, one for each is the log's last, which the next append to it
        changes again."""
        return ()

    def committed(self) -> None:
        """In the event loop, after the commit. If a step fails, all others still run and all callers are told; then it
        raises, and every keeper reads the file again."""

    def failed(self, error: Exception) -> None:
        """In the event loop, after a rollback (Unknown: perhaps after a commit). A RelayError is what to tell the
        sender; any other error was raised by `run`."""


class Together(Work):
    """Works that share a transaction, in their order: the disk is waited for once. If one of them fails, so do all."""

    __slots__ = ("works",)

    def __init__(self, works: Sequence[Work]) -> None:
        self.works = works

    def run(self, raw: sqlite3.Connection) -> int:
        return sum([work.run(raw) for work in self.works])

    def pages(self) -> int:
        return sum([work.pages() for work in self.works])

    def logs(self) -> Collection[int]:
        return [log for work in self.works for log in work.logs()]

    def committed(self) -> None:
        failure: Exception | None = None
        for work in self.works:
            try:
                work.committed()
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    def failed(self, error: Exception) -> None:
        assert isinstance(error, RelayError)
        for work in self.works:
            try:
                work.failed(again(error))
            except MemoryError:  # for an error of its own, unless it is told already
                work.failed(error)


class Source(Protocol):
    """Collects what is to be written, and makes works of it on demand, whose `run` may be repeated."""

    def take(self) -> Work | None:
        """The next work; None if nothing waits."""

    def waiting(self) -> int:
        """How many events wait."""

    def reject(self, error: RelayError) -> None:
        """Fails everything that waits."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """A cache of rows: `read` runs on the thread, then `apply` in the event loop."""

    read: Callable[[sqlite3.Connection], Any]
    apply: Callable[[Any], None]


class Misplaced(Exception):
    """The commit is in a file that is no longer where it was opened, or whose content was written over: it would be
    lost with the next start."""


class Stale(Exception):
    """The state in memory on which `run` relied is not that of the file: every keeper has to read again."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a transaction. `committing`: COMMIT itself failed. `stuck`: it could not be rolled back."""

    error: BaseException | None = None
    committing: bool = False
    stuck: bool = False


COMMITTED = Result()


def undo(raw: sqlite3.Connection, error: BaseException, *, committing: bool) -> Result:
    """Rolls back if a transaction is open."""
    with contextlib.suppress(sqlite3.Error, MemoryError):
        if raw.in_transaction:
            raw.execute("ROLLBACK")
    if quotes_a_text(error):
        error = sqlite3.OperationalError(MALFORMED_TEXT)
    return Result(error, committing, raw.in_transaction)


def classify(result: Result) -> Exception:
    """The error to report for a failed transaction: a RelayError if the file or the machine is to blame."""
    error = result.error
    if isinstance(error, Misplaced):
        return Unknown(f"{error}; it may have been stored")
    if isinstance(error, Stale):
        kind = Unavailable if result.stuck else Malformed
        return kind(f"the file is not what it was thought to be ({error}); nothing was stored")
    if isinstance(error, sqlite3.Error):
        code = code_of(error)
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(FULL)
        if result.committing:
            return Unknown(f"the commit failed ({error}); it may have been stored")
        if code == sqlite3.SQLITE_CORRUPT and not result.stuck:
            return Malformed(f"the write failed ({error}); nothing was stored")
        if code in _ENVIRONMENT or result.stuck:
            return Unavailable(f"the write failed ({error}); nothing was stored")
    if isinstance(error, MemoryError) and not result.committing:  # SQLite's own, too
        return Unavailable("there was no memory left for the write; nothing was stored")
    if result.committing or not isinstance(error, Exception):
        return Unknown(f"the write was broken off ({type(error).__name__}); it may have been stored")
    if result.stuck and not isinstance(error, RelayError):
        return Unavailable(f"the write failed ({type(error).__name__}) and could not be undone; nothing was stored")
    return error


def blames_environment(error: Exception) -> bool:
    """Whether an error is about the machine, so that the same may succeed another time."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code = code_of(error)
    return code == sqlite3.SQLITE_FULL or (code in _ENVIRONMENT and code != sqlite3.SQLITE_CORRUPT)


def again(error: RelayError) -> RelayError:
    """A new error of the same kind and text: each future needs its own."""
    return type(error)(*error.args)
