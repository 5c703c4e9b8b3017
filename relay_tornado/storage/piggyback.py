"""Piggybacked writes: what is worth no transaction of its own rides along with whatever comes next.

Invariants:
- What rides is inside the transaction, between BEGIN and what the transaction is for, in a savepoint of its own: where
  it fails, it alone is undone, and the rest is committed.
- A rider that asked is told once: it landed, it was bumped (nothing was written, and it was not to blame), or refused.
- Where nothing comes, it gets a transaction after `DELAY` seconds. Where nobody asked, nothing is done at all.
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
"""Seconds that a rider waits for a transaction before it gets one."""

_AGAIN: Final = 1.0
"""Seconds until it is tried again where the file can't be written."""

_log = structlog.get_logger(__name__)


class Rider(Protocol):
    """Asked anew for each transaction: see `Riders.add`."""

    def board(self) -> bool:
        """In the loop, before the transaction: makes ready what is to be written. False where it is nothing."""

    def write(self, raw: sqlite3.Connection) -> None:
        """On the writer's thread, inside a savepoint."""

    def landed(self) -> None:
        """In the loop: it is committed."""

    def bumped(self) -> None:
        """In the loop: nothing was written (perhaps it was, where a commit failed); ask again."""

    def refused(self, error: Exception) -> None:
        """In the loop: its own writing failed and was undone."""


class Ride:
    """Those who are in one transaction."""

    def __init__(self, riders: Sequence[Rider], failed: Callable[[Rider], None]) -> None:
        self._riders = riders
        self._failed = failed
        self._refused: dict[Rider, Exception] = {}

    def write(self, raw: sqlite3.Connection) -> None:
        """Raises only where the transaction itself is over, or can't be continued."""
        self._refused.clear()
        for rider in self._riders:
            raw.execute("SAVEPOINT rider")
            try:
                rider.write(raw)
            except Exception as error:
                if not raw.in_transaction:
                    raise
                raw.execute("ROLLBACK TO rider")
                self._refused[rider] = error
            raw.execute("RELEASE rider")

    def ended(self, committed: bool) -> None:
        """Tells them. One that fails on it is logged, and boards again."""
        for rider in self._riders:
            error = self._refused.get(rider)
            try:
                if error is not None and not blames_environment(error):
                    rider.refused(error)
                elif committed and error is None:
                    rider.landed()
                else:
                    rider.bumped()
            except Exception:
                self._failed(rider)


class Riders:
    """Those who wait. `go` has the writer do a transaction; it may raise a RelayError."""

    def __init__(self, go: Callable[[], None]) -> None:
        self._go = go
        self._waiting: dict[Rider, None] = {}
        self._timer = Timer(self._due)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rider: Rider) -> None:
        """Has it ride along with the next transaction, once."""
        self._waiting[rider] = None
        self._wait(DELAY)

    def board(self) -> Ride | None:
        """Those who wait, in the transaction that is about to begin; None where nobody has anything."""
        waiting, self._waiting = self._waiting, {}
        self._timer.cancel()
        try:
            riders = [rider for rider in waiting if self._boards(rider)]
            return Ride(riders, self._failed) if riders else None
        except MemoryError:
            for rider in waiting:
                self._failed(rider)
            return None

    def _boards(self, rider: Rider) -> bool:
        try:
            return rider.board()
        except Exception:
            self._failed(rider)
            return False

    def _failed(self, rider: Rider) -> None:
        """In an `except`: what it was asked or told went wrong."""
        try_log(_log.exception, "rider_failed")
        with suppress(Exception):
            rider.bumped()
        self._waiting[rider] = None
        self._wait(_AGAIN)

    def close(self) -> None:
        """Nobody gets a transaction any more."""
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
