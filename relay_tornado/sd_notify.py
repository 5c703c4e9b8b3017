"""sd_notify(3): messages to the service manager, over the socket that it names; and whether it has the log. A module of
its own, as it is used before the rest of the program is loaded."""

from __future__ import annotations

import os
import socket
from typing import IO, Final

_TIMEOUT: Final = 0.5
"""Seconds to wait for room in the service manager's queue, which is hardly ever full."""


def send(address: str, state: str) -> None:
    """Sends lines like READY=1 to the address in NOTIFY_SOCKET; nothing if that is "". Raises OSError."""
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.settimeout(_TIMEOUT)
        out.sendto(state.encode(), address)


def in_journal(stream: IO[str]) -> bool:
    """Whether the stream goes to systemd's journal, which reads a line's level from its beginning (sd-daemon(3))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file, or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
