"""Who really sent a request that came through proxies: X-Forwarded-For, -Proto and -Host, believed only where the peer
lies in a range that the operator named. Pure: addresses and header bytes in, values out.

A proxy adds the address of its own peer at the right end of X-Forwarded-For, and anybody can send what stands left of
that. So the list is read from the right, over the proxies that are trusted, to the first address that is not. The PROXY
protocol is not spoken; `speaks_proxy_protocol` recognises it, so that the refusal can say so.
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
"""Most proxies in a row that are looked at."""

_LONGEST: Final = 100
"""Characters of the longest entry that is read, and so remembered; an address has 45 at most."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_V1: Final = re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)\b")
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"


def _lines(name: str) -> re.Pattern[bytes]:
    """Finds a header's values behind a line end. ("^" would do for each line, and costs three times as much.)"""
    return re.compile(rb"\n%b:(.*)" % re.escape(name.encode()), re.IGNORECASE)


_FOR, _PROTO, _FORWARDED_HOST = (_lines(f"X-Forwarded-{what}") for what in ("For", "Proto", "Host"))


@dataclass(frozen=True, slots=True)
class Origin:
    """A request's sender, and the scheme and host that it asked for; None where no trusted proxy says."""

    address: str
    scheme: Literal["http", "https"] | None = None
    host: str | None = None


class ProxyTrust:
    """The ranges of addresses whose word counts."""

    def __init__(self, ranges: Iterable[Network] = ()) -> None:
        self._ranges = tuple(ranges)
        # The same clients come again and again, and reading an address costs more than all the rest.
        self._judge = lru_cache(maxsize=4096)(self._read)

    @classmethod
    def parse(cls, text: str) -> ProxyTrust:
        """Raises Invalid as `parse_ranges` does."""
        return cls(parse_ranges(text))

    def trusts(self, address: str) -> bool:
        """Whether a peer's headers count. One answer holds for a whole connection."""
        return self._judge(address)[1]

    def client(self, proxy: str, headers: bytes) -> str:
        """The address of a request's sender. `proxy` is the peer, which is trusted; `headers` the raw header block."""
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
        """Everything that is known of where a request came from; `peer` may be anybody."""
        if not self.trusts(peer):
            return Origin(peer)
        return Origin(self.client(peer, headers), _scheme(headers), _host(headers))

    def _read(self, text: str) -> tuple[str | None, bool]:
        """An entry's address, None where it is none, and whether it is trusted."""
        address = _address(text)
        if address is None:
            return None, False
        return str(address), any(address in network for network in self._ranges)


def speaks_proxy_protocol(head: bytes) -> bool:
    """Whether what came in place of a request's head is the PROXY protocol's first or second version. A head that was
    cut at its first empty line holds only the four bytes with which the second one begins."""
    return bool(_V1.match(head)) or head == _V2[:4] or head.startswith(_V2)


def parse_ranges(text: str) -> tuple[Network, ...]:
    """Of "127.0.0.1, 10.0.0.0/8 fd00::/8": addresses or ranges, with commas or blanks between. Raises Invalid."""
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
    """Of "192.0.2.1", "192.0.2.1:443", "2001:db8::1", "[2001:db8::1]" or "[2001:db8::1]:443"; None where it is none."""
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
    """The elements of a header's lists, in order over all its lines."""
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
