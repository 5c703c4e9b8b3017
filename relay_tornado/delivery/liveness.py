"""Detects dead clients: a live one sends something, or its kernel acknowledges more of what was sent.

A plain timeout on pongs would disconnect a healthy client that reads slowly, since megabytes may be in the kernels'
buffers before the ping. A client that reads nothing acknowledges nothing once those are full.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_BYTES_ACKED: Final = 120
"""The offset of tcpi_bytes_acked (64 bits) in Linux's `struct tcp_info` (linux/tcp.h, since 4.2): after 8 bytes of
flags, 24 numbers of 32 bits and two of 64."""

_LOOKS: Final = 8
"""How often a client is looked at within the timeout; so it is found to be stuck at most an eighth too late."""
_LATE: Final = 4
"""A look is late if it comes later than its time by more than such a part of the time between two looks."""


def acknowledged(connection: socket.socket) -> int | None:
    """How many bytes the other side's kernel has acknowledged, through TLS too; None if that is not known."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])
    except (OSError, AttributeError, struct.error):
        return None


class Liveness:
    """One client's signs of life. Times are seconds of a monotonic clock."""

    __slots__ = ("_acknowledged", "_asked", "_last", "_spared", "_timeout", "due")

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._last = now
        self._acknowledged = 0
        self._asked: float | None = None
        self._spared = False
        self.due = now + timeout / _LOOKS
        """When `stuck` is to be called next."""

    def heard(self, now: float) -> None:
        """A frame came from the client."""
        self._last = now
        self._asked = None

    def asked(self, now: float) -> None:
        """A ping was sent, so there is something to answer."""
        if self._asked is None:
            self._asked = now

    def stuck(self, now: float, acknowledged: int | None) -> bool:
        """Whether there was no sign of life within the timeout, and a ping had a quarter of it to be answered. A look
        that comes late finds none, since what the client sent may not be read yet; the next one is after an eighth."""
        pause = self._timeout / _LOOKS
        late = now - self.due > pause / _LATE
        self.due = now + pause
        if acknowledged is not None and acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            self.heard(now)
        self._spared = late and not self._spared  # not twice in a row, however slow the loop is
        if self._spared:
            return False
        if self._asked is None or now - self._asked < self._timeout / 4:
            return False
        return now - self._last >= self._timeout
