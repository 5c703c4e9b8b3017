"""When each token was last used: noted in memory, to the minute, as that happens on the way of everything."""

from __future__ import annotations

from typing import Final

GRANULARITY: Final = 60.0
"""Seconds within which a further use of the same token is not noted."""


class Uses:
    """Times are unix seconds. What is noted here is gone with the process: see `registry.sqlite_uses`."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}

    def note(self, key: str, now: float) -> None:
        """The token with this key is used now."""
        # A clock that was put back makes a time that is to come; the next use mends it.
        if not 0 <= now - self._last.get(key, 0) < GRANULARITY:
            self._last[key] = self._unwritten[key] = int(now)

    def last(self, key: str) -> int | None:
        """When that was; None for never, as far as anybody knows."""
        return self._last.get(key)

    def forget(self, key: str) -> None:
        """There is no such token any more."""
        self._last.pop(key, None)
        self._unwritten.pop(key, None)
