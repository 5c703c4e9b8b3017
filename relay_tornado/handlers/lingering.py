"""Connections that end with an answer on them and unread data behind it, kept for a moment.

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
"""More than the largest body that REST takes: some clients look for the answer only when they have sent everything."""

_READ_SIZE = 32 << 10


class Lingering:
    """Reads what still comes on these connections and drops it, for up to `TIME` seconds and `BYTES` bytes each."""

    def __init__(self, closed: Callable[[], None]) -> None:
        """`closed` is called when one is closed."""
        self._told = closed
        self._loop = IOLoop.current()
        self._left: dict[socket.socket, int] = {}
        self._deadlines: dict[socket.socket, float] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, connection: socket.socket, words: bytes = b"") -> None:
        """Keeps the connection open, on a descriptor of its own, when its owner closes it; nothing is sent after the
        words, which go out as they are, past any TLS."""
        try:
            # connection.dup() is not there for TLS; what still comes is dropped, encrypted or not.
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
        # To the end of what is there: uvloop tells once of a connection that was reset, whatever is still to be read
        # before the reset is.
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
