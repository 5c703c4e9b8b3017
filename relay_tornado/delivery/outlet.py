"""What delivery needs of a socket: the outlet it writes to, and the lane that the pass after a commit looks at."""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import Protocol, TypeAlias

Frames: TypeAlias = bytes | bytearray
"""One or more complete WebSocket frames, joined. Not changed after they were passed to an outlet."""


class OutletClosed(Exception):
    """The socket is closed or closing; nothing can be written any more."""


class Outlet(Protocol):
    """Takes complete WebSocket frames, one or more joined, in the order of the calls."""

    def send_now(self, data: bytes) -> bool:
        """Passes the data to the kernel, and buffers what it does not take. Returns False, and takes nothing, if an
        earlier rest is still buffered or the socket is closed."""

    def send_rest(self, data: memoryview) -> None:
        """Takes the rest of data that the lane's socket took in part."""

    def write(self, data: Frames) -> Awaitable[None]:
        """Begins to write at once; the result is done when the kernel has taken everything. Raises OutletClosed, at
        once or when awaited. If the result is dropped, there is no warning."""

    def gap_refused(self) -> None:
        """A client that asked for on_gap "fail" misses events, and has been told."""

    def unavailable(self, reason: str) -> None:
        """Delivery can't continue now; the client should come back later."""


class Lane:
    """What the pass after a commit looks at of each subscriber.

    It is one object, since there are thousands of subscribers whose data is no longer in the processor's cache: each
    further object is one more wait for memory, which took most of the pass's time.

    `busy`: the pass must not send: the delivery's task is at work, or it has not begun, or it has ended. `apart`: it
    does not get what the others get, so the pass's data is not for it. `max_body` is the size of the largest body that
    it takes; None if any.

    `socket` takes complete frames directly, bypassing the outlet; None while the outlet has data buffered, or if it is
    not a plain WebSocket.
    """

    __slots__ = ("apart", "busy", "max_body", "socket")

    def __init__(self, *, apart: bool, max_body: int | None) -> None:
        self.busy = True
        self.apart = apart
        self.max_body = max_body
        self.socket: socket.socket | None = None
