"""The interface to systemd: sd_notify(3) and sd_listen_fds(3).

It takes a few lines over a socket and some variables, which are stable since 2013. Without systemd nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from typing import Final

import structlog

from relay_tornado import sd_notify

_FIRST_DESCRIPTOR: Final = 3

_log = structlog.get_logger(__name__)


class Notifier:
    """Reports the relay's state to the service manager. Removes its variables from `environ`, so that no child process
    can report in its name."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        ours = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        self.watchdog: float | None = int(usec) / 1e6 if ours and self._address else None
        """Seconds within which the service manager expects a sign of life; None if it expects none."""

    def ready(self, status: str) -> None:
        """The relay serves, and later units of the boot may start. `status`: one line for `systemctl status`."""
        self.send("READY=1\nSTATUS=" + " ".join(status.split()))

    def stopping(self, within: float) -> None:
        """The relay ends within so many seconds. The service manager waits for that, if it would not anyway."""
        self.send(f"STOPPING=1\nSTATUS=stopping, within {within:.0f} s\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def alive(self) -> None:
        self.send("WATCHDOG=1")

    async def keep_alive(self) -> None:
        """Sends signs of life, if they are expected, until it is cancelled. Runs in the event loop, so a stuck loop
        ends them. Whether events can be committed does not matter: a restart would free no disk space."""
        if self.watchdog is None:
            return
        while True:
            self.alive()
            await asyncio.sleep(self.watchdog / 3)

    def send(self, state: str) -> None:
        """Sends lines of sd_notify(3). If that fails, it is logged."""
        try:
            sd_notify.send(self._address, state)
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
