"""Derives the WebSocket's and REST's URLs from the URL that a user gives."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlsplit, urlunsplit

_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""OpenSSL's reasons for plain text in place of a handshake; which one it gives depends on its version."""

_SCHEMES = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}


@dataclass(frozen=True, slots=True)
class Address:
    """A relay's WebSocket URL, and the URL that its REST paths follow (it ends with /v1). The host is in ASCII."""

    socket: str
    rest: str

    @property
    def secure(self) -> bool:
        return self.socket.startswith("wss:")

    @property
    def local(self) -> bool:
        """Whether data sent there stays on this machine."""
        return urlsplit(self.socket).hostname in ("localhost", "127.0.0.1", "::1")

    def log(self, event_id: str) -> str:
        """The URL for the answer to this event."""
        return f"{self.rest}/logs/{quote(event_id, safe='')}"


def tls_trouble(error: OSError, url: str) -> tuple[str, bool]:
    """Why TLS failed at this URL, as a message for users, and whether it is certain that TLS is not spoken there: a
    server that only cuts the connection may be a proxy that restarts."""
    plain = f"http://{urlsplit(url).netloc}"
    if isinstance(error, ssl.SSLError) and error.reason in _PLAIN:
        return f"{url} does not speak HTTPS: try {plain}", True
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError):
        return f"{url} cut the connection: if it does not speak HTTPS, try {plain}", False
    return f"{url} can't be reached: {error}", False


def perhaps_tls(status: int, url: str) -> str:
    """What to try if something that is no relay answers this status at this URL, "" if nothing is known: 400 is what a
    server with TLS, a relay's or a proxy's, answers to plain HTTP."""
    parts = urlsplit(url)
    plain = _SCHEMES.get(parts.scheme) == "ws"
    return f"if it speaks HTTPS, try https://{parts.netloc}" if plain and status == HTTPStatus.BAD_REQUEST else ""


def parse_address(url: str) -> Address:
    """Accepts forms from `https://relay.example` to `wss://relay.example/v1/socket`. Raises ValueError."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme.lower())
    place = parts.netloc
    try:
        whole = bool(parts.hostname) and parts.port != 0
        if parts.hostname and not place.isascii():
            host = parts.hostname.encode("idna").decode()
            place = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError:
        whole = False
    if scheme is None or not whole or not url.isprintable():
        raise ValueError(f"{url!r} is not a URL like https://relay.example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the relay's URL has no user, password, query or fragment: key and secret go by themselves")
    base = parts.path.rstrip("/").removesuffix("/socket").removesuffix("/v1").rstrip("/")
    secure = scheme == "wss"
    return Address(
        urlunsplit((scheme, place, f"{base}/v1/socket", "", "")),
        urlunsplit(("https" if secure else "http", place, f"{base}/v1", "", "")),
    )
