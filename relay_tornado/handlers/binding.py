"""Opens listening sockets on a host's addresses, and explains why one can't be opened."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any, Final

import structlog

from relay_tornado.errors import NO_DESCRIPTOR, StartupError

BACKLOG: Final = 1024

_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "another program listens there (`ss -ltnp` shows which): stop it, or choose another with {flags}",
    errno.EACCES: "ports below 1024 are root's: choose another with {flags}, or have systemd listen (relay.socket)",
    errno.EADDRNOTAVAIL: "this machine has no such address (`ip address` shows which it has): choose one with {flags}",
    errno.EAFNOSUPPORT: "this machine has no such addresses: choose another with {flags}",
    errno.EMFILE: NO_DESCRIPTOR,
    errno.ENFILE: NO_DESCRIPTOR,
}
_ALL: Final = ("0.0.0.0", "::")  # noqa: S104 - it is compared with
"""The addresses that stand for all of their family."""

_log = structlog.get_logger(__name__)


def listen(host: str, port: int, flags: str) -> list[socket.socket]:
    """Returns sockets that listen on every address of a host that this machine has, all on one port. An error names
    `flags` as the way to choose another address.

    Raises StartupError.
    """
    sockets, lacking = _open(host, port, flags, listening=True)
    for name, reason in lacking.items():
        _log.warning("address_not_here", host=host, address=name, reason=reason.strerror, consequence="it is left out")
    return sockets


def check(host: str, port: int, flags: str) -> None:
    """Raises the StartupError that `listen` would raise now. Nobody can connect meanwhile."""
    sockets, _ = _open(host, port, flags, listening=False)
    for bound in sockets:
        bound.close()


def overlap(host: str, other: str) -> bool:
    """Whether the hosts have an address in common, so that no two sockets can listen on one port of both. False if an
    address can't be found out."""
    try:
        ours, theirs = (
            {
                (found[0], found[4][0])
                for found in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            }
            for name in (host, other)
        )
    except OSError:
        return False
    return any(
        family == another and (address == taken or not {address, taken}.isdisjoint(_ALL))
        for family, address in ours
        for another, taken in theirs
    )


def _open(host: str, port: int, flags: str, *, listening: bool) -> tuple[list[socket.socket], Mapping[str, OSError]]:
    """Returns sockets that are bound to the host's addresses, and the addresses that this machine does not have."""
    sockets: list[socket.socket] = []
    lacking: dict[str, OSError] = {}
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                bound = _bind(family, kind, protocol, (address[0], port, *address[2:]), listening=listening)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                lacking[str(address[0])] = error
            else:
                sockets.append(bound)
                port = bound.getsockname()[1]
        if not sockets:
            raise next(iter(lacking.values()))
    except OSError as error:
        for bound in sockets:
            bound.close()
        advice = _ADVICE.get(error.errno or 0, "choose another with {flags}").format(flags=flags)
        raise StartupError(f"can't listen on {host} port {port}: {error.strerror or error}; {advice}") from error
    return sockets, lacking


def _bind(family: int, kind: int, protocol: int, address: Any, *, listening: bool) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        if listening:
            bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound
