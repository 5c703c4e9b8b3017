"""What delivery needs of a socket: where it writes to, and what its pass after a commit looks at."""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import Protocol, TypeAlias

Frames: TypeAlias = bytes | bytearray
"""Whole WebSocket frames, one or several joined. Nobody changes them once they were given to an outlet."""


class OutletClosed(Exception):
    """The socket is closed or closing; nothing can be written any more."""


class Outlet(Protocol):
    """Takes whole WebSocket frames, one or several joined, in the order of the calls."""

    def send_now(self, data: bytes) -> bool:
        """Gives the data to the kernel, or a part of it where the rest is buffered; False where an earlier rest is
        still buffered or the socket is closed, and nothing was taken."""

    def send_rest(self, data: memoryview) -> None:
        """Takes the rest of what the socket of its lane took a part of."""

    def write(self, data: Frames) -> Awaitable[None]:
        """Writes, beginning at once; done when the kernel has taken everything. Raises OutletClosed, at once or
        when awaited; who does not await it has no warning."""

    def gap_refused(self) -> None:
        """Events are missing for a client that asked for on_gap "fail", and it has been told."""

    def unavailable(self, reason: str) -> None:
        """Delivery can't go on now; the client should come back later."""


class Lane:
    """What the pass after a commit looks at of each subscriber.

    It lies in one object, because there are thousands, and nothing that belongs to them has been used since the last
    event: each further object that the pass looks at is one more wait for memory, which took most of its time.

    `busy`: nothing may be sent past the subscriber: its own task is at work, or it has not begun, or it has ended.
    `apart`: what it gets is not what others get, so that nothing that the pass makes is for it. `max_body` is the size
    of the largest body that it takes, None where any is.

    `socket` is where whole frames may go at once, past the outlet; None where they can't, because a part of what was
    written before waits there, or because it is no plain WebSocket.
    """

    __slots__ = ("apart", "busy", "max_body", "socket")

    def __init__(self, *, apart: bool, max_body: int | None) -> None:
        self.busy = True
        self.apart = apart
        self.max_body = max_body
        self.socket: socket.socket | None = None
