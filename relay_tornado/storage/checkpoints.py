"""Decides when the WAL is copied into the file: by its size, by what waits, and by the space left.

Copying in small pieces takes hardly more processor time than in large ones. Nothing is committed during a piece, so its
size determines the tail of the latencies. A page is copied once, however many commits have changed it: each commit to a
log changes the log's last page of the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from relay_tornado.rate_limits import RepeatLimit
from relay_tornado.storage.space import Space

_SOON = 250
_LATER = 500
_NOW = 1000
"""Pages to copy from which the WAL is copied: after a commit of many events, or when nothing came for a moment
(`_SOON`); after any commit, if little waits (`_LATER`); in any case (`_NOW`)."""

_LONG = 750
"""Repeats of pages in the WAL from which it is copied in any case."""

_RARELY = 4000
"""Pages after which there is another try at the latest while a reader holds the WAL back."""

_LOW = 100
"""Pages from which it is copied when space is low, on top of what a reader holds back: a WAL that restarts at its
beginning needs no room, so a trim can free some."""

_MANY = 16
"""Pages that a commit of many events changes, at least."""

_BUSY = 8
"""The most waiting events and jobs for which a checkpoint comes first."""


class Checkpoints:
    """Counts roughly the `pages` in the WAL that are not in the file yet: each once, unless a reader holds the WAL
    back. What counts then is how long it gets until the next try. `clock` returns seconds."""

    def __init__(self, space: Space, clock: Callable[[], float] = time.monotonic) -> None:
        self.pages = 0
        self.failure = ""
        """The error of the last checkpoint; "" if it had none."""
        self._repeats = 0
        self._logs: set[int] = set()
        """Those whose last pages are counted."""
        self._space = space
        self._repeated = RepeatLimit(clock)
        self._held_back = 0
        self._at = _SOON

    def committed(self, pages: int, logs: Collection[int] = ()) -> None:
        """A commit changed so many pages, one of each log among them."""
        if logs and not self._held_back:
            known = len(self._logs)
            self._logs.update(logs)
            repeats = known + len(logs) - len(self._logs)
            pages -= repeats
            self._repeats += repeats
        self.pages += pages

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due when there is nothing else to do."""
        return self.pages >= self._at or self._long

    def due_behind(self, committed: int, waiting: int) -> bool:
        """Whether a checkpoint is due after a commit that changed `committed` pages, while `waiting` events and jobs
        wait."""
        low = self._space.low()
        if self._long:
            return True
        if self.pages + self._repeats < self._held_back + _LOW if low else self.pages < self._at:
            return False
        if self.pages >= _NOW:
            return True
        # After only a few events, an idle moment is likely to come soon.
        return waiting <= _BUSY and (low or committed >= _MANY or self.pages >= self._at + _LATER - _SOON)

    @property
    def _long(self) -> bool:
        return self._repeats >= _LONG

    def copied(self, left: int) -> None:
        """A checkpoint was made. `left` pages remain, held back by a reader's snapshot."""
        self.failure = ""
        self.pages = self._held_back = left
        self._repeats = 0
        self._logs.clear()
        # Tries become rarer while a reader holds the WAL back: one that copies a part sorts all that is left. One that
        # copies nothing costs next to nothing, and once the reader is gone, the next one is to come soon: it copies all
        # that is left, and nothing is committed meanwhile.
        self._at = left + max(_SOON, min(left // 2, _RARELY))

    def failed(self, why: str) -> bool:
        """A checkpoint failed: the next one copies its pages, too. Returns whether that should be logged: while a disk
        is full or broken, each one fails with the same error."""
        self.failure = why
        self.pages += self._repeats
        self._repeats = 0
        self._at = self.pages + _SOON
        return self._repeated.due(why)
