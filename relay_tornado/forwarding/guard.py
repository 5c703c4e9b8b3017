"""Decides which addresses the relay calls for an output: public or allowed by the operator, and never its own.

An address is checked after the name has been resolved, in whatever form it was written (decimal, octal, a name with
several addresses), and exactly the checked addresses are dialled: no name is looked up again in between. If one address
of a name must not be called, the name is refused, whatever its other addresses are.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from relay_tornado.outgoing.lacks import is_lack
from relay_tornado.outgoing.names import Resolver, Socket, numeric
from relay_tornado.proxy_trust import Address, Network

_NEVER: Final = tuple(
    ip_network(each)
    for each in (
        # In addition to `is_global`, which differs between versions of Python, and including tunnels to IPv4.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
        *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)

_UNICAST: Final = IPv6Network("2000::/3")
"""The part of IPv6 that is allocated as public."""


class Refused(Exception):
    """The relay does not call this destination. The message says why, and how to allow it."""


class Guard:
    """Checks addresses. `allowed` are ranges that may be called although they are not public."""

    def __init__(self, allowed: Iterable[Network] = (), own: Callable[[], Collection[tuple[str, int]]] = tuple) -> None:
        """`own` returns the addresses (any local one: "") and ports that this relay listens on now."""
        self._allowed = tuple(allowed)
        self._own = own

    def judge(self, host: str, port: int) -> None:
        """Checks a numeric address from a resolver. Raises Refused, and OSError if the system has no means to find out
        whose it is."""
        try:
            address = _unwrapped(ip_address(host))
        except ValueError:
            raise Refused(f"{host!r} is no address") from None
        if address.is_unspecified or address.is_multicast:
            raise Refused(f"{address} is no single host's address")
        if self._listens(address, port):
            raise Refused(f"{address} port {port} is this relay itself: it would send events to itself without end")
        if any(_within(address, each) for each in self._allowed):
            return
        outside = address.version == 6 and address not in _UNICAST
        if outside or not address.is_global or any(_within(address, each) for each in _NEVER):
            raise Refused(
                f"{address} is not a public address: --forward-allow of `relay serve` names the ranges that may be "
                "called"
            )

    def _listens(self, address: Address, port: int) -> bool:
        for host, its_port in self._own():
            if its_port != port:
                continue
            if host:
                try:
                    own = _unwrapped(ip_address(host))
                except ValueError:
                    own = None
                if own is not None and not own.is_unspecified:
                    if own == address:
                        return True
                    continue
            if _is_local(address):
                return True
        return False


class GuardedResolver(Resolver):
    """A resolver that returns only addresses that may be called; `resolve` raises Refused, and OSError."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    async def resolve(self, host: str, port: int) -> list[Socket]:
        """All addresses of the host, each checked."""
        found = await super().resolve(host, port)
        for _, address in found:
            self._guard.judge(str(address[0]), port)
        return found


def literal(host: str, port: int) -> list[str]:
    """The addresses of a host that need no look-up: of an address in any form, and of `localhost`."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return ["127.0.0.1"]
    try:
        return [str(address[0]) for _, address in numeric(host, port)]
    except (OSError, UnicodeError):
        return []


def _unwrapped(address: Address) -> Address:
    """The IPv4 address in an IPv4-mapped one; without a zone."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _is_local(address: Address) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        if is_lack(error):
            raise
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT)
    return True
