"""Small writes that need no transaction of their own: they are done within the next transaction, whatever it is for.

Invariants:
- A rider writes inside the transaction, right after BEGIN, in a savepoint of its own: if it fails, only its writes are
  undone, and the rest is committed.
- A rider that had something to write is told its outcome once: committed, undone (through no fault of its own) or
  failed.
- If no transaction comes, the riders get one after `DELAY` seconds. Without riders, nothing is done at all.
- At most one such transaction waits, and only if nothing else does: where a commit takes longer than `DELAY`, others
  would wait behind ever more of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from relay_tornado.errors import RelayError
from relay_tornado.low_memory import Timer, try_log
from relay_tornado.storage.work import blames_environment

DELAY: Final = 0.05
"""Seconds that a rider waits for a transaction before it gets its own."""

_AGAIN: Final = 1.0
"""Seconds until it is tried again if the file can't be written."""

_log = structlog.get_logger(__name__)


class Rider(Protocol):
    """Has to be added again for each transaction: see `Riders.add`."""

    def prepare(self) -> bool:
        """In the event loop, before the transaction: prepares the writes. Returns False if there are none."""

    def write(self, raw: sqlite3.Connection) -> None:
        """Writes, on the writer's thread, inside a savepoint."""

    def committed(self) -> None:
        """In the event loop: the writes are committed."""

    def undone(self) -> None:
        """In the event loop: nothing was written (or perhaps it was, if a commit failed); add it again."""

    def failed(self, error: Exception) -> None:
        """In the event loop: its own write failed and was undone."""


class Ride:
    """The riders of one transaction."""

    def __init__(self, riders: Sequence[Rider], failed: Callable[[Rider], None]) -> None:
        self._riders = riders
        self._failed = failed
        self._errors: dict[Rider, Exception] = {}

    def write(self, raw: sqlite3.Connection) -> None:
        """Raises only if the transaction itself is over or can't be continued."""
        for rider in self._riders:
            raw.execute("SAVEPOINT rider")
            try:
                rider.write(raw)
            except Exception as error:
                if not raw.in_transaction:
                    raise
                raw.execute("ROLLBACK TO rider")
                self._errors[rider] = error
            raw.execute("RELEASE rider")

    def ended(self, committed: bool) -> None:
        """Tells the riders their outcome. A rider that fails on it is logged, and added again."""
        for rider in self._riders:
            error = self._errors.get(rider)
            try:
                if error is not None and not blames_environment(error):
                    rider.failed(error)
                elif committed and error is None:
                    rider.committed()
                else:
                    rider.undone()
            except Exception:
                self._failed(rider)


class Riders:
    """The waiting riders. `go` makes the writer run a transaction if none is coming; it may raise a RelayError."""

    def __init__(self, go: Callable[[], None]) -> None:
        self._go = go
        self._waiting: dict[Rider, None] = {}
        self._timer = Timer(self._due)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rider: Rider) -> None:
        """Adds a rider to the next transaction, once."""
        self._waiting[rider] = None
        self._wait(DELAY)

    def prepare(self) -> Ride | None:
        """The riders of the transaction that is about to begin; None if none of them has writes."""
        waiting, self._waiting = self._waiting, {}
        self._timer.cancel()
        try:
            riders = [rider for rider in waiting if self._prepare(rider)]
            return Ride(riders, self._failed) if riders else None
        except MemoryError:
            for rider in waiting:
                self._failed(rider)
            return None

    def _prepare(self, rider: Rider) -> bool:
        try:
            return rider.prepare()
        except Exception:
            self._failed(rider)
            return False

    def _failed(self, rider: Rider) -> None:
        """In an `except`: a call of the rider failed."""
        try_log(_log.exception, "rider_failed")
        with suppress(Exception):
            rider.undone()
        self._waiting[rider] = None
        self._wait(_AGAIN)

    def close(self) -> None:
        """Ends: riders get no transaction any more."""
        self._closed = True
        self._timer.cancel()

    def _wait(self, delay: float) -> None:
        if self._timer.at is None and not self._closed:
            self._timer.after(delay)

    def _due(self) -> None:
        try:
            self._go()
        except RelayError:
            self._wait(_AGAIN)
        else:
            self._wait(DELAY)  # what is coming may fail before it begins
