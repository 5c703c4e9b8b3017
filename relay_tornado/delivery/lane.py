"""What the pass after a commit looks at of each subscriber.

It lies in one object, because there are thousands, and nothing that belongs to them has been used since the last event:
each further object that the pass looks at is one more wait for memory, and those waits took most of its time.
"""

from __future__ import annotations

import socket


class Lane:
    """`busy`: nothing may be sent past the subscriber: its own task is at work, or it has not begun, or it has ended.
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
