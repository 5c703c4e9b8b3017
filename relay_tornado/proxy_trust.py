"""The real sender of a request behind proxies, by X-Forwarded-For, -Proto and -Host, which are used only if the peer is
in a range that the operator configured. Pure: addresses and header bytes in, values out.

A proxy appends its peer's address to X-Forwarded-For, and anybody can send the entries before it. So the list is read
from the right, past the trusted proxies, to the first address that is not trusted. The PROXY protocol is not supported;
`speaks_proxy_protocol` recognises it, so that the refusal can say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, TypeAlias

from relay_tornado.errors import Invalid

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_HOPS: Final = 32
"""The most proxies in a row that are looked at."""

_LONGEST: Final = 100
"""Characters of the longest entry that is read and cached; an address has 45 at most."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_V1: Final = re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)\b")
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"


def _lines(name: str) -> re.Pattern[bytes]:
    """A pattern for a header's values after a line end. ("^" would find each line, too, but costs three times as
    much.)"""
    return re.compile(rb"\n%b:(.*)" % re.escape(name.encode()), re.IGNORECASE)


_FOR, _PROTO, _FORWARDED_HOST = (_lines(f"X-Forwarded-{what}") for what in ("For", "Proto", "Host"))


@dataclass(frozen=True, slots=True)
class Origin:
    """A request's sender, and the scheme and host that it was sent to; None if no trusted proxy says."""

    address: str
    scheme: Literal["http", "https"] | None = None
    host: str | None = None


class ProxyTrust:
    """The address ranges of trusted proxies."""

    def __init__(self, ranges: Iterable[Network] = ()) -> None:
        self._ranges = tuple(ranges)
        # The same clients send again and again, and parsing an address costs more than everything else.
        self._judge = lru_cache(maxsize=4096)(self._read)

    @classmethod
    def parse(cls, text: str) -> ProxyTrust:
        """Raises Invalid as `parse_ranges` does."""
        return cls(parse_ranges(text))

    def trusts(self, address: str) -> bool:
        """Whether the peer's headers are used. The result holds for a whole connection."""
        return self._judge(address)[1]

    def counted(self, address: str) -> str | None:
        """The key under which connections from this address are counted, see `counted_address`; None if they are not
        counted, as those of a trusted proxy: many clients have its address."""
        return None if self.trusts(address) else counted_address(address)

    def client(self, proxy: str, headers: bytes) -> str:
        """The address of a request's sender. `proxy` is the peer, a trusted one; `headers` is the raw header block."""
        client = proxy
        for entry in _entries(_FOR, headers)[: -MAX_HOPS - 1 : -1]:
            if len(entry) > _LONGEST:
                break
            address, trusted = self._judge(entry)
            if address is None:
                break
            client = address
            if not trusted:
                break
        return client

    def origin(self, peer: str, headers: bytes) -> Origin:
        """Everything known of a request's origin; `peer` need not be trusted."""
        if not self.trusts(peer):
            return Origin(peer)
        return Origin(self.client(peer, headers), _scheme(headers), _host(headers))

    def _read(self, text: str) -> tuple[str | None, bool]:
        """An entry's address (None if it is not one), and whether it is trusted."""
        address = _address(text)
        if address is None:
            return None, False
        return str(address), any(address in network for network in self._ranges)


def counted_address(text: str) -> str | None:
    """The key under which a client's address is counted: an IPv6 address counts with all of its /64; None for loopback,
    which is not counted."""
    address = _address(text)
    if address is None or address.is_loopback:
        return None
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def speaks_proxy_protocol(head: bytes) -> bool:
    """Whether `head`, in place of a request's head, is the PROXY protocol's, version 1 or 2. If it was cut at its first
    empty line, only the first four bytes of version 2 are left."""
    return bool(_V1.match(head)) or head == _V2[:4] or head.startswith(_V2)


def parse_ranges(text: str) -> tuple[Network, ...]:
    """Parses addresses and ranges separated by commas or blanks: "127.0.0.1, 10.0.0.0/8 fd00::/8". Raises Invalid."""
    return tuple(_network(part) for part in re.split(r"[,\s]+", text) if part)


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise Invalid(f"{text!r} is not {_meant(text)}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


def _meant(text: str) -> str:
    try:
        return (
            f"a range, for it has bits behind its prefix: write {ip_network(text, strict=False)}, or the address alone"
        )
    except ValueError:
        return "an address or a range like 10.0.0.0/8 or fd00::/8"


def _address(text: str) -> Address | None:
    """Parses "192.0.2.1", "192.0.2.1:443", "2001:db8::1", "[2001:db8::1]" or "[2001:db8::1]:443"; None for another
    text."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _entries(pattern: re.Pattern[bytes], headers: bytes) -> list[str]:
    """The elements of a header's lists, in order, over all its lines."""
    found = pattern.findall(b"\n" + headers)
    if not found:
        return []
    elements = b",".join(found).decode("latin-1").split(",")
    stripped = (element.strip(' \t\r"') for element in elements)
    return [element for element in stripped if element]


def _scheme(headers: bytes) -> Literal["http", "https"] | None:
    match _entries(_PROTO, headers)[-1:]:
        case [word] if word.lower() in ("https", "wss"):
            return "https"
        case [word] if word.lower() in ("http", "ws"):
            return "http"
    return None


def _host(headers: bytes) -> str | None:
    match _entries(_FORWARDED_HOST, headers)[-1:]:
        case [host] if _HOST.fullmatch(host):
            return host
    return None
