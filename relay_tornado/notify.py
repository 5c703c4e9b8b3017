"""The interface to systemd: sd_notify(3), sd_listen_fds(3) and the journal.

It takes a few lines over a socket and some variables, which are stable since 2013 (the journal's since 2017). Without
systemd nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from typing import IO, Final

import structlog

_FIRST_DESCRIPTOR: Final = 3
_SEND_TIMEOUT: Final = 0.5
"""Seconds to wait for room in the service manager's queue, which is hardly ever full."""

_log = structlog.get_logger(__name__)


class Notifier:
    """Reports the relay's state to the service manager. Removes its variables from `environ`, so that no child process
    can report in its name."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        ours = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        self.watchdog: float | None = int(usec) / 1e6 if ours and self._address else None
        """Seconds within which the service manager expects a sign of life; None if it expects none."""

    def ready(self, status: str) -> None:
        """The relay serves, and later units of the boot may start. `status`: one line for `systemctl status`."""
        self._send("READY=1\nSTATUS=" + " ".join(status.split()))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Moves the timeout of a start or stop to `seconds` from now, for a migration or a long drain. Has to be called
        again before that."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    async def keep_alive(self) -> None:
        """Sends signs of life, if they are expected, until it is cancelled. Runs in the event loop, so a stuck loop
        ends them. Whether events can be committed does not matter: a restart would free no disk space."""
        if self.watchdog is None:
            return
        while True:
            self.alive()
            await asyncio.sleep(self.watchdog / 3)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(_SEND_TIMEOUT)
                out.sendto(state.encode(), self._address)
        except OSError as error:
            _log.warning("service_manager_not_told", state=state.partition("\n")[0], error=str(error))


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that the service manager opened for this process (socket activation), ready for an event
    loop; empty if there are none. A second call returns none."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
        inherited.setblocking(False)
        sockets.append(inherited)
    return sockets


def in_journal(stream: IO[str]) -> bool:
    """Whether the stream goes to systemd's journal, which reads a line's level from its beginning (sd-daemon(3))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file, or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
