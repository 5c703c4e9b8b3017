"""Whether a client is alive: it said something, or its side has acknowledged more of what was sent.

A plain time-out on pongs would cut off a healthy client that is slow to read, since megabytes may lie before the ping
in the kernels' buffers. A client that reads nothing at all acknowledges nothing once those are full.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_BYTES_ACKED: Final = 120
"""Where Linux's `struct tcp_info` (linux/tcp.h, since 4.2) has tcpi_bytes_acked, 64 bits: after 8 bytes of flags,
24 numbers of 32 bits and two of 64."""

_LOOKS: Final = 8
"""How often in the time-out a client is looked at, and so how late it may be found to be stuck: by an eighth."""


def acknowledged(connection: socket.socket) -> int | None:
    """How many bytes the other side's kernel has acknowledged, through TLS too; None where nobody can tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])
    except (OSError, AttributeError, struct.error):
        return None


class Liveness:
    """One client's signs of life. Times are seconds of a clock that never goes back."""

    __slots__ = ("_acknowledged", "_asked", "_last", "_timeout", "due")

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._last = now
        self._acknowledged = 0
        self._asked: float | None = None
        self.due = now + timeout / _LOOKS
        """When `stuck` wants to be asked next."""

    def heard(self, now: float) -> None:
        """A frame came from the client."""
        self._last = now
        self._asked = None

    def asked(self, now: float) -> None:
        """A ping was sent, so that there is something to answer."""
        if self._asked is None:
            self._asked = now

    def stuck(self, now: float, acknowledged: int | None) -> bool:
        """Whether there was no sign of life for the time-out, and a ping has had a quarter of it to be answered."""
        self.due = now + self._timeout / _LOOKS
        if acknowledged is not None and acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            self.heard(now)
        if self._asked is None or now - self._asked < self._timeout / 4:
            return False
        return now - self._last >= self._timeout
