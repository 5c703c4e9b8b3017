"""Keeps connections for a moment that end with an answer while the peer still sends.

Closed at once, the kernel would reset such a connection, and the peer would never read the answer.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tornado.ioloop import IOLoop

TIME = 10.0
BYTES = 20 << 20
"""More than the largest body that REST accepts: some clients read the answer only after sending everything."""

_READ_SIZE = 32 << 10


@dataclass(slots=True)
class _Kept:
    """The address at the other end of a connection, until when it is kept, and how many bytes are still read."""

    peer: str
    deadline: float
    left: int


class Lingering:
    """Reads and drops what arrives on these connections, for up to `TIME` seconds and `BYTES` bytes each."""

    def __init__(self, opened: Callable[[str], None], closed: Callable[[str], None]) -> None:
        """`opened` is called with the address at the other end of each connection that is kept, `closed` when it is
        closed."""
        self._opened = opened
        self._closed = closed
        self._loop = IOLoop.current()
        self._kept: dict[socket.socket, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, connection: socket.socket, peer: str, words: bytes = b"") -> None:
        """Keeps the connection open, on a descriptor of its own, after its owner closes it. `peer` is the address at
        its other end. `words` are sent as they are, past any TLS; nothing is sent after them."""
        try:
            # connection.dup() is not available for TLS. What arrives is dropped, so encryption does not matter.
            copy = socket.socket(fileno=os.dup(connection.fileno()))
        except OSError:
            return
        try:
            copy.setblocking(False)
            if words:
                copy.send(words)
            copy.shutdown(socket.SHUT_WR)
        except OSError:
            copy.close()
            return
        kept = _Kept(peer, time.monotonic() + TIME, BYTES)
        self._opened(peer)
        try:
            self._kept[copy] = kept
        except MemoryError:
            self._closed(peer)
            raise
        try:
            self._loop.add_handler(copy, self._discard, IOLoop.READ)
        except OSError:  # the kernel watches no more files
            self._close(copy)

    def sweep(self, now: float) -> None:
        """Closes those whose time is over."""
        for connection in [each for each, kept in self._kept.items() if kept.deadline < now]:
            self._close(connection)

    def close(self) -> None:
        """Closes them all."""
        for connection in tuple(self._kept):
            self._close(connection)

    def _discard(self, connection: socket.socket, events: int) -> None:
        # Reads everything available: uvloop reports a reset connection only once, even if data before the reset is
        # still to be read.
        while (kept := self._kept.get(connection)) is not None:
            try:
                size = len(connection.recv(_READ_SIZE))
            except BlockingIOError:
                return
            except OSError:
                size = 0
            kept.left -= size
            if size == 0 or kept.left < 0:
                self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        peer = self._kept.pop(connection).peer
        self._loop.remove_handler(connection)
        connection.close()
        self._closed(peer)
