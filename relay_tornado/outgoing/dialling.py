"""Connects to the first of several addresses that answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any, Final, cast

from aiohappyeyeballs import start_connection

from relay_tornado.outgoing.names import Socket

_NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address of a name is tried in parallel."""


class _Loop:
    """The part of a loop that `start_connection` uses. uvloop's own `sock_connect` looks every address up again, in
    threads of libuv, which ends the process if one can't be started."""

    async def sock_connect(self, connecting: socket.socket, address: Any) -> None:
        """Raises OSError."""
        try:
            connecting.connect(address)
        except BlockingIOError:
            await _writable(connecting)
            if number := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None


async def _writable(connecting: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(connecting, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(connecting)


async def connect(addresses: Sequence[Socket]) -> socket.socket:
    """A connection over TCP. Raises OSError."""
    found = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in addresses]
    loop = cast(asyncio.AbstractEventLoop, _Loop())
    return await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS, loop=loop)
