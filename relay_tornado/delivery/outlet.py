"""What delivery needs of a socket, so that it knows none."""

from __future__ import annotations

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
        """Takes the rest of what the socket of its lane took a part of (`delivery.lane`)."""

    def write(self, data: Frames) -> Awaitable[None]:
        """Writes, beginning at once; done when the kernel has taken everything. Raises OutletClosed, at once or
        when awaited; who does not await it has no warning."""

    def gap_refused(self) -> None:
        """Events are missing for a client that asked for on_gap "fail", and it has been told."""

    def unavailable(self, reason: str) -> None:
        """Delivery can't go on now; the client should come back later."""
