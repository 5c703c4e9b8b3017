"""A start's checks that block, on a thread of their own: the event loop hears a stop meanwhile, and ends them."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread

T = TypeVar("T")

_AGAIN: Final = 0.02
"""Seconds between two interrupts of a statement: one that comes before the statement begins has no effect."""


class Halted(Exception):
    """The work ended early: nobody waits for it any more."""


class Halt:
    """Whether a start was stopped: told in the event loop, and read by the work on the thread."""

    def __init__(self) -> None:
        self._halted = False
        self._raw: sqlite3.Connection | None = None

    def halted(self) -> bool:
        return self._halted

    def set(self) -> None:
        self._halted = True

    def check(self) -> None:
        """Raises Halted if the start was stopped. For work that has not changed anything yet, or can undo it."""
        if self._halted:
            raise Halted

    @contextmanager
    def interrupting(self, raw: sqlite3.Connection) -> Iterator[None]:
        """Meanwhile a stop interrupts the statement that this connection runs, which raises
        sqlite3.OperationalError."""
        self._raw = raw
        try:
            yield
        finally:
            self._raw = None

    async def run(self, work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> T:
        """Does the work on a thread of its own, and returns or raises what it does; OSError if no thread can be
        started. A cancelled caller waits until the work has ended, so that nothing is still done when the lock is
        released; `drop` gets the result that it has all the same."""
        try:
            running = run_in_thread(work)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, NO_THREAD) from error
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            self.set()
            while not running.done():
                self._interrupt()
                await asyncio.wait([running], timeout=_AGAIN)
            if running.exception() is None:
                drop(running.result())
            raise
        return running.result()

    def _interrupt(self) -> None:
        if (raw := self._raw) is not None:
            with suppress(sqlite3.ProgrammingError):  # it was closed just now
                raw.interrupt()
