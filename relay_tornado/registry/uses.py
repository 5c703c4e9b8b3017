"""When each token was last used: noted in memory, to the minute, since it happens on the hot path."""

from __future__ import annotations

from typing import Final

GRANULARITY: Final = 60.0
"""Seconds during which further uses of a token are not noted."""


class Uses:
    """Times are unix seconds. They are lost at the end of the process: see `registry.sqlite_uses`."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}

    def note(self, key: str, now: float) -> None:
        """Notes a use of the token with this key."""
        # A clock that is set back leaves a time in the future; the next use corrects it.
        if not 0 <= now - self._last.get(key, 0) < GRANULARITY:
            self._last[key] = self._unwritten[key] = int(now)

    def last(self, key: str) -> int | None:
        """When the token was last used; None if no use is known."""
        return self._last.get(key)

    def forget(self, key: str) -> None:
        """Forgets a token that no longer exists."""
        self._last.pop(key, None)
        self._unwritten.pop(key, None)
