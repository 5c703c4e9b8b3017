"""Keeps connections for a moment that end with an answer while the peer still sends.

Closed at once, the kernel would reset such a connection, and the peer would never read the answer.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from tornado.ioloop import IOLoop

TIME = 10.0
BYTES = 20 << 20
"""More than the largest body that REST accepts: some clients read the answer only after sending everything."""

_READ_SIZE = 32 << 10


class Lingering:
    """Reads and drops what arrives on these connections, for up to `TIME` seconds and `BYTES` bytes each."""

    def __init__(self, closed: Callable[[], None]) -> None:
        """`closed` is called whenever one is closed."""
        self._told = closed
        self._loop = IOLoop.current()
        self._left: dict[socket.socket, int] = {}
        self._deadlines: dict[socket.socket, float] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, connection: socket.socket, words: bytes = b"") -> None:
        """Keeps the connection open, on a descriptor of its own, after its owner closes it. `words` are sent as they
        are, past any TLS; nothing is sent after them."""
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
        self._left[copy] = BYTES
        self._deadlines[copy] = time.monotonic() + TIME
        self._loop.add_handler(copy, self._discard, IOLoop.READ)

    def sweep(self, now: float) -> None:
        """Closes those whose time is over."""
        for connection in [each for each, deadline in self._deadlines.items() if deadline < now]:
            self._close(connection)

    def close(self) -> None:
        """Closes them all."""
        for connection in tuple(self._left):
            self._close(connection)

    def _discard(self, connection: socket.socket, events: int) -> None:
        # Reads everything available: uvloop reports a reset connection only once, even if data before the reset is
        # still to be read.
        while connection in self._left:
            try:
                size = len(connection.recv(_READ_SIZE))
            except BlockingIOError:
                return
            except OSError:
                size = 0
            self._left[connection] -= size
            if size == 0 or self._left[connection] < 0:
                self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._left[connection], self._deadlines[connection]
        self._loop.remove_handler(connection)
        connection.close()
        self._told()
