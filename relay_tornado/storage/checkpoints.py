"""When the WAL is copied into the file: by what is in it, what waits, and how much space there is.

Copying takes hardly more of the processor in small pieces than in large ones, and nothing is committed meanwhile, so
the pieces make the tail.
"""

from __future__ import annotations

from relay_tornado.storage.space import Space

_SOON = 250
_LATER = 500
_NOW = 1000
"""Pages in the WAL at which it is copied: after a commit of many events, or where nothing came for a moment; after any
commit; and in any case, since the first two are only for when little waits."""

_LOW = 100
"""The same where space is low, beyond what a reader holds back: a WAL that starts anew needs no room, and so a trim can
free some."""

_MANY = 16
"""Pages that a commit of many events changes."""

_BUSY = 8
"""More events and jobs that wait are not kept waiting."""


class Checkpoints:
    """Counts, about, the `pages` in the WAL that are not in the file yet."""

    def __init__(self, space: Space) -> None:
        self.pages = 0
        self._space = space
        self._held_back = 0
        self._at = _SOON

    @property
    def due(self) -> bool:
        """Whether it is time for one, where nothing else is to be done."""
        return self.pages >= self._at

    def due_behind(self, committed: int, waiting: int) -> bool:
        """Whether it is, right after a commit that changed so many pages, while so many events and jobs wait."""
        low = self._space.low()
        if self.pages < (self._held_back + _LOW if low else self._at):
            return False
        if self.pages >= _NOW:
            return True
        # After a few events alone comes rather a moment with nothing to do.
        return waiting <= _BUSY and (low or committed >= _MANY or self.pages >= self._at + _LATER - _SOON)

    def copied(self, left: int) -> None:
        """One was made, and so many pages are left, since a reader's snapshot holds them back."""
        self.pages = self._held_back = left
        # Each try sorts all that is left, so while a reader holds it back they become rare.
        self._at = left + max(_SOON, left // 2)

    def failed(self) -> None:
        """One was not made: the next one copies this, too."""
        self._at = self.pages + _SOON
