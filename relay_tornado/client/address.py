"""From the URL that a person gives to the WebSocket and to REST."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

_SCHEMES = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}


@dataclass(frozen=True, slots=True)
class Address:
    """A relay's WebSocket URL, and the URL that its REST paths follow (it ends with /v1)."""

    socket: str
    rest: str

    @property
    def secure(self) -> bool:
        return self.socket.startswith("wss:")

    @property
    def local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return urlsplit(self.socket).hostname in ("localhost", "127.0.0.1", "::1")

    def log(self, event_id: str) -> str:
        """Where the answer to this event goes."""
        return f"{self.rest}/logs/{quote(event_id, safe='')}"


def parse_address(url: str) -> Address:
    """`https://relay.example`, `wss://relay.example/v1/socket` and what lies between. Raises ValueError."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname or not url.isprintable():
        raise ValueError(f"{url!r} is not a URL like https://relay.example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the relay's URL has no user, password, query or fragment: key and secret go by themselves")
    base = parts.path.rstrip("/").removesuffix("/socket").removesuffix("/v1").rstrip("/")
    secure = scheme == "wss"
    return Address(
        urlunsplit((scheme, parts.netloc, f"{base}/v1/socket", "", "")),
        urlunsplit(("https" if secure else "http", parts.netloc, f"{base}/v1", "", "")),
    )
