"""What the writer is given to do, and how the end of a transaction is told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from relay_tornado.errors import Malformed, NoSpace, RelayError, Unavailable, Unknown
from relay_tornado.storage.damage import MALFORMED_TEXT, code_of, quotes_a_text

CLOSED = "the relay is shutting down; send it again in a moment"
FULL = "the disk of relay.db is full, so nothing was stored: free some space on it"

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
"""Errors that say something about the file or the machine, not about what was asked."""


class Work(Protocol):
    """What one transaction does."""

    def quick(self) -> bool:
        """Whether `run` takes no time to speak of and changes little: then it is called in the loop."""

    def run(self, raw: sqlite3.Connection) -> int:
        """Between BEGIN and COMMIT, on the thread unless it is `quick`. Returns how many events it appended."""

    def pages(self) -> int:
        """About how many pages it changed."""

    def committed(self) -> None:
        """In the loop, after the commit. Where a part of what follows from it fails, all else of it is done, whoever
        waits is told, and then that is raised: everybody reads again what they keep in memory."""

    def failed(self, error: Exception) -> None:
        """In the loop, after a rollback (Unknown: perhaps after a commit). A RelayError says what to tell the
        sender; any other error is what `run` raised."""


class Source(Protocol):
    """Makes works of what has gathered, when it is asked."""

    def take(self) -> Work | None:
        """The next work, or None where nothing waits."""

    def waiting(self) -> int:
        """How many events wait."""

    def reject(self, error: RelayError) -> None:
        """Fails everything that waits."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Somebody who keeps in memory what stands in the file: `read` on the thread, then `apply` in the loop."""

    read: Callable[[sqlite3.Connection], Any]
    apply: Callable[[Any], None]


class Misplaced(Exception):
    """What was committed is in a file that is not where it was opened, or beside one that was written over: after the
    next start nobody would find it."""


def misplaced(name: str) -> str:
    """What is to be said where the file of that name is not where it was opened, "" where none is."""
    if not name:
        return ""
    return (
        f"{name} was deleted, moved or replaced while the relay ran: put it back where it was; docs/operations.md says "
        "how to save what is lost otherwise"
    )


WRITTEN_OVER = (
    "relay.db was written over while the relay ran: stop the relay, and restore a backup; docs/operations.md says how, "
    "and what is lost"
)
"""What is to be said where somebody copied another file onto it, or emptied it."""


class Stale(Exception):
    """What `run` built on, in memory, is not what the file holds: everybody has to read again."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a transaction ended: `committing` where COMMIT itself failed, `stuck` where it could not be rolled back."""

    error: BaseException | None = None
    committing: bool = False
    stuck: bool = False


COMMITTED = Result()


def undo(raw: sqlite3.Connection, error: BaseException, *, committing: bool) -> Result:
    """Rolls back, where a transaction is open."""
    with contextlib.suppress(sqlite3.Error, MemoryError):
        if raw.in_transaction:
            raw.execute("ROLLBACK")
    if quotes_a_text(error):
        error = sqlite3.OperationalError(MALFORMED_TEXT)
    return Result(error, committing, raw.in_transaction)


def classify(result: Result) -> Exception:
    """The error to tell of a transaction that failed: a RelayError where the file or the machine is to blame."""
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
    """Whether an error says something about the machine, so that the same may go well another time."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code = code_of(error)
    return code == sqlite3.SQLITE_FULL or (code in _ENVIRONMENT and code != sqlite3.SQLITE_CORRUPT)


def again(error: RelayError) -> RelayError:
    """An error of the same kind and text: each future needs one of its own."""
    return type(error)(*error.args)


class Probe:
    """A work that changes nothing but the count of commits."""

    def quick(self) -> bool:
        return False

    def run(self, raw: sqlite3.Connection) -> int:
        return 0

    def pages(self) -> int:
        return 1

    def committed(self) -> None:
        """See `Work`."""

    def failed(self, error: Exception) -> None:
        """See `Work`."""
