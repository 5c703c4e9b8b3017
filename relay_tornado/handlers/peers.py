"""Counts the open connections of each address, so that one address leaves room for others."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.shares import exceeds


class Peers:
    """The open connections by the address at their other end, as `ProxyTrust.counted` has it."""

    def __init__(self, trust: ProxyTrust) -> None:
        self._open: Counter[str] = Counter()
        self._key = lru_cache(4096)(trust.counted)

    def crowds(self, peer: str, free: int) -> bool:
        """Whether another connection of this address would take more than its share; `free` is how many connections
        there may still be, this one among them."""
        key = self._key(peer)
        return key is not None and exceeds(self._open[key], 1, free - 1)

    def add(self, peer: str) -> None:
        """A connection of this address is open."""
        key = self._key(peer)
        if key is not None:
            self._open[key] += 1

    def remove(self, peer: str) -> None:
        """A connection that was added is closed."""
        key = self._key(peer)
        if key is not None:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
