"""Builds the request to the target from an event: its method, URL, headers and body as received."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from relay_tornado.client.event import EventData
from relay_tornado.errors import Invalid
from relay_tornado.outgoing.fields import NOT_FORWARDED, is_header, is_method
from relay_tornado.wire.destination import Destination, climbs, joined_paths, joined_queries, parse_new
from relay_tornado.wire.headers import named_by_connection

_FORBIDDEN_IN_TARGET = re.compile(rb"[\x00-\x20\x7f]")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Unsendable(Exception):
    """No HTTP request can be made of this event, however often it is tried; the message says why."""


class NoDestination(Unsendable):
    """The event's output has no usable destination; that can change."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to the server of `origin` ("http://host:port"). `method`, `target` (path and query) and `headers`
    are sent unchanged, never normalised. `dropped` names the event's headers that no request can have."""

    method: str
    origin: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    dropped: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path, for display."""
        return self.target.partition(b"?")[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Shape:
    """The rules for making requests of events.

    `url` is the target, "" for the destination of each event's own output. The path behind the input's URL is appended
    to the target's path, unless `lock_path`; an output's destination has it already, unless the output is locked. The
    event's query is appended to the target's own. `headers` replace the sender's of the same names; one with the value
    "" removes it.
    """

    url: str = ""
    lock_path: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """The target for display, without credentials and query."""
        if not self.url:
            return "the destinations of its outputs"
        return split_credentials(self.url)[0].partition("?")[0]

    def request(self, event: EventData) -> Request:
        """The request for an event. Raises Unsendable."""
        if not is_method(event.method.encode("utf-8", "replace")):
            raise Unsendable(f"the method {event.method[:40]!r} is none that HTTP allows")
        if self.url:
            url, path = self.url, b"" if self.lock_path else event.raw_path
        elif event.destination:
            url, path = _apart(event)
        else:
            raise NoDestination("its output has no destination: name a URL, or give the output a destination")
        if climbs(path):
            raise Unsendable("its path climbs out of the target's by '..'")
        try:
            base, credentials = split_credentials(url)
        except Unsendable as error:
            raise error if self.url else NoDestination(f"its output's destination: {error}") from None
        origin, target = _joined(base, path, event.raw_query)
        headers, dropped = self._headers(event, credentials)
        return Request(event.method, origin, target, headers, event.body, dropped)

    def _headers(self, event: EventData, credentials: str) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[str, ...]]:
        ours = {name.lower() for name, _ in self.headers}
        given = [(name.encode(), value.encode()) for name, value in self.headers if value]
        if credentials and "authorization" not in ours:
            ours.add("authorization")
            given.append((b"Authorization", credentials.encode()))
        sent = event.raw_headers
        left_out = NOT_FORWARDED | {name.encode() for name in ours} | named_by_connection(sent)
        fields: list[tuple[bytes, bytes]] = []
        dropped: list[str] = []
        for name, value in sent:
            if name.lower() in left_out:
                continue
            if is_header(name, value):
                fields.append((name, value))
            else:
                dropped.append(name.decode(errors="replace"))
        fields += given
        if event.body or "content-length" in event.headers or event.method in _WITH_BODY:
            fields.append((b"Content-Length", b"%d" % len(event.body)))
        return tuple(fields), tuple(dropped)


def split_credentials(url: str) -> tuple[str, str]:
    """A URL without its user and password, and the value of the Authorization header that these make ("" for none).
    Raises Unsendable if it is not the URL of an HTTP server."""
    scheme, mark, rest = url.partition("://")
    end = next((at for at, each in enumerate(rest) if each in "/?#"), len(rest))
    authority, tail = rest[:end], rest[end:]
    user, at, place = authority.rpartition("@")
    clean = f"{scheme}://{place}{tail}"
    try:
        parts = urlsplit(clean)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not mark or not fine or _FORBIDDEN_IN_TARGET.search(clean.encode("utf-8", "replace")):
        raise Unsendable(f"{clean[:200] if mark else url[:200]!r} is no URL like http://localhost:3000/hooks")
    try:
        place_of(f"{scheme}://{place}")
    except Invalid as error:
        raise Unsendable(error.problem) from None
    except ValueError:
        raise Unsendable(f"{place[:200]!r} is no host that can be looked up: look for a slip in its address") from None
    if not at:
        return clean, ""
    name, _, password = user.partition(":")
    return clean, "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode("ascii")


@lru_cache
def place_of(origin: str) -> Destination:
    """The server of an origin, if its host can be looked up: a name with labels of valid length, or a complete address.
    Raises Invalid, or ValueError."""
    place = parse_new(origin)
    if place.host.replace(".", "").isdigit():
        ip_address(place.host)
    return place


def _apart(event: EventData) -> tuple[str, bytes]:
    """An output's own URL, and the event's path that was appended to it."""
    url, path = event.destination, event.path
    at = url.find(path) if path else -1
    while at >= 0:
        own, tail = url[:at], url[at + len(path) :]
        if not re.search("[?#]", own) and tail[:1] in ("", "?", "#"):
            # When the path is appended, one slash is removed again.
            return f"{own}/{tail}", event.raw_path
        at = url.find(path, at + 1)
    return url, b""


def _joined(base: str, path: bytes, query: bytes) -> tuple[str, bytes]:
    """The origin and the request target of a URL, with path and query appended to its own."""
    address, mark, own = base.partition("#")[0].partition("?")
    scheme, _, rest = address.partition("://")
    place, slash, below = rest.partition("/")
    target = (slash + below).encode()
    if path:
        target = joined_paths(target, path)
    queries = joined_queries(own.encode(), query)
    target = (target or b"/") + (b"?" + queries if queries or mark else b"")
    if _FORBIDDEN_IN_TARGET.search(target):
        raise Unsendable("its path or query holds a character that a request line can't")
    return f"{scheme}://{place}", target
